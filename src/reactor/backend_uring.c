/*
 * backend_uring.c - io_uring: one ring, touched by the reactor's owner only.
 *
 * An op has at most one request in the kernel, whose user_data is the op's address: the op lives until
 * its terminal event, and that comes after the request's last completion. What the kernel ends for reasons
 * of its own (no buffer, completion queue full, the submitting thread ended) is armed again here and
 * invisible to the submitter.
 *
 * Where an active op is:
 *
 *                 .------------------ SQ full -------------------.
 *   submit --> IN_KERNEL --completion--> event   LISTED (arming, parked) --next wait--> IN_KERNEL or event
 *                 '--ended without a result for the submitter--^
 *
 * Neither IN_KERNEL nor LISTED means: its last completion is in `backlog` or in reactor->events.
 */
#include "base/alloc.h"
#include "base/check.h"
#include "base/clock.h"
#include "reactor/socket_call.h"
#include "reactor/uring.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    RING_ENTRIES = PYL_TINY_LIMITS ? 8 : 256,
    COMPLETIONS = PYL_TINY_LIMITS ? 16 : 4096,
    COMPLETIONS_LOW_MEMORY = 512,
    BUFFER_COUNT = PYL_TINY_LIMITS ? 2 : 256,
    BUFFER_SIZE = PYL_TINY_LIMITS ? 512 : 16384,
    BUFFER_COUNT_MAX = 32768,
};

/* pyl_op.backend_bits */
enum {
    OP_IN_KERNEL = 1,    /* a request was prepared, and its last completion not seen */
    OP_LISTED = 2,       /* on `arming` or `parked` by op->queue */
    OP_DONE = 4,         /* LISTED, and backend_value is the terminal result */
    OP_CONNECT_POLL = 8, /* CONNECT under way: wait until writable instead of connecting again */
};

/* user_data of requests that belong to no op */
enum { DATA_IGNORED = 0, DATA_WAKER = 1 };

/* A completion as harvested, before the submitter may see it. */
struct completion {
    struct pyl_op *op;
    int32_t result;
    uint32_t flags; /* IORING_CQE_F_* */
};

struct uring_backend {
    struct io_uring ring;
    struct io_uring_params params; /* what the ring was set up with */
    uint32_t entries;
    bool has_ring;
    bool is_enabled; /* the owner's thread has enabled the ring */
    bool is_waker_armed;
    uint32_t round; /* counts wait(); a RECV op holds the round of its last delivery in backend_value */
    struct pyl_list arming; /* to get a request in the next wait(), or to end there */
    struct pyl_list parked; /* RECV ops that found no buffer */
    struct pyl_uring_buffers buffers;
    /* Completions for later rounds: a RECV op delivers once a round. In order. */
    struct completion *backlog;
    uint32_t backlog_count;
    uint32_t backlog_capacity;
};

static struct uring_backend *
backend_of(struct pyl_reactor *reactor)
{
    return reactor->backend;
}

/* ---- ring ---- */

/*
 * SINGLE_ISSUER and DEFER_TASKRUN: completions are worked on in our own io_uring_enter() and nowhere else,
 * in batches (Linux 6.1). TASKRUN_FLAG tells in shared memory when that is worth a call. R_DISABLED: the
 * thread that enables the ring, not the one that creates it, becomes the single issuer.
 */
static int
ring_open(struct uring_backend *backend)
{
    struct io_uring_params params = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                 IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL |
                 IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_R_DISABLED,
        .cq_entries = COMPLETIONS,
    };
    backend->params = params;
    int rc = io_uring_queue_init_params(backend->entries, &backend->ring, &backend->params);
    if (rc == -ENOMEM) {
        backend->params = params;
        backend->params.cq_entries = COMPLETIONS_LOW_MEMORY;
        rc = io_uring_queue_init_params(backend->entries, &backend->ring, &backend->params);
    }
    if (rc < 0) {
        return rc;
    }
    backend->has_ring = true;
    backend->is_enabled = false;
    backend->is_waker_armed = false;
    /* NODROP: an overflowing completion queue loses nothing. EXT_ARG: the wait takes a timeout. */
    const uint32_t needed = IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG;
    if ((backend->params.features & needed) != needed) {
        return -ENOSYS;
    }
    return io_uring_ring_dontfork(&backend->ring);
}

