/*
 * reactor.c - chooses a backend; submits, waits and dispatches on it. The half that is the same on
 * every system; a backend only fills reactor->events.
 */
#include "reactor/reactor.h"

#include "base/alloc.h"
#include "base/check.h"
#include "base/clock.h"
#include "reactor/socket_call.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS_MAX = PYL_TINY_LIMITS ? 4 : 1024, VERDICTS_MAX = 8 };

/* ---- choice ---- */

/* What a probe said, once per process: it costs system calls, and the answer does not change. */
struct verdict {
    bool is_known;
    int rc;
    char cause[PYL_REACTOR_CAUSE_SIZE];
};

/* tidy: global because the kernel is; by index in pyl_backends, guarded by the lock. */
static struct {
    pthread_mutex_t lock;
    struct verdict of[VERDICTS_MAX];
} verdicts = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int
backend_probe(size_t index, char *cause, size_t cause_size)
{
    PYL_CHECK(index < VERDICTS_MAX);
    pthread_mutex_lock(&verdicts.lock);
    struct verdict *verdict = &verdicts.of[index];
    if (!verdict->is_known) {
        verdict->rc = pyl_backends[index]->probe(verdict->cause, sizeof(verdict->cause));
        verdict->is_known = true;
    }
    int rc = verdict->rc;
    snprintf(cause, cause_size, "%s", verdict->cause);
    pthread_mutex_unlock(&verdicts.lock);
    return rc;
}

static int
refuse_name(const char *name, char *cause, size_t cause_size)
{
    static const char *const elsewhere[] = {"io_uring", "epoll", "kqueue"};
    for (size_t i = 0; i < sizeof(elsewhere) / sizeof(elsewhere[0]); i++) {
        if (strcmp(name, elsewhere[i]) == 0) {
            snprintf(cause, cause_size, "backend '%s' does not exist on this system", name);
            return -ENOSYS;
        }
    }
    snprintf(cause, cause_size, "unknown backend '%s': choose one of auto, io_uring, epoll, kqueue",
             name);
    return -EINVAL;
}

/* The name that was asked for; NULL for "auto". The program's choice goes before the
 * environment's. */
static const char *
requested_name(const char *option)
{
    const char *name = option;
    if (name == NULL || strcmp(name, "auto") == 0) {
        name = getenv("PYLOOP_BACKEND");
    }
    bool is_auto = name == NULL || name[0] == '\0' || strcmp(name, "auto") == 0;
    return is_auto ? NULL : name;
}

/* `option` is what the program said: only a program, never the environment, gets a simulation. */
static int
find_forced(const char *name, const char *option, size_t *ret_index, char *cause, size_t cause_size)
{
    for (size_t i = 0; pyl_backends[i] != NULL; i++) {
        bool is_allowed = name == option || !(pyl_backends[i]->features & PYL_BACKEND_SIMULATED);
        if (is_allowed && strcmp(pyl_backends[i]->name, name) == 0) {
            *ret_index = i;
            return backend_probe(i, cause, cause_size);
        }
    }
    return refuse_name(name, cause, cause_size);
}

/* Finds the first usable backend at or after *index. `cause` keeps why the first one was not. */
static int
find_auto(size_t *index, char *cause, size_t cause_size)
{
    for (; pyl_backends[*index] != NULL; (*index)++) {
        if (pyl_backends[*index]->features & PYL_BACKEND_SIMULATED) {
            continue;
        }
        char reason[PYL_REACTOR_CAUSE_SIZE];
        if (backend_probe(*index, reason, sizeof(reason)) == 0) {
            return 0;
        }
        if (cause[0] == '\0') {
            snprintf(cause, cause_size, "%s", reason);
        }
    }
    return -ENOSYS;
}

int
pyl_reactor_probe(const char *backend, char *cause, size_t cause_size)
{
    char unused[PYL_REACTOR_CAUSE_SIZE];
    if (cause == NULL || cause_size == 0) {
        cause = unused;
        cause_size = sizeof(unused);
    }
    cause[0] = '\0';
    size_t index = 0;
    const char *forced = requested_name(backend);
    if (forced != NULL) {
        return find_forced(forced, backend, &index, cause, cause_size);
    }
    return find_auto(&index, cause, cause_size);
}

/* ---- life ---- */

static int
backend_start(struct pyl_reactor *reactor, const struct pyl_backend_ops *ops,
              const struct pyl_reactor_options *options)
{
    reactor->ops = ops;
    int rc = ops->init(reactor, options);
    if (rc < 0) {
        ops->fini(reactor);
        reactor->ops = NULL;
    }
    return rc;
}

static int
start_forced(struct pyl_reactor *reactor, const struct pyl_reactor_options *options,
             const char *name, char *cause, size_t cause_size)
{
    size_t index;
    int rc = find_forced(name, options->backend, &index, cause, cause_size);
    if (rc < 0) {
        return rc;
    }
    rc = backend_start(reactor, pyl_backends[index], options);
    if (rc < 0) {
        snprintf(cause, cause_size, "%s could not be set up: %s", name, strerror(-rc));
    }
    return rc;
}

