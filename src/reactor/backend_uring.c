/*
 * backend_uring.c - io_uring: one ring, touched by the reactor's owner only.
 *
 * An op has at most one request in the kernel, whose user_data is the op's address: the op lives
 * until its terminal event, and that comes after the request's last completion. What the kernel
 * ends for reasons of its own (no buffer, completion queue full, the submitting thread ended) is
 * armed again here and invisible to the submitter.
 *
 * Where an active op is:
 *
 *   submit --> IN_KERNEL --last completion--> event
 *     |           ^   |
 *     |           |   '--ended, but not for the submitter--.
 *     |        next wait                                    v
 *     '--SQ full--+------------------- LISTED: on `arming`, or `parked` until a buffer is free
 *
 * What was cancelled while LISTED gets its event from the next wait instead of a request.
 * Neither IN_KERNEL nor LISTED means: its last completion is in `backlog` or in reactor->events.
 */
#include "base/alloc.h"
#include "base/check.h"
#include "base/clock.h"
#include "reactor/socket_call.h"
#include "reactor/uring.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    RING_ENTRIES = PYL_TINY_LIMITS ? 8 : 256,
    COMPLETIONS = PYL_TINY_LIMITS ? 16 : 4096,
    COMPLETIONS_LOW_MEMORY = 512,
    BUFFER_COUNT = PYL_TINY_LIMITS ? 2 : 256,
    BUFFER_SIZE = PYL_TINY_LIMITS ? 512 : 16384,
    BUFFER_COUNT_MAX = 32768,
    TRIM_ROUNDS = PYL_TINY_LIMITS ? 4 : 1024, /* waits between looks at how many are needed */
    FEATURE_MIN_TIMEOUT = 1 << 15, /* IORING_FEAT_MIN_TIMEOUT, Linux 6.12; not in liburing 2.3 */
};

/* ---- ring ---- */

/* Entry i of the queue is always request i: written here, and not with each request. */
static void
name_entries(struct io_uring_sq *sq)
{
    for (unsigned i = 0; sq->array != NULL && i < sq->ring_entries; i++) {
        sq->array[i] = i;
    }
}

/*
 * SINGLE_ISSUER and DEFER_TASKRUN: completions are worked on in our own io_uring_enter() and
 * nowhere else, in batches (Linux 6.1). TASKRUN_FLAG tells in shared memory when that is worth a
 * call. R_DISABLED: the thread that enables the ring, not the one that creates it, becomes the
 * single issuer.
 */
static int
ring_open(struct pyl_uring *uring)
{
    /* The kernel wants at least as many completions as submissions. */
    uint32_t completions_min = uring->entries * 2;
    struct io_uring_params params = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                 IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL |
                 IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_R_DISABLED,
        .cq_entries = COMPLETIONS > completions_min ? COMPLETIONS : completions_min,
    };
    uring->params = params;
    int rc = io_uring_queue_init_params(uring->entries, &uring->ring, &uring->params);
    if (rc == -ENOMEM) {
        uring->params = params;
        uring->params.cq_entries =
            COMPLETIONS_LOW_MEMORY > completions_min ? COMPLETIONS_LOW_MEMORY : completions_min;
        rc = io_uring_queue_init_params(uring->entries, &uring->ring, &uring->params);
    }
    if (rc < 0) {
        return rc;
    }
    /* NODROP: an overflowing completion queue loses nothing. EXT_ARG: the wait takes a timeout. */
    const uint32_t needed = IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG;
    rc = (uring->params.features & needed) == needed ? io_uring_ring_dontfork(&uring->ring)
                                                     : -ENOSYS;
    if (rc < 0) {
        io_uring_queue_exit(&uring->ring);
        return rc;
    }
    uring->batch.is_supported = (uring->params.features & FEATURE_MIN_TIMEOUT) != 0;
    name_entries(&uring->ring.sq);
    uring->has_ring = true;
    uring->is_enabled = false;
    uring->is_waker_armed = false;
    return 0;
}

/* By the owner's thread. liburing 2.3 declares io_uring_enable_rings() and does not export it. */
static int
ring_enable(struct pyl_uring *uring)
{
    if (syscall(SYS_io_uring_register, uring->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0) <
        0) {
        return -errno;
    }
    uring->is_enabled = true;
    return 0;
}

static void
ring_close(struct pyl_uring *uring)
{
    if (uring->has_ring) {
        io_uring_queue_exit(&uring->ring);
        uring->has_ring = false;
    }
}

