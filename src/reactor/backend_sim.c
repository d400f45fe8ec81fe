/*
 * backend_sim.c - no kernel: ops on the sockets of sim_net.c, under a virtual clock and a seed.
 *
 * wait() looks at every active op, puts those that can complete into an order that the seed
 * decides, and performs them. It is completion-shaped as io_uring is: data is received at wait
 * time into a buffer that is freed after the callback, so that a callback which keeps it is found
 * by a sanitizer.
 */
#include "base/alloc.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/heap.h"
#include "reactor/sim.h"
#include "reactor/sim_net.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    TURN_NS = 1000, /* what a turn costs: a program that never waits still gets older */
    READ_SIZE_MAX = 16 * 1024,
    ACCEPTS_PER_TURN = 4,
};

/* pyl_op.backend_bits */
enum { OP_DONE = 1 }; /* backend_value is the terminal result */

struct sim_script {
    struct pyl_heap_node node;
    pyl_sim_act_fn *act;
    void *user;
};

struct sim_backend {
    struct pyl_sim_net net;
    struct pyl_sim_faults faults;
    struct pyl_heap scripts;
    int wake_read_fd;
    uint32_t lent;         /* receive buffers not yet released */
    struct pyl_op **ready; /* ops that can complete in this round */
    uint32_t ready_count;
    uint32_t ready_capacity;
    bool has_put_off; /* something could complete, and the seed said: later */
};

static struct sim_backend *
backend_of(const struct pyl_reactor *reactor)
{
    PYL_CHECK(reactor->ops == &pyl_backend_sim);
    return reactor->backend;
}

static bool
chance(struct sim_backend *backend, uint8_t in_256)
{
    return in_256 > 0 && pyl_sim_net_random(&backend->net, 256) < in_256;
}

/* ---- life ---- */

static int
sim_probe(char *cause, size_t cause_size)
{
    (void)cause_size;
    cause[0] = '\0';
    return 0;
}

static void
sim_signal(int fd)
{
    int saved_errno = errno;
    ssize_t written;
    do {
        written = write(fd, "", 1);
    } while (written < 0 && errno == EINTR);
    errno = saved_errno;
}

static int
sim_init(struct pyl_reactor *reactor, const struct pyl_reactor_options *options)
{
    struct sim_backend *backend = pyl_alloc_zero(sizeof(*backend));
    if (backend == NULL) {
        return -ENOMEM;
    }
    reactor->backend = backend;
    backend->wake_read_fd = -1;
    pyl_heap_init(&backend->scripts);
    pyl_sim_net_init(&backend->net, options->sim_seed);
    int fds[2];
    if (pipe(fds) < 0) {
        return -errno;
    }
    for (int i = 0; i < 2; i++) {
        (void)fcntl(fds[i], F_SETFL, O_NONBLOCK);
        (void)fcntl(fds[i], F_SETFD, FD_CLOEXEC);
    }
    backend->wake_read_fd = fds[0];
    reactor->waker.fd = fds[1];
    reactor->waker.signal = sim_signal;
    return 0;
}

static void
script_remove(struct sim_backend *backend, struct sim_script *script)
{
    pyl_heap_remove(&backend->scripts, &script->node);
    pyl_free(script);
}

static void
sim_fini(struct pyl_reactor *reactor)
{
    struct sim_backend *backend = reactor->backend;
    if (backend == NULL) {
        return;
    }
    PYL_CHECK(backend->lent == 0);
    const struct pyl_heap_entry *first;
    while ((first = pyl_heap_first(&backend->scripts)) != NULL) {
        script_remove(backend, PYL_CONTAINER_OF(first->node, struct sim_script, node));
    }
    pyl_heap_fini(&backend->scripts);
    pyl_sim_net_fini(&backend->net);
    pyl_free(backend->ready);
    if (backend->wake_read_fd >= 0) {
        close(backend->wake_read_fd);
        close(reactor->waker.fd);
    }
    pyl_waker_init(&reactor->waker);
    pyl_free(backend);
    reactor->backend = NULL;
}

/* ---- ops ---- */

