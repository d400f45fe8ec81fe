/*
 * uring_ops.c - what each kind of op is in io_uring: its request, and what a completion of it
 * means.
 *
 * Tested by tests/backend.
 */
#include "base/alloc.h"
#include "base/check.h"
#include "reactor/socket_call.h"
#include "reactor/uring.h"

#include <errno.h>
#include <poll.h>
#include <sys/stat.h>

/* ---- to the kernel ---- */

/* POLL_ADD answers "always ready" for what cannot be polled; epoll refuses it, and so do we. */
int
pyl_uring_check_poll(const struct pyl_op *op)
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

static void
prepare_recv(struct io_uring_sqe *sqe, struct pyl_op *op)
{
    if (op->backend_bits & PYL_URING_RECV_BULK) {
        io_uring_prep_poll_add(sqe, op->fd, POLLIN);
        op->backend_bits |= PYL_URING_RECV_POLL;
    } else {
        io_uring_prep_recv_multishot(sqe, op->fd, NULL, 0, 0);
        sqe->flags |= IOSQE_BUFFER_SELECT; /* from group 0, see uring_buffers.c */
        op->backend_bits &= (uint8_t)~PYL_URING_RECV_POLL;
    }
}

/* The kernel does less for a request without a message header. */
static void
prepare_send(struct io_uring_sqe *sqe, const struct pyl_op *op)
{
    const struct msghdr *message = op->args.send.message;
    if (message->msg_iovlen == 1 && message->msg_iov->iov_len <= INT32_MAX) {
        const struct iovec *iov = message->msg_iov;
        io_uring_prep_send(sqe, op->fd, iov->iov_base, iov->iov_len, MSG_NOSIGNAL);
    } else {
        io_uring_prep_sendmsg(sqe, op->fd, message, MSG_NOSIGNAL);
    }
}

