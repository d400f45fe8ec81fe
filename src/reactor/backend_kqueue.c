/*
 * backend_kqueue.c - readiness on macOS and the BSDs. What an op means is in readiness.c; here is
 * only how the kernel is told to watch an fd, and how it is waited for.
 *
 * Changes are batched and travel with the next wait, so their errors come as events. Uses what all
 * kqueues have in common: READ and WRITE, with EV_CLEAR, EV_ONESHOT or level-triggered, and USER
 * for wake-ups.
 *
 * Tested by tests/backend, on Linux over the emulation in tests/kqueue. No claim about speed.
 */
#include "base/alloc.h"
#include "base/clock.h"
#include "reactor/readiness.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/event.h>
#include <sys/time.h>
#include <unistd.h>

struct kqueue_backend {
    struct pyl_readiness readiness; /* first: see readiness.h */
    int kqueue_fd;
    struct kevent *changes; /* not yet told to the kernel; events_max of them */
    int change_count;
    struct kevent *kernel_events; /* events_max: room for the error of every change */
};

enum { WAKE_IDENT = 0 };

static struct kqueue_backend *
backend_of(struct pyl_reactor *reactor)
{
    return reactor->backend;
}

static int
kqueue_probe(char *cause, size_t cause_size)
{
    int fd = kqueue();
    if (fd < 0) {
        int error = errno;
        snprintf(cause, cause_size, "kqueue(2): %s", strerror(error));
        return -error;
    }
    close(fd);
    cause[0] = '\0';
    return 0;
}

/* ---- changes ---- */

static uint8_t
filter_direction(int filter)
{
    return filter == EVFILT_READ ? PYL_POLL_IN : PYL_POLL_OUT;
}

/* A change was refused. ENOENT: a removal that came too late, because closing an fd removes its
 * filters. */
static void
change_failed(struct pyl_reactor *reactor, const struct kevent *event)
{
    if (event->data != 0 && event->data != ENOENT) {
        pyl_readiness_report_error(reactor, (int)event->ident, (uint32_t)(uintptr_t)event->udata,
                                   filter_direction(event->filter), -(int)event->data);
    }
}

/* Tells the kernel without asking for events: EV_RECEIPT makes it answer each change and
 * nothing else. */
static void
changes_flush(struct pyl_reactor *reactor)
{
    struct kqueue_backend *backend = backend_of(reactor);
    for (int i = 0; i < backend->change_count; i++) {
        backend->changes[i].flags |= EV_RECEIPT;
    }
    int count = kevent(backend->kqueue_fd, backend->changes, backend->change_count,
                       backend->kernel_events, backend->change_count, NULL);
    backend->change_count = 0;
    for (int i = 0; i < count; i++) {
        change_failed(reactor, &backend->kernel_events[i]);
    }
}

static void
change_push(struct pyl_reactor *reactor, int fd, int filter, int flags, uint32_t generation)
{
    struct kqueue_backend *backend = backend_of(reactor);
    if (backend->change_count == (int)reactor->events_max) {
        changes_flush(reactor);
    }
    EV_SET(&backend->changes[backend->change_count++], (uintptr_t)fd, (short)filter,
           (unsigned short)flags, 0, 0, (void *)(uintptr_t)generation);
}

/* Always 0: the kernel's answer comes later, to change_failed(). */
static int
kqueue_watch(struct pyl_reactor *reactor, int fd, const struct pyl_ready_fd *entry,
             enum pyl_watch watch, uint8_t mask)
{
    static const int filters[] = {EVFILT_READ, EVFILT_WRITE};
    const uint8_t both = PYL_POLL_IN | PYL_POLL_OUT;
    uint8_t wanted = watch == PYL_WATCH_EDGE ? both : mask & both;
    uint8_t watched = entry->watch == PYL_WATCH_EDGE ? both : entry->armed & both;
    uint8_t kept = entry->watch == watch ? wanted & watched : 0;
    int flags = EV_ADD;
    flags |= watch == PYL_WATCH_EDGE ? EV_CLEAR : 0;
    flags |= watch == PYL_WATCH_ONESHOT ? EV_ONESHOT : 0;
    /* EV_ADD on a filter that exists would keep its old EV_CLEAR and EV_ONESHOT: remove first. */
    for (size_t i = 0; i < 2; i++) {
        int filter = filters[i];
        if (watched & (uint8_t)~kept & filter_direction(filter)) {
            change_push(reactor, fd, filter, EV_DELETE, entry->generation);
        }
    }
    for (size_t i = 0; i < 2; i++) {
        int filter = filters[i];
        if (wanted & (uint8_t)~kept & filter_direction(filter)) {
            change_push(reactor, fd, filter, flags, entry->generation);
        }
    }
    return 0;
}

/* ---- life ---- */