static void
sim_submit(struct pyl_reactor *reactor, struct pyl_op *op)
{
    struct sim_backend *backend = backend_of(reactor);
    int rc = 0;
    op->backend_bits = 0;
    if (pyl_sim_net_find(&backend->net, op->fd) == NULL) {
        rc = -EBADF;
    } else if (op->kind == PYL_OP_CONNECT) {
        rc = pyl_sim_net_connect(&backend->net, op->fd, op->args.connect.address,
                                 op->args.connect.address_size);
    } else if (op->kind == PYL_OP_POLL &&
               (op->args.poll.events & (PYL_POLL_IN | PYL_POLL_OUT)) == 0) {
        rc = -EINVAL;
    }
    if (rc < 0) {
        op->backend_bits = OP_DONE;
        op->backend_value = rc;
    }
}

/* wait() looks at op->state. */
static void
sim_cancel(struct pyl_reactor *reactor, struct pyl_op *op)
{
    (void)reactor;
    (void)op;
}

static void
sim_forget(struct pyl_reactor *reactor, int fd)
{
    (void)reactor;
    (void)fd;
}

static bool
op_can_complete(struct sim_backend *backend, const struct pyl_op *op)
{
    if (op->backend_bits & OP_DONE || op->state == PYL_OP_CANCELLING) {
        return true;
    }
    const struct pyl_sim_socket *socket = pyl_sim_net_find(&backend->net, op->fd);
    PYL_CHECK(socket != NULL); /* closed under an active op */
    uint32_t ready = pyl_sim_net_ready(&backend->net, socket);
    switch ((enum pyl_op_kind)op->kind) {
    case PYL_OP_ACCEPT:
        return socket->kind != PYL_SIM_LISTENER || (ready & PYL_POLL_IN) != 0;
    case PYL_OP_RECV:
        return (ready & (PYL_POLL_IN | PYL_POLL_HANGUP)) != 0;
    case PYL_OP_SEND:
        return (ready & (PYL_POLL_OUT | PYL_POLL_HANGUP)) != 0;
    case PYL_OP_CONNECT:
        return socket->state != PYL_SIM_CONNECTING;
    case PYL_OP_POLL:
        return (ready & (op->args.poll.events | PYL_POLL_ERROR | PYL_POLL_HANGUP)) != 0;
    }
    PYL_UNREACHABLE();
    return false;
}

static void
emit(struct pyl_reactor *reactor, const struct pyl_event *event)
{
    PYL_CHECK(reactor->event_count < reactor->events_max);
    reactor->events[reactor->event_count++] = *event;
}

static void
emit_result(struct pyl_reactor *reactor, struct pyl_op *op, int64_t result, uint16_t flags)
{
    emit(reactor, &(struct pyl_event){.op = op, .result = (int32_t)result, .flags = flags});
}

static void
perform_accept(struct pyl_reactor *reactor, struct pyl_op *op, struct pyl_sim_socket *socket)
{
    struct sim_backend *backend = backend_of(reactor);
    for (int i = 0; i < ACCEPTS_PER_TURN && reactor->event_count < reactor->events_max; i++) {
        int fd = pyl_sim_net_accept(&backend->net, socket);
        if (fd == -EAGAIN) {
            return;
        }
        if (fd >= 0 && chance(backend, backend->faults.no_memory)) {
            pyl_sim_net_close(&backend->net, fd, true);
            fd = -ENOMEM;
        }
        emit_result(reactor, op, fd, fd >= 0 ? PYL_EVENT_MORE : 0);
        if (fd < 0) {
            return;
        }
    }
}

static void
perform_recv(struct pyl_reactor *reactor, struct pyl_op *op, struct pyl_sim_socket *socket)
{
    struct sim_backend *backend = backend_of(reactor);
    if (chance(backend, backend->faults.reset)) {
        pyl_sim_net_break(socket);
    }
    size_t size = socket->arrived < READ_SIZE_MAX ? socket->arrived : READ_SIZE_MAX;
    if (size > 1 && pyl_sim_net_random(&backend->net, 3) == 0) {
        size = 1 + pyl_sim_net_random(&backend->net, (uint32_t)size);
    }
    uint8_t *buffer = pyl_alloc(size);
    if (buffer == NULL) {
        emit_result(reactor, op, -ENOMEM, 0);
        return;
    }
    int64_t count = pyl_sim_net_read(&backend->net, socket, buffer, size);
    if (count <= 0) {
        pyl_free(buffer);
        emit_result(reactor, op, count, 0);
        return;
    }
    backend->lent++;
    emit(reactor, &(struct pyl_event){.op = op,
                                      .result = (int32_t)count,
                                      .flags = PYL_EVENT_MORE | PYL_EVENT_BUFFER,
                                      .data = buffer});
}