/* By the owner's thread. liburing 2.3 declares io_uring_enable_rings() and does not export it. */
static int
ring_enable(struct uring_backend *backend)
{
    if (syscall(SYS_io_uring_register, backend->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL,
                0) < 0) {
        return -errno;
    }
    backend->is_enabled = true;
    return 0;
}

static void
ring_close(struct uring_backend *backend)
{
    if (backend->has_ring) {
        io_uring_queue_exit(&backend->ring);
        backend->has_ring = false;
    }
}

static int
uring_init(struct pyl_reactor *reactor, const struct pyl_reactor_options *options)
{
    struct uring_backend *backend = pyl_alloc_zero(sizeof(*backend));
    if (backend == NULL) {
        return -ENOMEM;
    }
    reactor->backend = backend;
    pyl_list_init(&backend->arming);
    pyl_list_init(&backend->parked);
    backend->entries = options->ring_entries > 0 ? options->ring_entries : RING_ENTRIES;
    uint32_t count = options->buffer_count > 0 ? options->buffer_count : BUFFER_COUNT;
    uint32_t size = options->buffer_size > 0 ? options->buffer_size : BUFFER_SIZE;
    if (count > BUFFER_COUNT_MAX || (count & (count - 1)) != 0) {
        return -EINVAL;
    }
    int rc = ring_open(backend);
    if (rc < 0) {
        return rc;
    }
    rc = pyl_uring_buffers_init(&backend->buffers, &backend->ring, count, size);
    if (rc < 0) {
        return rc;
    }
    backend->backlog_capacity = count;
    backend->backlog = pyl_alloc_array(count, sizeof(*backend->backlog));
    if (backend->backlog == NULL) {
        return -ENOMEM;
    }
    return pyl_waker_open(&reactor->waker);
}

static void
uring_fini(struct pyl_reactor *reactor)
{
    struct uring_backend *backend = backend_of(reactor);
    if (backend == NULL) {
        return;
    }
    pyl_waker_close(&reactor->waker);
    if (reactor->is_forked_child && backend->has_ring) {
        /* The mappings stayed with the parent (ring_dontfork), and the ring itself is the parent's. */
        close(backend->ring.ring_fd);
        backend->has_ring = false;
    }
    ring_close(backend);
    pyl_uring_buffers_fini(&backend->buffers);
    pyl_free(backend->backlog);
    pyl_free(backend);
    reactor->backend = NULL;
}

/* Tells the kernel about prepared requests, without waiting. Errors show again in the next wait(). */
static void
ring_submit(struct pyl_reactor *reactor, bool get_events)
{
    struct uring_backend *backend = backend_of(reactor);
    if (!backend->is_enabled) {
        return; /* the first wait() does it: its thread becomes the owner */
    }
    pyl_reactor_count(&reactor->stats.enters, 1);
    if (get_events) {
        (void)io_uring_submit_and_get_events(&backend->ring);
    } else {
        (void)io_uring_submit(&backend->ring);
    }
}

/* Returns NULL when the queue is full and the kernel takes nothing now. */
static struct io_uring_sqe *
sqe_get(struct pyl_reactor *reactor)
{
    struct uring_backend *backend = backend_of(reactor);
    struct io_uring_sqe *sqe = io_uring_get_sqe(&backend->ring);
    if (PYL_UNLIKELY(sqe == NULL)) {
        ring_submit(reactor, false);
        sqe = io_uring_get_sqe(&backend->ring);
    }
    return sqe;
}

/* ---- ops: to the kernel ---- */

static void
op_unlist(struct pyl_op *op)
{
    if (op->backend_bits & OP_LISTED) {
        pyl_list_remove(&op->queue);
        op->backend_bits &= (uint8_t)~OP_LISTED;
    }
}

static void
op_list(struct pyl_list *list, struct pyl_op *op)
{
    op_unlist(op);
    op->backend_bits |= OP_LISTED;
    pyl_list_append(list, &op->queue);
}

/* The op ends with this result in the next round. */
static void
op_list_done(struct uring_backend *backend, struct pyl_op *op, int result)
{
    op->backend_bits |= OP_DONE;
    op->backend_value = result;
    op_list(&backend->arming, op);
}