/* A backend that passed its probe may still find no memory or descriptors for the real thing. */
static int
start_auto(struct pyl_reactor *reactor, const struct pyl_reactor_options *options, char *cause,
           size_t cause_size)
{
    int first_error = -ENOSYS;
    for (size_t index = 0; find_auto(&index, cause, cause_size) == 0; index++) {
        int rc = backend_start(reactor, pyl_backends[index], options);
        if (rc == 0) {
            return 0;
        }
        if (first_error == -ENOSYS) {
            first_error = rc;
        }
        if (cause[0] == '\0') {
            snprintf(cause, cause_size, "%s could not be set up: %s", pyl_backends[index]->name,
                     strerror(-rc));
        }
    }
    return first_error;
}

static int
reactor_prepare(struct pyl_reactor *reactor, const struct pyl_reactor_options *options)
{
    *reactor = (struct pyl_reactor){0};
    pyl_list_init(&reactor->active_ops);
    pyl_waker_init(&reactor->waker);
    reactor->events_max = options->events_max > 0 ? options->events_max : EVENTS_MAX;
    reactor->events = pyl_alloc_array(reactor->events_max, sizeof(*reactor->events));
    return reactor->events != NULL ? 0 : -ENOMEM;
}

int
pyl_reactor_init_backend(struct pyl_reactor *reactor, const struct pyl_backend_ops *ops,
                         const struct pyl_reactor_options *options)
{
    int rc = reactor_prepare(reactor, options);
    if (rc < 0) {
        return rc;
    }
    rc = backend_start(reactor, ops, options);
    if (rc < 0) {
        pyl_free(reactor->events);
        *reactor = (struct pyl_reactor){0};
    }
    return rc;
}

int
pyl_reactor_init(struct pyl_reactor *reactor, const struct pyl_reactor_options *options,
                 char *cause, size_t cause_size)
{
    static const struct pyl_reactor_options defaults;
    char unused[PYL_REACTOR_CAUSE_SIZE];
    if (cause == NULL || cause_size == 0) {
        cause = unused;
        cause_size = sizeof(unused);
    }
    if (options == NULL) {
        options = &defaults;
    }
    cause[0] = '\0';
    int error = reactor_prepare(reactor, options);
    if (error < 0) {
        return error;
    }
    const char *forced = requested_name(options->backend);
    int rc = forced != NULL ? start_forced(reactor, options, forced, cause, cause_size)
                            : start_auto(reactor, options, cause, cause_size);
    if (rc < 0) {
        pyl_free(reactor->events);
        *reactor = (struct pyl_reactor){0};
    }
    return rc;
}

void
pyl_reactor_fini(struct pyl_reactor *reactor)
{
    if (reactor->ops != NULL) {
        PYL_CHECK(reactor->active_count == 0);
        reactor->ops->fini(reactor);
    }
    pyl_packets_fini(reactor);
    pyl_free(reactor->events);
    *reactor = (struct pyl_reactor){0};
}

/* Ends the backend without waiting for the ops, which become IDLE uncalled. */
static void
drop(struct pyl_reactor *reactor)
{
    while (!pyl_list_is_empty(&reactor->active_ops)) {
        struct pyl_op *op = PYL_CONTAINER_OF(reactor->active_ops.next, struct pyl_op, active);
        pyl_list_remove(&op->active);
        op->state = PYL_OP_IDLE;
    }
    reactor->active_count = 0;
    for (; pyl_reactor_has_events(reactor); reactor->event_next++) {
        const struct pyl_event *event = &reactor->events[reactor->event_next];
        if ((event->flags & PYL_EVENT_BUFFER) && !reactor->is_forked_child) {
            reactor->ops->release(reactor, event);
        }
    }
    reactor->event_count = 0;
    reactor->event_next = 0;
    reactor->ops->fini(reactor);
    reactor->ops = NULL;
}

void
pyl_reactor_drop(struct pyl_reactor *reactor)
{
    drop(reactor);
    pyl_reactor_fini(reactor);
}

void
pyl_reactor_abandon(struct pyl_reactor *reactor)
{
    if (reactor->ops != NULL) {
        reactor->is_forked_child = true;
        drop(reactor);
    }
}

/* ---- ops ---- */

void
pyl_reactor_submit(struct pyl_reactor *reactor, struct pyl_op *op)
{
    PYL_CHECK(op->state == PYL_OP_IDLE);
    op->state = PYL_OP_ACTIVE;
    pyl_list_append(&reactor->active_ops, &op->active);
    reactor->active_count++;
    pyl_counter_add(&reactor->stats.submissions, 1);
    reactor->ops->submit(reactor, op);
}