/* Writes the pieces one by one; the seed may end it between or within them. */
static int64_t
send_message(struct sim_backend *backend, struct pyl_sim_socket *socket, const struct iovec *iov,
             size_t iov_count)
{
    int64_t total = 0;
    if (chance(backend, backend->faults.reset)) {
        pyl_sim_net_break(socket);
    }
    for (size_t i = 0; i < iov_count; i++) {
        size_t size = iov[i].iov_len;
        bool is_cut = size > 1 && pyl_sim_net_random(&backend->net, 8) == 0;
        if (is_cut) {
            size = 1 + pyl_sim_net_random(&backend->net, (uint32_t)size - 1);
        }
        int64_t count = pyl_sim_net_write(&backend->net, socket, iov[i].iov_base, size);
        if (count < 0) {
            return total > 0 ? total : count;
        }
        total += count;
        if ((size_t)count < iov[i].iov_len) {
            break;
        }
    }
    return total;
}

static void
perform_poll(struct pyl_reactor *reactor, struct pyl_op *op, const struct pyl_sim_socket *socket)
{
    uint32_t wanted = op->args.poll.events | PYL_POLL_ERROR | PYL_POLL_HANGUP;
    emit_result(reactor, op, pyl_sim_net_ready(&backend_of(reactor)->net, socket) & wanted,
                op->flags & PYL_OP_MULTISHOT ? PYL_EVENT_MORE : 0);
}

/* Bytes that were on their way when the cancel was submitted still move, as in a ring; what a
 * cancelled SEND refers to is still read. Other kinds end: a POLL has let go of its fd. */
static bool
cancel_comes_late(struct sim_backend *backend, const struct pyl_op *op,
                  const struct pyl_sim_socket *socket)
{
    if (socket == NULL || (op->kind != PYL_OP_RECV && op->kind != PYL_OP_SEND)) {
        return false;
    }
    uint32_t direction = op->kind == PYL_OP_RECV ? PYL_POLL_IN : PYL_POLL_OUT;
    return (pyl_sim_net_ready(&backend->net, socket) & direction) != 0 &&
           pyl_sim_net_random(&backend->net, 2) == 0;
}

static void
perform(struct pyl_reactor *reactor, struct pyl_op *op)
{
    struct sim_backend *backend = backend_of(reactor);
    if (op->backend_bits & OP_DONE) {
        emit_result(reactor, op, op->backend_value, 0);
        return;
    }
    struct pyl_sim_socket *socket = pyl_sim_net_find(&backend->net, op->fd);
    if (op->state == PYL_OP_CANCELLING && !cancel_comes_late(backend, op, socket)) {
        emit_result(reactor, op, -ECANCELED, 0);
        return;
    }
    switch ((enum pyl_op_kind)op->kind) {
    case PYL_OP_ACCEPT:
        perform_accept(reactor, op, socket);
        break;
    case PYL_OP_RECV:
        perform_recv(reactor, op, socket);
        break;
    case PYL_OP_SEND: {
        const struct msghdr *message = op->args.send.message;
        int64_t count =
            send_message(backend, socket, message->msg_iov, (size_t)message->msg_iovlen);
        if (count != -EAGAIN) { /* another op of this round took the room */
            emit_result(reactor, op, count, 0);
        }
        break;
    }
    case PYL_OP_CONNECT:
        emit_result(reactor, op, socket->connect_error, 0);
        break;
    case PYL_OP_POLL:
        perform_poll(reactor, op, socket);
        break;
    }
}

/* ---- wait ---- */

