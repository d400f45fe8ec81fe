/*
 * stream_write.c - the write queue of a stream and how it gets into the kernel.
 *
 * At the end of a turn the queue leaves in one vectored send: at once through
 * pyl_reactor_send_now(), or, where the backend batches and other streams send too, as an op that
 * enters the kernel with the next wait. What the kernel does not take stays as a SEND op.
 *
 * Invariant: at most one SEND op is active, it covers the head of the queue, and nothing of the
 * queue is released while it is active.
 */
#include "io/stream_internal.h"

#include "base/alloc.h"
#include "base/check.h"

#include <errno.h>
#include <string.h>

enum {
    CACHED_VECTORS = 2,           /* of the sends that a worker keeps for the next ones */
    SEND_VECTORS_MAX = 64,        /* per system call; the kernel's own limit is 1024 */
    SEND_BYTES_MAX = 1024 * 1024, /* per stream and turn, before others get their chance */
};

struct pyl_send {
    struct pyl_op op;
    struct pyl_stream *stream;
    struct msghdr message;
    uint32_t capacity;  /* of iov */
    struct iovec iov[]; /* their bytes are the queue's */
};

static void send_complete(struct pyl_op *op, const struct pyl_event *event);

bool
pyl_stream_is_sending(const struct pyl_stream *stream)
{
    return stream->send != NULL && !pyl_op_is_idle(&stream->send->op);
}

void
pyl_stream_cancel_send(struct pyl_stream *stream)
{
    if (stream->send != NULL) {
        pyl_reactor_cancel(&stream->worker->reactor, &stream->send->op);
    }
}

void
pyl_stream_free_send(struct pyl_stream *stream)
{
    pyl_free(stream->send);
    stream->send = NULL;
}

static struct pyl_write *
write_at(const struct pyl_stream *stream, uint32_t index)
{
    return &stream->writes[(stream->write_first + index) & (stream->write_capacity - 1)];
}

/* Returns 0 or -ENOMEM. */
static int
grow_ring(struct pyl_stream *stream)
{
    uint32_t capacity = stream->write_capacity * 4;
    if (capacity < stream->write_capacity) {
        return -ENOMEM;
    }
    struct pyl_write *grown = pyl_alloc_array(capacity, sizeof(*grown));
    if (grown == NULL) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < stream->write_count; i++) {
        grown[i] = *write_at(stream, i);
    }
    if (stream->writes != stream->inline_writes) {
        pyl_free(stream->writes);
    }
    stream->writes = grown;
    stream->write_capacity = capacity;
    stream->write_first = 0;
    return 0;
}

/* An idle stream goes back to its inline slots, so that one burst does not cost memory for ever. */
static void
shrink_ring(struct pyl_stream *stream)
{
    if (stream->write_count == 0 && stream->writes != stream->inline_writes) {
        pyl_free(stream->writes);
        stream->writes = stream->inline_writes;
        stream->write_capacity = PYL_STREAM_INLINE_WRITES;
        stream->write_first = 0;
    }
}

static void
pop_write(struct pyl_stream *stream)
{
    void *owner = write_at(stream, 0)->owner;
    stream->write_first = (stream->write_first + 1) & (stream->write_capacity - 1);
    stream->write_count--;
    stream->first_sent = 0;
    if (owner != NULL) {
        stream->ops->release(stream, owner);
    }
}

static bool
is_draining(const struct pyl_stream *stream)
{
    return stream->state == PYL_STREAM_CLOSING && !stream->is_aborting && !stream->is_lost;
}