/* POLL_ADD answers "always ready" for what cannot be polled; epoll refuses it, and so do we. */
static int
poll_check(const struct pyl_op *op)
{
    if ((op->args.poll.events & (PYL_POLL_IN | PYL_POLL_OUT)) == 0) {
        return -EINVAL;
    }
    if ((op->flags & PYL_OP_MULTISHOT) == 0) {
        return 0; /* one-shots come by the thousand, and only for sockets */
    }
    struct stat status;
    if (fstat(op->fd, &status) < 0) {
        return -errno;
    }
    return S_ISREG(status.st_mode) || S_ISDIR(status.st_mode) ? -EPERM : 0;
}

static uint32_t
poll_mask(const struct pyl_op *op)
{
    uint32_t events = op->args.poll.events;
    return (events & PYL_POLL_IN ? POLLIN : 0u) | (events & PYL_POLL_OUT ? POLLOUT : 0u);
}

/* Prepares the op's request; false when there is no room for it. */
static bool
op_prepare(struct pyl_reactor *reactor, struct pyl_op *op)
{
    struct io_uring_sqe *sqe = sqe_get(reactor);
    if (sqe == NULL) {
        return false;
    }
    switch ((enum pyl_op_kind)op->kind) {
    case PYL_OP_ACCEPT:
        io_uring_prep_multishot_accept(sqe, op->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        break;
    case PYL_OP_CONNECT:
        if (op->backend_bits & OP_CONNECT_POLL) {
            io_uring_prep_poll_add(sqe, op->fd, POLLOUT);
        } else {
            io_uring_prep_connect(sqe, op->fd, op->args.connect.address,
                                  op->args.connect.address_size);
        }
        break;
    case PYL_OP_RECV:
        io_uring_prep_recv_multishot(sqe, op->fd, NULL, 0, 0);
        sqe->flags |= IOSQE_BUFFER_SELECT; /* from group 0, see uring_buffers.c */
        break;
    case PYL_OP_SEND:
        io_uring_prep_sendmsg(sqe, op->fd, &op->args.send.message, MSG_NOSIGNAL);
        break;
    case PYL_OP_POLL:
        /* One-shot also for MULTISHOT ops: armed again each turn it is level-triggered. */
        io_uring_prep_poll_add(sqe, op->fd, poll_mask(op));
        break;
    }
    io_uring_sqe_set_data(sqe, op);
    op->backend_bits |= OP_IN_KERNEL;
    return true;
}

static void
uring_submit(struct pyl_reactor *reactor, struct pyl_op *op)
{
    struct uring_backend *backend = backend_of(reactor);
    op->backend_bits = 0;
    op->backend_value = (int32_t)backend->round;
    if (op->kind == PYL_OP_POLL) {
        int rc = poll_check(op);
        if (rc < 0) {
            op_list_done(backend, op, rc);
            return;
        }
    }
    if (!op_prepare(reactor, op)) {
        op_list(&backend->arming, op);
    }
}

/* Prepares the request that ends the op's request; it precedes every later request of the same op. */
static bool
op_prepare_cancel(struct pyl_reactor *reactor, struct pyl_op *op)
{
    struct io_uring_sqe *sqe = sqe_get(reactor);
    if (sqe == NULL) {
        return false;
    }
    io_uring_prep_cancel(sqe, op, 0);
    io_uring_sqe_set_data64(sqe, DATA_IGNORED);
    return true;
}

static void
uring_cancel(struct pyl_reactor *reactor, struct pyl_op *op)
{
    struct uring_backend *backend = backend_of(reactor);
    if (op->backend_bits & OP_IN_KERNEL) {
        if (!op_prepare_cancel(reactor, op)) {
            op_list(&backend->arming, op);
        }
        if (pyl_op_lets_go_of_fd(op)) {
            /* The request holds the file open; the user may close the fd as soon as we return. */
            ring_submit(reactor, true);
        }
    } else if (op->backend_bits & OP_LISTED) {
        op_list(&backend->arming, op); /* if it was parked, it no longer waits for a buffer */
    }
}

/* Requests know the file, not the fd: nothing to forget. */
static void
uring_forget(struct pyl_reactor *reactor, int fd)
{
    (void)reactor;
    (void)fd;
}

/* ---- ops: from the kernel ---- */

static void
emit(struct pyl_reactor *reactor, const struct pyl_event *event)
{
    PYL_CHECK(reactor->event_count < reactor->events_max);
    reactor->events[reactor->event_count++] = *event;
}

static void
emit_end(struct pyl_reactor *reactor, struct pyl_op *op, int result)
{
    op_unlist(op);
    emit(reactor, &(struct pyl_event){.op = op, .result = result});
}

/* The request has ended, the op has not: flush_lists() arms it again, or ends it if it was cancelled. */
static void
op_rearm(struct pyl_reactor *reactor, struct pyl_op *op)
{
    if (op->kind != PYL_OP_POLL) {
        pyl_reactor_count(&reactor->stats.rearms, 1);
    }
    op_list(&backend_of(reactor)->arming, op);
}

/* Did the kernel end the request for reasons that are not the submitter's? */
static bool
is_internal_end(const struct pyl_op *op, int32_t result)
{
    if (result == -EINTR || result == -EAGAIN) {
        return true;
    }
    /* The thread that submitted the request has ended: io_uring_cancelation(7). */
    return result == -ECANCELED && op->state == PYL_OP_ACTIVE;
}

static void
deliver_accept(struct pyl_reactor *reactor, const struct completion *completion)
{
    struct pyl_op *op = completion->op;
    bool has_more = (completion->flags & IORING_CQE_F_MORE) != 0;
    if (completion->result >= 0) {
        emit(reactor, &(struct pyl_event){
                          .op = op, .result = completion->result, .flags = PYL_EVENT_MORE});
    } else if (!is_internal_end(op, completion->result) &&
               !pyl_socket_accept_is_transient(completion->result)) {
        emit_end(reactor, op, completion->result);
        return;
    }
    if (!has_more) {
        op_rearm(reactor, op);
    }
}

static void
deliver_recv(struct pyl_reactor *reactor, const struct completion *completion)
{
    struct uring_backend *backend = backend_of(reactor);
    struct pyl_op *op = completion->op;
    bool has_buffer = (completion->flags & IORING_CQE_F_BUFFER) != 0;
    uint16_t id = (uint16_t)(completion->flags >> IORING_CQE_BUFFER_SHIFT);

    op->backend_value = (int32_t)backend->round;
    if (completion->result > 0) {
        PYL_CHECK(has_buffer);
        emit(reactor, &(struct pyl_event){.op = op,
                                          .result = completion->result,
                                          .flags = PYL_EVENT_MORE | PYL_EVENT_BUFFER,
                                          .buffer_id = id,
                                          .data = pyl_uring_buffers_data(&backend->buffers, id)});
        if ((completion->flags & IORING_CQE_F_MORE) == 0) {
            op_rearm(reactor, op);
        }
        return;
    }
    if (has_buffer) {
        pyl_uring_buffers_release(&backend->buffers, id);
    }
    if (completion->result == -ENOBUFS) {
        pyl_reactor_count(&reactor->stats.starvations, 1);
        op_list(&backend->parked, op);
    } else if (is_internal_end(op, completion->result)) {
        op_rearm(reactor, op);
    } else {
        emit_end(reactor, op, completion->result);
    }
}

static void
deliver_connect(struct pyl_reactor *reactor, const struct completion *completion)
{
    struct pyl_op *op = completion->op;
    int result = completion->result;
    if (op->backend_bits & OP_CONNECT_POLL && result >= 0) {
        int error = 0;
        socklen_t size = sizeof(error);
        result = getsockopt(op->fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0 ? -errno : -error;
    } else if (result == -EAGAIN) {
        result = -ECONNREFUSED; /* a Unix peer with a full backlog; see readiness.c */
    } else if (is_internal_end(op, result)) {
        op->backend_bits |= OP_CONNECT_POLL; /* connect(2) a second time would say EALREADY */
        op_rearm(reactor, op);
        return;
    }
    emit_end(reactor, op, result);
}

static void
deliver_send(struct pyl_reactor *reactor, const struct completion *completion)
{
    if (is_internal_end(completion->op, completion->result)) {
        op_rearm(reactor, completion->op);
    } else {
        emit_end(reactor, completion->op, completion->result);
    }
}

static void
deliver_poll(struct pyl_reactor *reactor, const struct completion *completion)
{
    struct pyl_op *op = completion->op;
    if (is_internal_end(op, completion->result)) {
        op_rearm(reactor, op);
        return;
    }
    if (completion->result < 0) {
        emit_end(reactor, op, completion->result);
        return;
    }
    uint32_t seen = (uint32_t)completion->result;
    int32_t mask = 0;
    mask |= seen & POLLIN ? PYL_POLL_IN : 0;
    mask |= seen & POLLOUT ? PYL_POLL_OUT : 0;
    mask |= seen & POLLERR ? PYL_POLL_ERROR : 0;
    mask |= seen & POLLHUP ? PYL_POLL_HANGUP : 0;
    if (op->flags & PYL_OP_MULTISHOT) {
        emit(reactor, &(struct pyl_event){.op = op, .result = mask, .flags = PYL_EVENT_MORE});
        op_rearm(reactor, op);
    } else {
        emit_end(reactor, op, mask);
    }
}

/* Emits at most one event. */
static void
deliver(struct pyl_reactor *reactor, const struct completion *completion)
{
    switch ((enum pyl_op_kind)completion->op->kind) {
    case PYL_OP_ACCEPT:
        deliver_accept(reactor, completion);
        break;
    case PYL_OP_CONNECT:
        deliver_connect(reactor, completion);
        break;
    case PYL_OP_RECV:
        deliver_recv(reactor, completion);
        break;
    case PYL_OP_SEND:
        deliver_send(reactor, completion);
        break;
    case PYL_OP_POLL:
        deliver_poll(reactor, completion);
        break;
    }
}

static bool
has_had_its_turn(const struct uring_backend *backend, const struct pyl_op *op)
{
    return op->kind == PYL_OP_RECV && op->backend_value == (int32_t)backend->round;
}

static bool
backlog_push(struct uring_backend *backend, const struct completion *completion)
{
    if (backend->backlog_count == backend->backlog_capacity) {
        uint32_t capacity = backend->backlog_capacity * 2;
        struct completion *grown =
            pyl_realloc_array(backend->backlog, capacity, sizeof(*backend->backlog));
        if (grown == NULL) {
            return false;
        }
        backend->backlog = grown;
        backend->backlog_capacity = capacity;
    }
    backend->backlog[backend->backlog_count++] = *completion;
    return true;
}

/* Delivers from the backlog what may go in this round; the rest moves up. */
static void
backlog_deliver(struct pyl_reactor *reactor)
{
    struct uring_backend *backend = backend_of(reactor);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < backend->backlog_count; i++) {
        struct completion completion = backend->backlog[i];
        if (reactor->event_count == reactor->events_max ||
            has_had_its_turn(backend, completion.op)) {
            backend->backlog[kept++] = completion;
        } else {
            deliver(reactor, &completion);
        }
    }
    backend->backlog_count = kept;
}

/* Makes a completion of a queue entry. Returns false for entries that belong to no op. */
static bool
completion_read(struct pyl_reactor *reactor, const struct io_uring_cqe *cqe,
                struct completion *ret_completion)
{
    struct uring_backend *backend = backend_of(reactor);
    bool has_more = (cqe->flags & IORING_CQE_F_MORE) != 0;
    if (cqe->user_data == DATA_IGNORED) {
        return false;
    }
    if (cqe->user_data == DATA_WAKER) {
        backend->is_waker_armed = has_more;
        if (cqe->res >= 0) {
            pyl_reactor_note_wake(reactor);
        }
        return false;
    }
    struct pyl_op *op = (struct pyl_op *)(uintptr_t)cqe->user_data;
    if (!has_more) {
        op->backend_bits &= (uint8_t)~OP_IN_KERNEL;
    }
    if (cqe->flags & IORING_CQE_F_BUFFER) {
        pyl_uring_buffers_lend(&backend->buffers);
    }
    *ret_completion = (struct completion){.op = op, .result = cqe->res, .flags = cqe->flags};
    return true;
}

/* Takes completions off the ring, as far as there is room for events. No callback runs here. */
static void
harvest(struct pyl_reactor *reactor)
{
    struct uring_backend *backend = backend_of(reactor);
    struct io_uring_cqe *cqe;
    unsigned head;
    unsigned count = 0;
    io_uring_for_each_cqe(&backend->ring, head, cqe)
    {
        struct completion completion;
        if (reactor->event_count == reactor->events_max ||
            backend->backlog_count == backend->backlog_capacity) {
            break;
        }
        count++;
        if (!completion_read(reactor, cqe, &completion)) {
            continue;
        }
        if (has_had_its_turn(backend, completion.op)) {
            (void)backlog_push(backend, &completion); /* there is room, see above */
        } else {
            deliver(reactor, &completion);
        }
    }
    io_uring_cq_advance(&backend->ring, count);
}

/* ---- wait ---- */

/* Gives every listed op its request or its end, as far as there is room for either. */
static void
flush_lists(struct pyl_reactor *reactor)
{
    struct uring_backend *backend = backend_of(reactor);
    while (!pyl_list_is_empty(&backend->parked) && backend->buffers.lent < backend->buffers.count) {
        op_list(&backend->arming, PYL_CONTAINER_OF(backend->parked.next, struct pyl_op, queue));
    }
    while (!pyl_list_is_empty(&backend->arming) && reactor->event_count < reactor->events_max) {
        struct pyl_op *op = PYL_CONTAINER_OF(backend->arming.next, struct pyl_op, queue);
        bool has_room = true;
        if (op->backend_bits & OP_DONE) {
            emit_end(reactor, op, op->backend_value);
        } else if (op->backend_bits & OP_IN_KERNEL) {
            has_room = op_prepare_cancel(reactor, op); /* uring_cancel() found no room */
        } else if (op->state == PYL_OP_CANCELLING) {
            emit_end(reactor, op, -ECANCELED);
        } else {
            has_room = op_prepare(reactor, op);
        }
        if (!has_room) {
            break;
        }
        op_unlist(op);
    }
    if (!backend->is_waker_armed) {
        struct io_uring_sqe *sqe = sqe_get(reactor);
        if (sqe != NULL) {
            io_uring_prep_poll_multishot(sqe, reactor->waker.fd, POLLIN);
            io_uring_sqe_set_data64(sqe, DATA_WAKER);
            backend->is_waker_armed = true;
        }
    }
}

/* Must the kernel be entered when we do not want to wait? */
static bool
ring_has_work(const struct io_uring *ring)
{
    const unsigned flagged = IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW;
    return io_uring_sq_ready(ring) > 0 || (IO_URING_READ_ONCE(*ring->sq.kflags) & flagged) != 0;
}

/* Submits and waits, in one call. 0 or -errno; -EEXIST: the ring belongs to another thread. */
static int
ring_enter(struct pyl_reactor *reactor, int64_t timeout_ns)
{
    struct io_uring *ring = &backend_of(reactor)->ring;
    int rc;
    if (io_uring_cq_ready(ring) > 0) {
        timeout_ns = 0;
    }
    if (timeout_ns == 0) {
        if (!ring_has_work(ring)) {
            return 0;
        }
        pyl_reactor_count(&reactor->stats.enters, 1);
        rc = io_uring_submit_and_get_events(ring);
    } else {
        struct __kernel_timespec timeout = {.tv_sec = timeout_ns / PYL_NS_PER_S,
                                            .tv_nsec = timeout_ns % PYL_NS_PER_S};
        struct io_uring_cqe *cqe;
        pyl_reactor_count(&reactor->stats.enters, 1);
        rc = io_uring_submit_and_wait_timeout(ring, &cqe, 1, timeout_ns > 0 ? &timeout : NULL,
                                              NULL);
    }
    /* EAGAIN: no memory for requests now; EBUSY: reap first. What was not taken stays queued. */
    if (rc >= 0 || rc == -ETIME || rc == -EINTR || rc == -EAGAIN || rc == -EBUSY) {
        return 0;
    }
    return rc;
}

/* Every active op gets a request of the new ring in the next wait(). */
static void
rearm_active(struct pyl_reactor *reactor)
{
    struct pyl_list *node = reactor->active_ops.next;
    for (; node != &reactor->active_ops; node = node->next) {
        struct pyl_op *op = PYL_CONTAINER_OF(node, struct pyl_op, active);
        if (op->backend_bits & OP_IN_KERNEL) {
            op->backend_bits &= (uint8_t)~OP_IN_KERNEL;
            op->backend_bits |= op->kind == PYL_OP_CONNECT ? OP_CONNECT_POLL : 0;
            op_rearm(reactor, op);
        }
    }
}

/* Takes everything off the ring that is to be closed. */
static int
backlog_fill(struct pyl_reactor *reactor)
{
    struct uring_backend *backend = backend_of(reactor);
    struct io_uring_cqe *cqe;
    unsigned head;
    unsigned count = 0;
    io_uring_for_each_cqe(&backend->ring, head, cqe)
    {
        struct completion completion;
        count++;
        if (completion_read(reactor, cqe, &completion) && !backlog_push(backend, &completion)) {
            return -ENOMEM;
        }
    }
    io_uring_cq_advance(&backend->ring, count);
    return 0;
}

/*
 * Another thread has become the owner: a loop that ran in a thread is closed, or run, from the main
 * one. A ring cannot change hands, so it is replaced: what has completed is kept, what waits is
 * armed again. The former owner must not be inside any function of this reactor.
 */
static int
ring_replace(struct pyl_reactor *reactor)
{
    struct uring_backend *backend = backend_of(reactor);
    bool *is_lent = pyl_alloc_zero(backend->buffers.count * sizeof(*is_lent));
    if (is_lent == NULL) {
        return -ENOMEM;
    }
    int rc = backlog_fill(reactor);
    if (rc == 0) {
        for (uint32_t i = 0; i < backend->backlog_count; i++) {
            uint32_t flags = backend->backlog[i].flags;
            if (flags & IORING_CQE_F_BUFFER) {
                is_lent[flags >> IORING_CQE_BUFFER_SHIFT] = true;
            }
        }
        for (uint32_t i = 0; i < reactor->event_count; i++) {
            if (reactor->events[i].flags & PYL_EVENT_BUFFER) {
                is_lent[reactor->events[i].buffer_id] = true;
            }
        }
        ring_close(backend);
        rearm_active(reactor);
        rc = ring_open(backend);
    }
    if (rc == 0) {
        rc = pyl_uring_buffers_move(&backend->buffers, &backend->ring, is_lent);
    }
    pyl_free(is_lent);
    return rc;
}

static int
uring_wait(struct pyl_reactor *reactor, int64_t timeout_ns)
{
    struct uring_backend *backend = backend_of(reactor);
    int rc;
    backend->round++;
    for (;;) {
        if (!backend->is_enabled) {
            rc = ring_enable(backend);
            if (rc < 0) {
                return rc;
            }
        }
        backlog_deliver(reactor);
        flush_lists(reactor);
        rc = ring_enter(reactor, reactor->event_count > 0 ? 0 : timeout_ns);
        if (PYL_LIKELY(rc != -EEXIST)) {
            break;
        }
        rc = ring_replace(reactor);
        if (rc < 0) {
            return rc;
        }
    }
    harvest(reactor);
    return rc;
}

static void
uring_release(struct pyl_reactor *reactor, const struct pyl_event *event)
{
    pyl_uring_buffers_release(&backend_of(reactor)->buffers, event->buffer_id);
}

static int64_t
uring_send_now(struct pyl_reactor *reactor, int fd, const struct iovec *iov, int iov_count)
{
    (void)reactor;
    struct msghdr message = {.msg_iov = (struct iovec *)(uintptr_t)iov};
    message.msg_iovlen = (size_t)iov_count;
    return pyl_socket_sendmsg(fd, &message);
}

const struct pyl_backend_ops pyl_backend_uring = {
    .name = "io_uring",
    .features = PYL_BACKEND_BATCHES,
    .probe = pyl_uring_probe,
    .init = uring_init,
    .fini = uring_fini,
    .submit = uring_submit,
    .cancel = uring_cancel,
    .forget = uring_forget,
    .wait = uring_wait,
    .release = uring_release,
    .send_now = uring_send_now,
};