static int
ready_add(struct sim_backend *backend, struct pyl_op *op)
{
    if (backend->ready_count == backend->ready_capacity) {
        uint32_t capacity = backend->ready_capacity > 0 ? backend->ready_capacity * 2 : 64;
        struct pyl_op **ready =
            pyl_realloc_array(backend->ready, capacity, sizeof(struct pyl_op *));
        if (ready == NULL) {
            return -ENOMEM;
        }
        backend->ready = ready;
        backend->ready_capacity = capacity;
    }
    backend->ready[backend->ready_count++] = op;
    return 0;
}

/* Completes what can be completed now, in the seed's order. */
static void
gather(struct pyl_reactor *reactor)
{
    struct sim_backend *backend = backend_of(reactor);
    struct pyl_list *node = reactor->active_ops.next;
    backend->ready_count = 0;
    backend->has_put_off = false;
    for (; node != &reactor->active_ops; node = node->next) {
        struct pyl_op *op = PYL_CONTAINER_OF(node, struct pyl_op, active);
        if (!op_can_complete(backend, op)) {
            continue;
        }
        bool is_starved = op->kind == PYL_OP_RECV && op->state == PYL_OP_ACTIVE &&
                          chance(backend, backend->faults.starve);
        if (is_starved || ready_add(backend, op) < 0) {
            backend->has_put_off = true;
            pyl_counter_add(&reactor->stats.starvations, 1);
        }
    }
    for (uint32_t left = backend->ready_count; left > 0; left--) {
        uint32_t pick = pyl_sim_net_random(&backend->net, left);
        struct pyl_op *op = backend->ready[pick];
        backend->ready[pick] = backend->ready[left - 1];
        if (reactor->event_count == reactor->events_max) {
            backend->has_put_off = true;
            break;
        }
        perform(reactor, op);
    }
}

static void
run_scripts(struct pyl_reactor *reactor)
{
    struct sim_backend *backend = backend_of(reactor);
    const struct pyl_heap_entry *first;
    while ((first = pyl_heap_first(&backend->scripts)) != NULL &&
           first->deadline_ns <= backend->net.now_ns) {
        struct sim_script *script = PYL_CONTAINER_OF(first->node, struct sim_script, node);
        pyl_sim_act_fn *act = script->act;
        void *user = script->user;
        script_remove(backend, script);
        act(reactor, user);
    }
}

/* The next moment, after now, at which the world changes by itself. */
static int64_t
next_change_ns(struct sim_backend *backend)
{
    int64_t next_ns = pyl_sim_net_next_ns(&backend->net);
    const struct pyl_heap_entry *first = pyl_heap_first(&backend->scripts);
    if (first != NULL && first->deadline_ns < next_ns) {
        next_ns = first->deadline_ns;
    }
    if (backend->has_put_off && backend->net.now_ns + TURN_NS < next_ns) {
        next_ns = backend->net.now_ns + TURN_NS;
    }
    return next_ns;
}

/* Returns whether there was a wake. */
static bool
take_wake(struct pyl_reactor *reactor)
{
    char bytes[64];
    if (!pyl_waker_clear(&reactor->waker)) {
        return false;
    }
    pyl_counter_add(&reactor->stats.wakes, 1);
    while (read(backend_of(reactor)->wake_read_fd, bytes, sizeof(bytes)) > 0) {
    }
    return true;
}

/* Nothing in the simulation will ever happen: only another thread can help. Returns whether one
 * did; false after a signal. */
static bool
block_for_wake(struct pyl_reactor *reactor)
{
    struct pollfd poll_fd = {.fd = backend_of(reactor)->wake_read_fd, .events = POLLIN};
    return poll(&poll_fd, 1, -1) > 0;
}