int
pyl_stream_write(struct pyl_stream *stream, const void *data, size_t size, void *owner)
{
    if ((PYL_UNLIKELY(stream->state != PYL_STREAM_OPEN) && !is_draining(stream)) ||
        stream->is_shutdown_wanted) {
        return -EPIPE;
    }
    if (size == 0) {
        if (owner != NULL) {
            stream->ops->release(stream, owner);
        }
        return 0;
    }
    if (stream->write_count == stream->write_capacity) {
        int rc = grow_ring(stream);
        if (rc < 0) {
            return rc;
        }
    }
    *write_at(stream, stream->write_count) =
        (struct pyl_write){.data = data, .size = size, .owner = owner};
    stream->write_count++;
    stream->queued_size += size;
    if (pyl_stream_is_sending(stream)) {
        return 0; /* send_complete() goes on with it */
    }
    if (!stream->is_flush_queued) {
        stream->worker->flushes_wanted++;
        pyl_stream_queue_flush(stream);
    }
    pyl_worker_note_unsent(stream->worker, size);
    return 0;
}

/* Takes `count` sent bytes off the queue. Releasing may run the owner's code, which may write,
 * flush or abort: is_releasing keeps it from sending bytes twice. */
static void
consume(struct pyl_stream *stream, size_t count)
{
    stream->is_releasing = true;
    stream->is_progress_pending = stream->ops->on_progress != NULL;
    stream->queued_size -= count;
    while (stream->write_count > 0) {
        size_t left = write_at(stream, 0)->size - stream->first_sent;
        if (count < left) {
            stream->first_sent += count;
            break;
        }
        count -= left;
        pop_write(stream);
        if (count == 0) {
            break;
        }
    }
    stream->is_releasing = false;
    if (stream->is_aborting) {
        pyl_stream_drop_queue(stream); /* asked for by a release */
    }
    shrink_ring(stream);
}

void
pyl_stream_drop_queue(struct pyl_stream *stream)
{
    if (stream->is_releasing || pyl_stream_is_sending(stream)) {
        return;
    }
    stream->is_releasing = true;
    stream->queued_size = 0;
    while (stream->write_count > 0) {
        pop_write(stream);
    }
    stream->is_releasing = false;
    shrink_ring(stream);
}

/* Describes the head of the queue, which is not empty. Returns how many vectors; *ret_size is their
 * sum. */
static int
fill_vectors(const struct pyl_stream *stream, struct iovec *iov, int capacity, size_t *ret_size)
{
    size_t size = 0;
    size_t skip = stream->first_sent;
    int count = 0;
    do {
        const struct pyl_write *item = write_at(stream, (uint32_t)count);
        size_t left = item->size - skip;
        if (left > SEND_BYTES_MAX - size) {
            left = SEND_BYTES_MAX - size;
        }
        iov[count].iov_base = (void *)(item->data + skip);
        iov[count].iov_len = left;
        size += left;
        skip = 0;
        count++;
    } while (count < capacity && (uint32_t)count < stream->write_count && size < SEND_BYTES_MAX);
    *ret_size = size;
    return count;
}

/* For `count` writes, or the first of them. NULL without memory. */
static struct pyl_send *
make_send(struct pyl_worker *worker, uint32_t count)
{
    struct pyl_send *send = NULL;
    uint32_t capacity = count < SEND_VECTORS_MAX ? count : SEND_VECTORS_MAX;
    if (capacity <= CACHED_VECTORS) {
        capacity = CACHED_VECTORS;
        send = pyl_block_cache_take(&worker->sends);
    }
    if (send == NULL) {
        send = pyl_alloc(sizeof(*send) + capacity * sizeof(send->iov[0]));
        if (send == NULL) {
            return NULL;
        }
        *send = (struct pyl_send){.op = {.kind = PYL_OP_SEND}, .capacity = capacity};
        send->op.args.send.message = &send->message;
        send->message.msg_iov = send->iov;
    }
    send->op.on_complete = send_complete; /* also where the cache has its link */
    return send;
}