bool
pyl_uring_op_prepare(struct pyl_reactor *reactor, struct pyl_op *op)
{
    struct io_uring_sqe *sqe = pyl_uring_sqe_get(reactor);
    if (sqe == NULL) {
        return false;
    }
    switch ((enum pyl_op_kind)op->kind) {
    case PYL_OP_ACCEPT:
        io_uring_prep_multishot_accept(sqe, op->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        break;
    case PYL_OP_CONNECT:
        if (op->backend_bits & PYL_URING_CONNECT_POLL) {
            io_uring_prep_poll_add(sqe, op->fd, POLLOUT);
        } else {
            io_uring_prep_connect(sqe, op->fd, op->args.connect.address,
                                  op->args.connect.address_size);
        }
        break;
    case PYL_OP_RECV:
        prepare_recv(sqe, op);
        break;
    case PYL_OP_SEND:
        prepare_send(sqe, op);
        break;
    case PYL_OP_POLL:
        /* One-shot also for MULTISHOT ops: armed again each turn it is level-triggered. */
        io_uring_prep_poll_add(sqe, op->fd, poll_mask(op));
        break;
    }
    io_uring_sqe_set_data(sqe, op);
    op->backend_bits |= PYL_URING_IN_KERNEL;
    return true;
}

bool
pyl_uring_op_prepare_cancel(struct pyl_reactor *reactor, struct pyl_op *op)
{
    struct io_uring_sqe *sqe = pyl_uring_sqe_get(reactor);
    if (sqe == NULL) {
        return false;
    }
    io_uring_prep_cancel(sqe, op, 0);
    io_uring_sqe_set_data64(sqe, PYL_URING_DATA_IGNORED);
    return true;
}

/* ---- from the kernel ---- */

static void
emit(struct pyl_reactor *reactor, struct pyl_event event)
{
    PYL_CHECK(reactor->event_count < reactor->events_max);
    reactor->events[reactor->event_count++] = event;
}

void
pyl_uring_emit_end(struct pyl_reactor *reactor, struct pyl_op *op, int result)
{
    pyl_uring_op_unlist(op);
    emit(reactor, (struct pyl_event){.op = op, .result = result});
}

/* The request has ended, the op has not: flush_lists() arms it again, or ends it if it was
 * cancelled. */
static void
op_rearm(struct pyl_reactor *reactor, struct pyl_op *op)
{
    if (op->kind != PYL_OP_POLL) {
        pyl_counter_add(&reactor->stats.rearms, 1);
    }
    pyl_uring_op_list(&pyl_uring_of(reactor)->arming, op);
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
deliver_accept(struct pyl_reactor *reactor, const struct pyl_uring_completion *completion)
{
    struct pyl_op *op = completion->op;
    bool has_more = (completion->flags & IORING_CQE_F_MORE) != 0;
    if (completion->result >= 0) {
        emit(reactor,
             (struct pyl_event){.op = op, .result = completion->result, .flags = PYL_EVENT_MORE});
    } else if (!is_internal_end(op, completion->result) &&
               !pyl_socket_accept_is_transient(completion->result)) {
        pyl_uring_emit_end(reactor, op, completion->result);
        return;
    }
    if (!has_more) {
        op_rearm(reactor, op);
    }
}

/*
 * A full buffer: more is to come, and in pieces of this size it would cost the program a call each
 * and the processor its caches, since every piece lies in another buffer. So the op goes on in
 * bulk: it asks for readiness, and what is there is received during dispatch, into one buffer that
 * stays hot. Without memory for that one the pieces must do.
 */
static void
recv_begin_bulk(struct pyl_reactor *reactor, struct pyl_op *op)
{
    struct pyl_uring *uring = pyl_uring_of(reactor);
    if (op->backend_bits & PYL_URING_RECV_BULK || op->state != PYL_OP_ACTIVE) {
        return;
    }
    if (uring->bulk == NULL) {
        uring->bulk = pyl_alloc_pages(PYL_URING_BULK_SIZE);
        if (uring->bulk == NULL) {
            return;
        }
    }
    op->backend_bits |= PYL_URING_RECV_BULK;
    op->backend_bits &= (uint8_t)~PYL_URING_RECV_SMALL;
    if (op->backend_bits & PYL_URING_IN_KERNEL && !pyl_uring_op_prepare_cancel(reactor, op)) {
        op->backend_bits &= (uint8_t)~PYL_URING_RECV_BULK; /* no room: with the next full one */
    }
}

/* Two reads in a row that a ring buffer could have held: back to multishot. */
static void
recv_end_bulk(const struct pyl_uring *uring, struct pyl_op *op, int64_t count)
{
    if (count >= uring->buffers.size) {
        op->backend_bits &= (uint8_t)~PYL_URING_RECV_SMALL;
    } else if (op->backend_bits & PYL_URING_RECV_SMALL) {
        op->backend_bits &= (uint8_t) ~(PYL_URING_RECV_BULK | PYL_URING_RECV_SMALL);
    } else {
        op->backend_bits |= PYL_URING_RECV_SMALL;
    }
}

bool
pyl_uring_perform(struct pyl_reactor *reactor, struct pyl_event *slot, struct pyl_event *ret_event)
{
    struct pyl_uring *uring = pyl_uring_of(reactor);
    struct pyl_op *op = slot->op;
    slot->flags &= (uint16_t)~PYL_EVENT_READY;
    *ret_event = (struct pyl_event){.op = op};
    if (op->state == PYL_OP_CANCELLING) {
        ret_event->result = -ECANCELED;
        return true;
    }
    int64_t count = pyl_socket_recv(op->fd, uring->bulk, PYL_URING_BULK_SIZE);
    if (pyl_socket_would_block(count)) {
        op_rearm(reactor, op);
        return false;
    }
    ret_event->result = (int32_t)count;
    if (count > 0) {
        ret_event->flags = PYL_EVENT_MORE;
        ret_event->data = uring->bulk;
        recv_end_bulk(uring, op, count);
        op_rearm(reactor, op);
    }
    return true;
}

static void
note_delivery(struct pyl_uring *uring, struct pyl_op *op)
{
    pyl_uring_batch_note(&uring->batch, uring->round - (uint32_t)op->backend_value);
    op->backend_value = (int32_t)uring->round;
}

/* The completion of a RECV op's poll. */
static void
deliver_recv_poll(struct pyl_reactor *reactor, const struct pyl_uring_completion *completion)
{
    struct pyl_op *op = completion->op;
    note_delivery(pyl_uring_of(reactor), op);
    if (is_internal_end(op, completion->result)) {
        op_rearm(reactor, op);
    } else if (completion->result < 0) {
        pyl_uring_emit_end(reactor, op, completion->result);
    } else {
        emit(reactor, (struct pyl_event){.op = op, .flags = PYL_EVENT_READY});
    }
}

static void
deliver_recv(struct pyl_reactor *reactor, const struct pyl_uring_completion *completion)
{
    struct pyl_uring *uring = pyl_uring_of(reactor);
    struct pyl_op *op = completion->op;
    bool has_buffer = (completion->flags & IORING_CQE_F_BUFFER) != 0;
    if (op->backend_bits & PYL_URING_RECV_POLL && !has_buffer) {
        /* With a buffer: after ring_replace() the backlog may hold data from before the poll. */
        deliver_recv_poll(reactor, completion);
        return;
    }
    uint16_t id = (uint16_t)(completion->flags >> IORING_CQE_BUFFER_SHIFT);

    note_delivery(uring, op);
    if (completion->result > 0) {
        PYL_CHECK(has_buffer);
        emit(reactor, (struct pyl_event){.op = op,
                                         .result = completion->result,
                                         .flags = PYL_EVENT_MORE | PYL_EVENT_BUFFER,
                                         .buffer_id = id,
                                         .data = pyl_uring_buffers_at(&uring->buffers, id)});
        if ((uint32_t)completion->result == uring->buffers.size) {
            recv_begin_bulk(reactor, op);
        }
        if ((completion->flags & IORING_CQE_F_MORE) == 0) {
            op_rearm(reactor, op);
        }
        return;
    }
    if (has_buffer) {
        pyl_uring_buffers_release(&uring->buffers, id);
    }
    if (completion->result == -ENOBUFS) {
        pyl_counter_add(&reactor->stats.starvations, 1);
        if (uring->grown_in != uring->round) {
            uring->grown_in = uring->round;
            pyl_uring_buffers_grow(&uring->buffers);
        }
        bool needs_buffer = (op->backend_bits & PYL_URING_RECV_BULK) == 0;
        pyl_uring_op_list(needs_buffer ? &uring->parked : &uring->arming, op);
    } else if (is_internal_end(op, completion->result)) {
        op_rearm(reactor, op);
    } else {
        pyl_uring_emit_end(reactor, op, completion->result);
    }
}

static void
deliver_connect(struct pyl_reactor *reactor, const struct pyl_uring_completion *completion)
{
    struct pyl_op *op = completion->op;
    int result = completion->result;
    if (op->backend_bits & PYL_URING_CONNECT_POLL && result >= 0) {
        int error = 0;
        socklen_t size = sizeof(error);
        result = getsockopt(op->fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0 ? -errno : -error;
    } else if (result == -EAGAIN) {
        result = -ECONNREFUSED; /* a Unix peer with a full backlog; see readiness.c */
    } else if (is_internal_end(op, result)) {
        op->backend_bits |=
            PYL_URING_CONNECT_POLL; /* connect(2) a second time would say EALREADY */
        op_rearm(reactor, op);
        return;
    }
    pyl_uring_emit_end(reactor, op, result);
}

static void
deliver_send(struct pyl_reactor *reactor, const struct pyl_uring_completion *completion)
{
    if (is_internal_end(completion->op, completion->result)) {
        op_rearm(reactor, completion->op);
    } else {
        pyl_uring_emit_end(reactor, completion->op, completion->result);
    }
}

static void
deliver_poll(struct pyl_reactor *reactor, const struct pyl_uring_completion *completion)
{
    struct pyl_op *op = completion->op;
    if (is_internal_end(op, completion->result)) {
        op_rearm(reactor, op);
        return;
    }
    if (completion->result < 0) {
        pyl_uring_emit_end(reactor, op, completion->result);
        return;
    }
    uint32_t seen = (uint32_t)completion->result;
    int32_t mask = 0;
    mask |= seen & POLLIN ? PYL_POLL_IN : 0;
    mask |= seen & POLLOUT ? PYL_POLL_OUT : 0;
    mask |= seen & POLLERR ? PYL_POLL_ERROR : 0;
    mask |= seen & POLLHUP ? PYL_POLL_HANGUP : 0;
    if (op->flags & PYL_OP_MULTISHOT) {
        emit(reactor, (struct pyl_event){.op = op, .result = mask, .flags = PYL_EVENT_MORE});
        op_rearm(reactor, op);
    } else {
        pyl_uring_emit_end(reactor, op, mask);
    }
}

typedef void deliver_fn(struct pyl_reactor *, const struct pyl_uring_completion *);

static deliver_fn *const deliver_by_kind[] = {
    [PYL_OP_ACCEPT] = deliver_accept, [PYL_OP_CONNECT] = deliver_connect,
    [PYL_OP_RECV] = deliver_recv,     [PYL_OP_SEND] = deliver_send,
    [PYL_OP_POLL] = deliver_poll,
};

void
pyl_uring_deliver(struct pyl_reactor *reactor, const struct pyl_uring_completion *completion)
{
    deliver_by_kind[completion->op->kind](reactor, completion);
}