static void
kqueue_signal(int fd)
{
    int saved_errno = errno; /* a signal handler may be the caller */
    struct kevent trigger;
    int rc;
    EV_SET(&trigger, WAKE_IDENT, EVFILT_USER, 0, NOTE_TRIGGER, 0, NULL);
    do {
        rc = kevent(fd, &trigger, 1, NULL, 0, NULL);
    } while (rc < 0 && errno == EINTR);
    errno = saved_errno;
}

static int
kqueue_init(struct pyl_reactor *reactor, const struct pyl_reactor_options *options)
{
    struct kqueue_backend *backend = pyl_alloc_zero(sizeof(*backend));
    if (backend == NULL) {
        return -ENOMEM;
    }
    reactor->backend = backend;
    backend->readiness.watch = kqueue_watch;
    backend->kqueue_fd = kqueue();
    if (backend->kqueue_fd < 0) {
        return -errno;
    }
    int rc = pyl_readiness_init(&backend->readiness, options);
    if (rc < 0) {
        return rc;
    }
    backend->changes = pyl_alloc_array(reactor->events_max, sizeof(*backend->changes));
    backend->kernel_events = pyl_alloc_array(reactor->events_max, sizeof(*backend->kernel_events));
    if (backend->changes == NULL || backend->kernel_events == NULL) {
        return -ENOMEM;
    }
    struct kevent wake;
    EV_SET(&wake, WAKE_IDENT, EVFILT_USER, EV_ADD | EV_CLEAR, 0, 0, NULL);
    if (kevent(backend->kqueue_fd, &wake, 1, NULL, 0, NULL) < 0) {
        return -errno;
    }
    reactor->waker.fd = backend->kqueue_fd;
    reactor->waker.signal = kqueue_signal;
    return 0;
}

static void
kqueue_fini(struct pyl_reactor *reactor)
{
    struct kqueue_backend *backend = backend_of(reactor);
    if (backend == NULL) {
        return;
    }
    /* A forked child does not inherit the queue: the number may already be something else there. */
    if (backend->kqueue_fd >= 0 && !reactor->is_forked_child) {
        close(backend->kqueue_fd);
    }
    pyl_waker_init(&reactor->waker);
    pyl_readiness_fini(&backend->readiness);
    pyl_free(backend->changes);
    pyl_free(backend->kernel_events);
    pyl_free(backend);
    reactor->backend = NULL;
}

/* ---- wait ---- */

static uint8_t
ready_bits(const struct kevent *event)
{
    bool is_end = (event->flags & EV_EOF) != 0;
    uint8_t bits = filter_direction(event->filter);
    if (event->filter == EVFILT_READ) {
        bits |= is_end ? PYL_READY_READ_ON : 0;
    } else {
        bits |= is_end ? PYL_POLL_HANGUP : 0;
    }
    bits |= is_end && event->fflags != 0 ? PYL_POLL_ERROR : 0;
    return bits;
}

static void
event_report(struct pyl_reactor *reactor, const struct kevent *event)
{
    if (event->filter == EVFILT_USER) {
        pyl_reactor_note_wake(reactor);
    } else if (event->flags & EV_ERROR) {
        change_failed(reactor, event);
    } else {
        pyl_readiness_report(reactor, (int)event->ident, (uint32_t)(uintptr_t)event->udata,
                             ready_bits(event), filter_direction(event->filter));
    }
}

static int
kqueue_wait(struct pyl_reactor *reactor, int64_t timeout_ns)
{
    struct kqueue_backend *backend = backend_of(reactor);
    if (pyl_readiness_has_queued(&backend->readiness)) {
        timeout_ns = 0;
    }
    struct timespec timeout = {.tv_sec = (time_t)(timeout_ns / PYL_NS_PER_S),
                               .tv_nsec = (long)(timeout_ns % PYL_NS_PER_S)};
    pyl_counter_add(&reactor->stats.enters, 1);
    int count =
        kevent(backend->kqueue_fd, backend->changes, backend->change_count, backend->kernel_events,
               (int)reactor->events_max, timeout_ns >= 0 ? &timeout : NULL);
    if (count < 0 && errno != EINTR) {
        return -errno;
    }
    backend->change_count = 0; /* also after EINTR: kevent(2) has applied the changes by then */
    for (int i = 0; i < count; i++) {
        event_report(reactor, &backend->kernel_events[i]);
    }
    pyl_readiness_collect(reactor);
    return 0;
}

const struct pyl_backend_ops pyl_backend_kqueue = {
    .name = "kqueue",
    .probe = kqueue_probe,
    .init = kqueue_init,
    .fini = kqueue_fini,
    .submit = pyl_readiness_submit,
    .cancel = pyl_readiness_cancel,
    .forget = pyl_readiness_forget,
    .wait = kqueue_wait,
    .perform = pyl_readiness_perform,
    .send_now = pyl_readiness_send_now,
};