/* Hands the head of the queue to the reactor. */
static void
submit_send(struct pyl_stream *stream)
{
    PYL_DCHECK(stream->send == NULL);
    struct pyl_send *send = make_send(stream->worker, stream->write_count);
    if (send == NULL) {
        pyl_stream_fail(stream, -ENOMEM);
        return;
    }
    size_t size;
    send->message.msg_iovlen = (size_t)fill_vectors(stream, send->iov, (int)send->capacity, &size);
    send->op.fd = stream->fd;
    send->stream = stream;
    stream->send = send;
    pyl_reactor_submit(&stream->worker->reactor, &send->op);
}

static bool
may_send(const struct pyl_stream *stream)
{
    return stream->write_count > 0 && !stream->is_releasing && !stream->is_aborting &&
           !pyl_stream_is_sending(stream) && !stream->worker->is_closing;
}

/* Sends until the queue is empty, the socket is full, or this stream had its share. */
static void
send_now(struct pyl_stream *stream)
{
    struct iovec iov[SEND_VECTORS_MAX];
    size_t total = 0;
    while (may_send(stream) && total < SEND_BYTES_MAX) {
        size_t size;
        int count = fill_vectors(stream, iov, SEND_VECTORS_MAX, &size);
        int64_t sent = pyl_reactor_send_now(&stream->worker->reactor, stream->fd, iov, count);
        if (sent < 0 && sent != -EAGAIN) {
            pyl_stream_fail(stream, (int)sent);
            return;
        }
        if (sent > 0) {
            total += (size_t)sent;
            pyl_worker_note_sent(stream->worker, (size_t)sent);
            consume(stream, (size_t)sent);
        }
        if (sent < 0 || (size_t)sent < size) {
            break;
        }
    }
    if (may_send(stream)) {
        submit_send(stream);
    }
    pyl_stream_try_shutdown(stream);
}

void
pyl_stream_send_queue(struct pyl_stream *stream, bool is_batched)
{
    if (!may_send(stream)) {
        return;
    }
    if (is_batched && (stream->worker->reactor.ops->features & PYL_BACKEND_BATCHES) != 0) {
        submit_send(stream);
    } else {
        send_now(stream);
    }
}

void
pyl_stream_flush(struct pyl_stream *stream)
{
    pyl_stream_send_queue(stream, false);
    if (stream->is_progress_pending) {
        pyl_stream_queue_flush(stream);
    }
    pyl_stream_settle(stream);
}

void
pyl_stream_report_progress(struct pyl_stream *stream)
{
    if (stream->is_progress_pending) {
        stream->is_progress_pending = false;
        if (!stream->is_aborting && !stream->worker->is_closing) {
            stream->ops->on_progress(stream);
        }
    }
}

void
pyl_stream_try_shutdown(struct pyl_stream *stream)
{
    if (!stream->is_shutdown_wanted || stream->state != PYL_STREAM_OPEN ||
        stream->write_count > 0 || stream->is_releasing || pyl_stream_is_sending(stream)) {
        return;
    }
    stream->state = PYL_STREAM_SHUT;
    int rc = pyl_reactor_shutdown_now(&stream->worker->reactor, stream->fd);
    if (rc < 0 && rc != -ENOTCONN) { /* a connection that is gone says so to the reader */
        pyl_stream_fail(stream, rc);
    }
}

static void
send_complete(struct pyl_op *op, const struct pyl_event *event)
{
    struct pyl_send *send = PYL_CONTAINER_OF(op, struct pyl_send, op);
    struct pyl_stream *stream = send->stream;
    stream->send = NULL;
    if (send->capacity == CACHED_VECTORS) {
        pyl_block_cache_give(&stream->worker->sends, send);
    } else {
        pyl_free(send);
    }
    if (event->result > 0) {
        consume(stream, (size_t)event->result);
    } else if (event->result < 0 && event->result != -ECANCELED) {
        pyl_stream_fail(stream, event->result);
    }
    if (stream->is_aborting) {
        pyl_stream_drop_queue(stream);
    }
    pyl_stream_report_progress(stream);
    if (may_send(stream)) {
        submit_send(stream);
    }
    pyl_stream_try_shutdown(stream);
    pyl_stream_settle(stream);
}