static int
sim_wait(struct pyl_reactor *reactor, int64_t timeout_ns)
{
    struct sim_backend *backend = backend_of(reactor);
    int64_t deadline_ns =
        timeout_ns < 0 ? PYL_NEVER_NS : pyl_clock_after(backend->net.now_ns, timeout_ns);
    if (timeout_ns != 0 && chance(backend, backend->faults.early_wait)) {
        deadline_ns = backend->net.now_ns + pyl_sim_net_random(&backend->net, TURN_NS);
    }
    backend->net.now_ns += TURN_NS;
    for (;;) {
        run_scripts(reactor);
        pyl_sim_net_deliver(&backend->net);
        bool is_woken = take_wake(reactor);
        gather(reactor);
        if (is_woken || reactor->event_count > 0 || backend->net.now_ns >= deadline_ns) {
            return 0;
        }
        int64_t next_ns = next_change_ns(backend);
        if (next_ns == PYL_NEVER_NS && deadline_ns == PYL_NEVER_NS) {
            if (!block_for_wake(reactor)) {
                return 0;
            }
            continue;
        }
        next_ns = next_ns < deadline_ns ? next_ns : deadline_ns;
        backend->net.now_ns = next_ns > backend->net.now_ns ? next_ns : backend->net.now_ns;
    }
}

static void
sim_release(struct pyl_reactor *reactor, const struct pyl_event *event)
{
    struct sim_backend *backend = backend_of(reactor);
    PYL_CHECK(backend->lent > 0);
    backend->lent--;
    pyl_free((void *)(uintptr_t)event->data);
}

/* ---- calls beside the ops ---- */

static int64_t
sim_send_now(struct pyl_reactor *reactor, int fd, const struct iovec *iov, int iov_count)
{
    struct sim_backend *backend = backend_of(reactor);
    struct pyl_sim_socket *socket = pyl_sim_net_find(&backend->net, fd);
    return socket == NULL ? -EBADF : send_message(backend, socket, iov, (size_t)iov_count);
}

static int64_t
sim_recv_now(struct pyl_reactor *reactor, int fd, void *buffer, size_t size)
{
    return pyl_sim_read(reactor, fd, buffer, size);
}

static int
sim_recv_packets(struct pyl_reactor *reactor, int fd, struct pyl_packet *packets, int count)
{
    struct pyl_sim_net *net = &backend_of(reactor)->net;
    struct pyl_sim_socket *socket = pyl_sim_net_find(net, fd);
    return socket == NULL ? -EBADF : pyl_sim_net_recv_packets(net, socket, packets, count);
}

static int
sim_send_packets(struct pyl_reactor *reactor, int fd, const struct pyl_packet *packets, int count)
{
    struct pyl_sim_net *net = &backend_of(reactor)->net;
    struct pyl_sim_socket *socket = pyl_sim_net_find(net, fd);
    return socket == NULL ? -EBADF : pyl_sim_net_send_packets(net, socket, packets, count);
}

static void
sim_close_now(struct pyl_reactor *reactor, int fd)
{
    pyl_sim_close(reactor, fd, false);
}

static int64_t
sim_now_ns(struct pyl_reactor *reactor)
{
    return backend_of(reactor)->net.now_ns;
}

/* ---- sim.h ---- */

void
pyl_sim_set_faults(struct pyl_reactor *reactor, const struct pyl_sim_faults *faults)
{
    backend_of(reactor)->faults = *faults;
}

void
pyl_sim_limit_fds(struct pyl_reactor *reactor, bool is_limited)
{
    backend_of(reactor)->net.is_limited = is_limited;
}

int
pyl_sim_pair(struct pyl_reactor *reactor, uint32_t buffer_size, int fds[2])
{
    return pyl_sim_net_pair(&backend_of(reactor)->net, buffer_size, fds);
}

int
pyl_sim_listen(struct pyl_reactor *reactor, struct sockaddr_storage *ret_address,
               socklen_t *ret_size)
{
    struct pyl_sim_net *net = &backend_of(reactor)->net;
    int fd = pyl_sim_net_open(net, PYL_SIM_LISTENER, 0);
    if (fd >= 0) {
        pyl_sim_net_address(pyl_sim_net_find(net, fd)->port, ret_address, ret_size);
    }
    return fd;
}

int
pyl_sim_datagram_socket(struct pyl_reactor *reactor, uint32_t buffer_size,
                        struct sockaddr_storage *ret_address, socklen_t *ret_size)
{
    struct pyl_sim_net *net = &backend_of(reactor)->net;
    int fd = pyl_sim_net_open(net, PYL_SIM_DATAGRAM, buffer_size);
    if (fd >= 0) {
        pyl_sim_net_address(pyl_sim_net_find(net, fd)->port, ret_address, ret_size);
    }
    return fd;
}