void
pyl_reactor_cancel(struct pyl_reactor *reactor, struct pyl_op *op)
{
    if (op->state != PYL_OP_ACTIVE) {
        return;
    }
    op->state = PYL_OP_CANCELLING;
    reactor->ops->cancel(reactor, op);
}

void
pyl_reactor_cancel_all(struct pyl_reactor *reactor)
{
    struct pyl_list *node = reactor->active_ops.next;
    for (; node != &reactor->active_ops; node = node->next) {
        pyl_reactor_cancel(reactor, PYL_CONTAINER_OF(node, struct pyl_op, active));
    }
}

void
pyl_reactor_forget(struct pyl_reactor *reactor, int fd)
{
    reactor->ops->forget(reactor, fd);
}

int64_t
pyl_reactor_send_now(struct pyl_reactor *reactor, int fd, const struct iovec *iov, int iov_count)
{
    return reactor->ops->send_now(reactor, fd, iov, iov_count);
}

int64_t
pyl_reactor_recv_now(struct pyl_reactor *reactor, int fd, void *buffer, size_t size)
{
    if (reactor->ops->recv_now != NULL) {
        return reactor->ops->recv_now(reactor, fd, buffer, size);
    }
    return pyl_socket_recv(fd, buffer, size);
}

int
pyl_reactor_shutdown_now(struct pyl_reactor *reactor, int fd)
{
    if (reactor->ops->shutdown_now != NULL) {
        return reactor->ops->shutdown_now(reactor, fd);
    }
    return shutdown(fd, SHUT_WR) == 0 ? 0 : -errno;
}

void
pyl_reactor_close_now(struct pyl_reactor *reactor, int fd)
{
    if (reactor->ops->close_now != NULL) {
        reactor->ops->close_now(reactor, fd);
    } else {
        (void)close(fd); /* after EINTR the fd is gone as well on every system we know */
    }
}

int64_t
pyl_reactor_now_ns(struct pyl_reactor *reactor)
{
    return reactor->ops->now_ns != NULL ? reactor->ops->now_ns(reactor) : pyl_clock_now_ns();
}

/* ---- wait and dispatch ---- */

int
pyl_reactor_wait(struct pyl_reactor *reactor, int64_t timeout_ns)
{
    PYL_DCHECK(!reactor->is_dispatching);
    if (pyl_reactor_has_events(reactor)) {
        return 0; /* what a stopped dispatch left goes first */
    }
    pyl_counter_add(&reactor->stats.waits, 1);
    return reactor->ops->wait(reactor, timeout_ns);
}

static void
event_deliver(struct pyl_reactor *reactor, const struct pyl_event *event)
{
    struct pyl_op *op = event->op;
    if ((event->flags & PYL_EVENT_MORE) == 0) {
        pyl_list_remove(&op->active);
        reactor->active_count--;
        op->state = PYL_OP_IDLE; /* the callback may submit it again, or free it */
    }
    pyl_counter_add(&reactor->stats.events, 1);
    op->on_complete(op, event);
    if (event->flags & PYL_EVENT_BUFFER) {
        reactor->ops->release(reactor, event);
    }
}

/* Returns whether a callback was run: the kernel may have had nothing for a READY event. */
static inline bool
dispatch_next(struct pyl_reactor *reactor)
{
    struct pyl_event *slot = &reactor->events[reactor->event_next];
    const struct pyl_event *event = slot;
    struct pyl_event performed;
    if (slot->flags & PYL_EVENT_READY) {
        event = reactor->ops->perform(reactor, slot, &performed) ? &performed : NULL;
    }
    if ((slot->flags & PYL_EVENT_READY) == 0) {
        reactor->event_next++;
    }
    if (event != NULL) {
        event_deliver(reactor, event);
    }
    return event != NULL;
}

static void
dispatch_begin(struct pyl_reactor *reactor)
{
    PYL_CHECK(!reactor->is_dispatching);
    reactor->is_dispatching = true;
    reactor->is_dispatch_stopped = false;
}

static void
dispatch_end(struct pyl_reactor *reactor)
{
    if (!pyl_reactor_has_events(reactor)) {
        reactor->event_count = 0;
        reactor->event_next = 0;
    }
    reactor->is_dispatching = false;
}

void
pyl_reactor_dispatch(struct pyl_reactor *reactor)
{
    dispatch_begin(reactor);
    while (pyl_reactor_has_events(reactor) && !reactor->is_dispatch_stopped) {
        (void)dispatch_next(reactor);
    }
    dispatch_end(reactor);
}

void
pyl_reactor_dispatch_watched(struct pyl_reactor *reactor,
                             void (*on_delivered)(struct pyl_reactor *))
{
    dispatch_begin(reactor);
    while (pyl_reactor_has_events(reactor) && !reactor->is_dispatch_stopped) {
        if (dispatch_next(reactor)) {
            on_delivered(reactor);
        }
    }
    dispatch_end(reactor);
}

void
pyl_reactor_stop_dispatch(struct pyl_reactor *reactor)
{
    reactor->is_dispatch_stopped = true;
}