static int
uring_init(struct pyl_reactor *reactor, const struct pyl_reactor_options *options)
{
    struct pyl_uring *uring = pyl_alloc_zero(sizeof(*uring));
    if (uring == NULL) {
        return -ENOMEM;
    }
    reactor->backend = uring;
    pyl_list_init(&uring->arming);
    pyl_list_init(&uring->parked);
    uring->entries = options->ring_entries > 0 ? options->ring_entries : RING_ENTRIES;
    uint32_t count = options->buffer_count > 0 ? options->buffer_count : BUFFER_COUNT;
    uint32_t size = options->buffer_size > 0 ? options->buffer_size : BUFFER_SIZE;
    if (count > BUFFER_COUNT_MAX || (count & (count - 1)) != 0) {
        return -EINVAL;
    }
    int rc = ring_open(uring);
    if (rc < 0) {
        return rc;
    }
    rc = pyl_uring_buffers_init(&uring->buffers, &uring->ring, count, size);
    if (rc < 0) {
        return rc;
    }
    uring->backlog_capacity = count;
    uring->backlog = pyl_alloc_array(count, sizeof(*uring->backlog));
    if (uring->backlog == NULL) {
        return -ENOMEM;
    }
    return pyl_waker_open(&reactor->waker);
}

static void
uring_fini(struct pyl_reactor *reactor)
{
    struct pyl_uring *uring = pyl_uring_of(reactor);
    if (uring == NULL) {
        return;
    }
    pyl_waker_close(&reactor->waker);
    if (reactor->is_forked_child && uring->has_ring) {
        /* The mappings stayed with the parent (ring_dontfork), and the ring itself is the
         * parent's. */
        close(uring->ring.ring_fd);
        uring->has_ring = false;
    }
    ring_close(uring);
    pyl_uring_buffers_fini(&uring->buffers);
    pyl_free_pages(uring->bulk, PYL_URING_BULK_SIZE);
    pyl_free(uring->backlog);
    pyl_free(uring);
    reactor->backend = NULL;
}

/* Tells the kernel about prepared requests, without waiting. Errors show again in the next
 * wait(). */
static void
ring_submit(struct pyl_reactor *reactor, bool get_events)
{
    struct pyl_uring *uring = pyl_uring_of(reactor);
    if (!uring->is_enabled) {
        return; /* the first wait() does it: its thread becomes the owner */
    }
    pyl_counter_add(&reactor->stats.enters, 1);
    if (get_events) {
        (void)io_uring_submit_and_get_events(&uring->ring);
    } else {
        (void)io_uring_submit(&uring->ring);
    }
}

bool
pyl_uring_make_room(struct pyl_reactor *reactor)
{
    ring_submit(reactor, false);
    return pyl_uring_has_room(&pyl_uring_of(reactor)->ring.sq);
}

/* ---- ops ---- */

void
pyl_uring_op_list(struct pyl_list *list, struct pyl_op *op)
{
    pyl_uring_op_unlist(op);
    op->backend_bits |= PYL_URING_LISTED;
    pyl_list_append(list, &op->queue);
}

/* The op ends with this result in the next round. */
static void
op_list_done(struct pyl_uring *uring, struct pyl_op *op, int result)
{
    op->backend_bits |= PYL_URING_DONE;
    op->backend_value = result;
    pyl_uring_op_list(&uring->arming, op);
}

static void
uring_submit(struct pyl_reactor *reactor, struct pyl_op *op)
{
    struct pyl_uring *uring = pyl_uring_of(reactor);
    op->backend_bits = 0;
    op->backend_value = (int32_t)uring->round;
    int rc = op->kind == PYL_OP_POLL ? pyl_uring_check_poll(op) : 0;
    if (rc < 0) {
        op_list_done(uring, op, rc);
        return;
    }
    if (!pyl_uring_op_prepare(reactor, op)) {
        pyl_uring_op_list(&uring->arming, op);
    }
}

static void
uring_cancel(struct pyl_reactor *reactor, struct pyl_op *op)
{
    struct pyl_uring *uring = pyl_uring_of(reactor);
    if (op->backend_bits & PYL_URING_IN_KERNEL) {
        if (!pyl_uring_op_prepare_cancel(reactor, op)) {
            pyl_uring_op_list(&uring->arming, op);
        }
        if (pyl_op_lets_go_of_fd(op)) {
            /* The request holds the file open; the user may close the fd as soon as we return. */
            ring_submit(reactor, true);
        }
    } else if (op->backend_bits & PYL_URING_LISTED) {
        pyl_uring_op_list(&uring->arming,
                          op); /* if it was parked, it no longer waits for a buffer */
    }
}