int
pyl_sim_socket(struct pyl_reactor *reactor)
{
    return pyl_sim_net_open(&backend_of(reactor)->net, PYL_SIM_STREAM, 0);
}

void
pyl_sim_silent_address(struct sockaddr_storage *ret_address, socklen_t *ret_size)
{
    pyl_sim_net_address(PYL_SIM_SILENT_PORT, ret_address, ret_size);
}

int
pyl_sim_connect(struct pyl_reactor *reactor, int fd, const struct sockaddr *address, socklen_t size)
{
    return pyl_sim_net_connect(&backend_of(reactor)->net, fd, address, size);
}

int64_t
pyl_sim_write(struct pyl_reactor *reactor, int fd, const void *data, size_t size)
{
    struct pyl_sim_net *net = &backend_of(reactor)->net;
    struct pyl_sim_socket *socket = pyl_sim_net_find(net, fd);
    return socket == NULL ? -EBADF : pyl_sim_net_write(net, socket, data, size);
}

int64_t
pyl_sim_read(struct pyl_reactor *reactor, int fd, void *buffer, size_t size)
{
    struct pyl_sim_net *net = &backend_of(reactor)->net;
    struct pyl_sim_socket *socket = pyl_sim_net_find(net, fd);
    return socket == NULL ? -EBADF : pyl_sim_net_read(net, socket, buffer, size);
}

int
pyl_sim_shutdown(struct pyl_reactor *reactor, int fd)
{
    struct pyl_sim_net *net = &backend_of(reactor)->net;
    struct pyl_sim_socket *socket = pyl_sim_net_find(net, fd);
    return socket == NULL ? -EBADF : pyl_sim_net_shutdown(net, socket);
}

void
pyl_sim_close(struct pyl_reactor *reactor, int fd, bool is_reset)
{
    pyl_sim_net_close(&backend_of(reactor)->net, fd, is_reset);
}

uint32_t
pyl_sim_fd_count(const struct pyl_reactor *reactor)
{
    return backend_of(reactor)->net.open_count;
}

void
pyl_sim_advance(struct pyl_reactor *reactor, int64_t duration_ns)
{
    struct sim_backend *backend = backend_of(reactor);
    int64_t end_ns = pyl_clock_after(backend->net.now_ns, duration_ns);
    for (;;) {
        run_scripts(reactor);
        pyl_sim_net_deliver(&backend->net);
        backend->has_put_off = false;
        int64_t next_ns = next_change_ns(backend);
        if (backend->net.now_ns >= end_ns) {
            return;
        }
        next_ns = next_ns < end_ns ? next_ns : end_ns;
        backend->net.now_ns = next_ns > backend->net.now_ns ? next_ns : backend->net.now_ns;
    }
}

int
pyl_sim_at(struct pyl_reactor *reactor, int64_t deadline_ns, pyl_sim_act_fn *act, void *user)
{
    struct sim_script *script = pyl_alloc_zero(sizeof(*script));
    if (script == NULL) {
        return -ENOMEM;
    }
    script->act = act;
    script->user = user;
    int rc = pyl_heap_push(&backend_of(reactor)->scripts, &script->node, deadline_ns);
    if (rc < 0) {
        pyl_free(script);
    }
    return rc;
}

uint32_t
pyl_sim_random(struct pyl_reactor *reactor, uint32_t bound)
{
    return pyl_sim_net_random(&backend_of(reactor)->net, bound);
}

const struct pyl_backend_ops pyl_backend_sim = {
    .name = "sim",
    .features = PYL_BACKEND_SIMULATED | PYL_BACKEND_BATCHES,
    .probe = sim_probe,
    .init = sim_init,
    .fini = sim_fini,
    .submit = sim_submit,
    .cancel = sim_cancel,
    .forget = sim_forget,
    .wait = sim_wait,
    .release = sim_release,
    .send_now = sim_send_now,
    .recv_now = sim_recv_now,
    .recv_packets = sim_recv_packets,
    .send_packets = sim_send_packets,
    .shutdown_now = pyl_sim_shutdown,
    .close_now = sim_close_now,
    .now_ns = sim_now_ns,
};