/* Requests know the file, not the fd: nothing to forget. */
static void
uring_forget(struct pyl_reactor *reactor, int fd)
{
    (void)reactor;
    (void)fd;
}

/* ---- completions ---- */

static bool
has_had_its_turn(const struct pyl_uring *uring, const struct pyl_op *op)
{
    return op->kind == PYL_OP_RECV && op->backend_value == (int32_t)uring->round;
}

static bool
backlog_reserve(struct pyl_uring *uring, uint32_t count)
{
    uint32_t capacity = uring->backlog_capacity;
    while (capacity - uring->backlog_count < count) {
        capacity *= 2;
    }
    if (capacity == uring->backlog_capacity) {
        return true;
    }
    struct pyl_uring_completion *grown =
        pyl_realloc_array(uring->backlog, capacity, sizeof(*uring->backlog));
    if (grown == NULL) {
        return false;
    }
    uring->backlog = grown;
    uring->backlog_capacity = capacity;
    return true;
}

/* Delivers from the backlog what may go in this round; the rest moves up. */
static void
backlog_deliver(struct pyl_reactor *reactor)
{
    struct pyl_uring *uring = pyl_uring_of(reactor);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < uring->backlog_count; i++) {
        struct pyl_uring_completion completion = uring->backlog[i];
        if (reactor->event_count == reactor->events_max || has_had_its_turn(uring, completion.op)) {
            uring->backlog[kept++] = completion;
        } else {
            pyl_uring_deliver(reactor, &completion);
        }
    }
    uring->backlog_count = kept;
}

/* Makes a completion of a queue entry. Returns false for entries that belong to no op. */
static bool
completion_read(struct pyl_reactor *reactor, const struct io_uring_cqe *cqe,
                struct pyl_uring_completion *ret_completion)
{
    struct pyl_uring *uring = pyl_uring_of(reactor);
    bool has_more = (cqe->flags & IORING_CQE_F_MORE) != 0;
    if (cqe->user_data == PYL_URING_DATA_IGNORED) {
        return false;
    }
    if (cqe->user_data == PYL_URING_DATA_WAKER) {
        uring->is_waker_armed = has_more;
        if (cqe->res >= 0) {
            pyl_reactor_note_wake(reactor);
        }
        return false;
    }
    struct pyl_op *op = (struct pyl_op *)(uintptr_t)cqe->user_data;
    if (!has_more) {
        op->backend_bits &= (uint8_t)~PYL_URING_IN_KERNEL;
    }
    if (cqe->flags & IORING_CQE_F_BUFFER) {
        pyl_uring_buffers_lend(&uring->buffers);
    }
    *ret_completion =
        (struct pyl_uring_completion){.op = op, .result = cqe->res, .flags = cqe->flags};
    return true;
}

/* Takes completions off the ring, as far as there is room for events. No callback runs here. */
static void
harvest(struct pyl_reactor *reactor)
{
    struct pyl_uring *uring = pyl_uring_of(reactor);
    const struct io_uring_cq *cq = &uring->ring.cq;
    const unsigned mask = cq->ring_mask;
    const unsigned tail = io_uring_smp_load_acquire(cq->ktail);
    unsigned head = *cq->khead;
    /* Each completion may name a buffer. */
    pyl_uring_buffers_note_needed(&uring->buffers, uring->buffers.lent + (tail - head));
    while (head != tail && reactor->event_count < reactor->events_max &&
           uring->backlog_count < uring->backlog_capacity) {
        struct pyl_uring_completion completion;
        if (!completion_read(reactor, &cq->cqes[head++ & mask], &completion)) {
            continue;
        }
        if (has_had_its_turn(uring, completion.op)) {
            uring->backlog[uring->backlog_count++] = completion;
        } else {
            pyl_uring_deliver(reactor, &completion);
        }
    }
    io_uring_smp_store_release(cq->khead, head);
}

/* ---- wait ---- */

/* Gives every listed op its request or its end, as far as there is room for either. */
static void
flush_lists(struct pyl_reactor *reactor)
{
    struct pyl_uring *uring = pyl_uring_of(reactor);
    while (!pyl_list_is_empty(&uring->parked) && pyl_uring_buffers_has_free(&uring->buffers)) {
        pyl_uring_op_list(&uring->arming,
                          PYL_CONTAINER_OF(uring->parked.next, struct pyl_op, queue));
    }
    while (!pyl_list_is_empty(&uring->arming) && reactor->event_count < reactor->events_max) {
        struct pyl_op *op = PYL_CONTAINER_OF(uring->arming.next, struct pyl_op, queue);
        bool has_room = true;
        if (op->backend_bits & PYL_URING_DONE) {
            pyl_uring_emit_end(reactor, op, op->backend_value);
        } else if (op->backend_bits & PYL_URING_IN_KERNEL) {
            has_room = pyl_uring_op_prepare_cancel(reactor, op); /* uring_cancel() found no room */
        } else if (op->state == PYL_OP_CANCELLING) {
            pyl_uring_emit_end(reactor, op, -ECANCELED);
        } else {
            has_room = pyl_uring_op_prepare(reactor, op);
        }
        if (!has_room) {
            break;
        }
        pyl_uring_op_unlist(op);
    }
    if (!uring->is_waker_armed) {
        struct io_uring_sqe *sqe = pyl_uring_sqe_get(reactor);
        if (sqe != NULL) {
            io_uring_prep_poll_multishot(sqe, reactor->waker.fd, POLLIN);
            io_uring_sqe_set_data64(sqe, PYL_URING_DATA_WAKER);
            uring->is_waker_armed = true;
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

/* Shows the kernel the requests that were filled in. Returns how many it has not taken. */
static unsigned
ring_flush(struct io_uring *ring)
{
    struct io_uring_sq *sq = &ring->sq;
    sq->sqe_head = sq->sqe_tail;
    io_uring_smp_store_release(sq->ktail, sq->sqe_tail);
    return sq->sqe_tail - IO_URING_READ_ONCE(*sq->khead);
}

/* struct io_uring_getevents_arg of Linux 6.12: `min_wait_usec` has the place of `pad`, which the
 * kernels before want to be 0. */
struct wait_argument {
    uint64_t sigmask;
    uint32_t sigmask_size;
    uint32_t min_wait_usec;
    uint64_t timeout;
};
_Static_assert(sizeof(struct wait_argument) == sizeof(struct io_uring_getevents_arg), "the ABI");

/* Longer than any process lives. */
static const int64_t ENDLESS_NS = INT32_MAX * PYL_NS_PER_S;

/*
 * One io_uring_enter(2). When a signal interrupts the wait after requests were taken, the kernel
 * returns their number, and liburing's waiting functions then wait again, with the whole timeout:
 * the signal's handler in Python would not run before something else happens.
 */
static int
ring_submit_and_wait(struct pyl_reactor *reactor, int64_t timeout_ns)
{
    struct pyl_uring *uring = pyl_uring_of(reactor);
    unsigned requests = ring_flush(&uring->ring);
    unsigned completions = 1;
    struct wait_argument argument = {.sigmask_size = _NSIG / 8};
    if (pyl_uring_batch_begin_sleep(&uring->batch, timeout_ns)) {
        /* Replies complete while they are submitted: they are not what this waits for. */
        completions = requests + PYL_URING_BATCH_MORE;
        argument.min_wait_usec = PYL_URING_BATCH_WAIT_US;
        /* Without any timeout the kernel would end the wait where the holding out ends. */
        timeout_ns = timeout_ns < 0 ? ENDLESS_NS : timeout_ns;
        pyl_counter_add(&reactor->stats.holdouts, 1);
    }
    struct __kernel_timespec timeout = {.tv_sec = timeout_ns / PYL_NS_PER_S,
                                        .tv_nsec = timeout_ns % PYL_NS_PER_S};
    argument.timeout = timeout_ns > 0 ? (uint64_t)(uintptr_t)&timeout : 0;
    long rc = syscall(__NR_io_uring_enter, uring->ring.ring_fd, requests, completions,
                      IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &argument, sizeof(argument));
    return rc >= 0 ? (int)rc : -errno;
}

/* Submits and waits, in one call. 0 or -errno; -EEXIST: the ring belongs to another thread. */
static int
ring_enter(struct pyl_reactor *reactor, int64_t timeout_ns)
{
    struct io_uring *ring = &pyl_uring_of(reactor)->ring;
    int rc;
    if (io_uring_cq_ready(ring) > 0) {
        timeout_ns = 0;
    }
    if (timeout_ns == 0) {
        if (!ring_has_work(ring)) {
            return 0;
        }
        pyl_counter_add(&reactor->stats.enters, 1);
        rc = io_uring_submit_and_get_events(ring);
    } else {
        pyl_counter_add(&reactor->stats.enters, 1);
        rc = ring_submit_and_wait(reactor, timeout_ns);
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
    struct pyl_uring *uring = pyl_uring_of(reactor);
    struct pyl_list *node = reactor->active_ops.next;
    for (; node != &reactor->active_ops; node = node->next) {
        struct pyl_op *op = PYL_CONTAINER_OF(node, struct pyl_op, active);
        if (op->backend_bits & PYL_URING_IN_KERNEL) {
            op->backend_bits &= (uint8_t)~PYL_URING_IN_KERNEL;
            op->backend_bits |= op->kind == PYL_OP_CONNECT ? PYL_URING_CONNECT_POLL : 0;
            pyl_uring_op_list(&uring->arming, op);
        }
    }
}

/* Takes everything off the ring that is to be closed. Nothing, if there is no memory for it. */
static int
backlog_fill(struct pyl_reactor *reactor)
{
    struct pyl_uring *uring = pyl_uring_of(reactor);
    struct io_uring_cqe *cqe;
    unsigned head;
    unsigned count = 0;
    if (!backlog_reserve(uring, io_uring_cq_ready(&uring->ring))) {
        return -ENOMEM;
    }
    if (io_uring_cq_has_overflow(&uring->ring)) {
        /* The kernel holds more completions, which only the former owner could have fetched. */
        uring->broken = -EOVERFLOW;
        return uring->broken;
    }
    io_uring_for_each_cqe(&uring->ring, head, cqe)
    {
        struct pyl_uring_completion completion;
        count++;
        if (completion_read(reactor, cqe, &completion)) {
            uring->backlog[uring->backlog_count++] = completion;
        }
    }
    io_uring_cq_advance(&uring->ring, count);
    return 0;
}

static void
mark_lent(struct pyl_reactor *reactor, bool *is_lent)
{
    struct pyl_uring *uring = pyl_uring_of(reactor);
    for (uint32_t i = 0; i < uring->backlog_count; i++) {
        uint32_t flags = uring->backlog[i].flags;
        if (flags & IORING_CQE_F_BUFFER) {
            is_lent[flags >> IORING_CQE_BUFFER_SHIFT] = true;
        }
    }
    for (uint32_t i = 0; i < reactor->event_count; i++) {
        if (reactor->events[i].flags & PYL_EVENT_BUFFER) {
            is_lent[reactor->events[i].buffer_id] = true;
        }
    }
}

/*
 * Another thread has become the owner: a loop that ran in a thread is closed, or run, from the main
 * one. A ring cannot change hands, so it is replaced: what has completed is kept, what waits is
 * armed again. The former owner must not be inside any function of this reactor. On -ENOMEM nothing
 * has changed, and the next wait() tries again.
 */
static int
ring_replace(struct pyl_reactor *reactor)
{
    struct pyl_uring *uring = pyl_uring_of(reactor);
    bool *is_lent = pyl_alloc_zero(uring->buffers.count * sizeof(*is_lent));
    if (is_lent == NULL) {
        return -ENOMEM;
    }
    struct io_uring old = uring->ring;
    int rc = backlog_fill(reactor);
    if (rc == 0) {
        old = uring->ring;
        rc = ring_open(uring);
    }
    if (rc < 0) {
        uring->ring = old;
        uring->is_enabled = true;
        pyl_free(is_lent);
        return rc;
    }
    io_uring_queue_exit(&old);
    rearm_active(reactor);
    mark_lent(reactor, is_lent);
    /* Without its buffers a ring is of no use any more. */
    uring->broken = pyl_uring_buffers_move(&uring->buffers, &uring->ring, is_lent);
    pyl_free(is_lent);
    return uring->broken;
}

static int
uring_wait(struct pyl_reactor *reactor, int64_t timeout_ns)
{
    struct pyl_uring *uring = pyl_uring_of(reactor);
    int rc = uring->broken;
    if (rc < 0) {
        return rc;
    }
    uring->round++;
    if (uring->round % TRIM_ROUNDS == 0) {
        pyl_uring_buffers_trim(&uring->buffers);
    }
    for (;;) {
        if (!uring->is_enabled) {
            rc = ring_enable(uring);
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
    pyl_uring_buffers_release(&pyl_uring_of(reactor)->buffers, event->buffer_id);
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
    .perform = pyl_uring_perform,
    .release = uring_release,
    .send_now = uring_send_now,
};
