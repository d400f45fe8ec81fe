/*
 * stream.c - life and reading side of a stream. The queue and sending are in stream_write.c.
 *
 * Owner callbacks are made from completions (on_data, on_buffer_filled, on_eof), from the
 * end-of-turn job (on_progress) and from the event job (all others), never from inside a call of
 * the owner's; only `release` may run there.
 *
 * Invariant: data is given to the owner in order. While anything is held, what arrives is appended
 * to it, and how reading ended is told after the last held byte.
 */
#include "io/stream.h"

#include "base/alloc.h"
#include "base/check.h"
#include "base/platform.h"
#include "io/stream_internal.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum {
    SMALL_READ_SIZE = PYL_TINY_LIMITS ? 512 : 16384, /* one of the ring's buffers */
    SMALL_READS_MIN = 2,
};

static void run_flush(struct pyl_job *job);
static void run_event(struct pyl_job *job);
static void read_complete(struct pyl_op *op, const struct pyl_event *event);

void
pyl_stream_init(struct pyl_stream *stream, struct pyl_worker *worker, int fd, bool owns_fd,
                const struct pyl_stream_ops *ops)
{
    memset(stream, 0, sizeof(*stream));
    stream->ops = ops;
    stream->worker = worker;
    stream->fd = fd;
    stream->owns_fd = owns_fd;
    stream->state = PYL_STREAM_OPEN;
    stream->writes = stream->inline_writes;
    stream->write_capacity = PYL_STREAM_INLINE_WRITES;
    stream->flush_job.run = run_flush;
    stream->event_job.run = run_event;
    stream->read_op.fd = fd;
    stream->read_op.on_complete = read_complete;
}

void
pyl_stream_queue_event(struct pyl_stream *stream)
{
    if (!stream->is_event_queued) {
        stream->is_event_queued = true;
        pyl_worker_post(stream->worker, &stream->event_job);
    }
}

/* Reading: wanted by the owner, and something can still come. */
static bool
can_deliver(const struct pyl_stream *stream)
{
    return stream->is_reading && !stream->has_eof && stream->state < PYL_STREAM_CLOSING &&
           !stream->worker->is_closing;
}

/* Bytes first up to size are not delivered yet. */
struct pyl_held {
    size_t first;
    size_t size;
    size_t capacity;
    uint8_t data[];
};

static size_t
held_left(const struct pyl_stream *stream)
{
    return stream->held != NULL ? stream->held->size - stream->held->first : 0;
}

static void
free_held(struct pyl_stream *stream)
{
    pyl_free(stream->held);
    stream->held = NULL;
}

/* Copies what the owner does not want yet. */
static void
hold(struct pyl_stream *stream, const uint8_t *data, size_t size)
{
    struct pyl_held *held = stream->held;
    size_t held_size = held != NULL ? held->size : 0;
    if (held == NULL || held->capacity - held_size < size) {
        size_t capacity = held != NULL ? held->capacity * 2 : 0;
        if (capacity < held_size + size) {
            capacity = held_size + size;
        }
        held = pyl_realloc(held, sizeof(*held) + capacity);
        if (held == NULL) {
            pyl_stream_fail(stream, -ENOMEM);
            return;
        }
        if (stream->held == NULL) {
            held->first = 0;
        }
        held->capacity = capacity;
        stream->held = held;
    }
    memcpy(held->data + held_size, data, size);
    held->size = held_size + size;
}

/* Asks the owner for memory. Returns its size, or 0 when nothing is to be read now. */
static size_t
get_memory(struct pyl_stream *stream, void **ret_memory)
{
    size_t size = 0;
    void *memory = stream->ops->get_buffer(stream, &size);
    if (!can_deliver(stream)) {
        return 0;
    }
    if (memory == NULL || size == 0) {
        pyl_stream_fail(stream, -ENOBUFS);
        return 0;
    }
    *ret_memory = memory;
    return size;
}

/* `size` bytes were read where there was room for `room`. */
static void
note_direct_read(struct pyl_stream *stream, size_t size, size_t room)
{
    if (size >= SMALL_READ_SIZE || room < SMALL_READ_SIZE) {
        stream->small_reads = 0;
    } else if (stream->small_reads < SMALL_READS_MIN) {
        stream->small_reads++;
    }
}

/* deliver() to an owner that has memory for it, and may change its mind in a callback. */
static size_t
deliver_copy(struct pyl_stream *stream, const uint8_t *data, size_t size)
{
    size_t taken = 0;
    while (taken < size && can_deliver(stream)) {
        if (!stream->is_direct_read) {
            stream->ops->on_data(stream, data + taken, size - taken);
            return size;
        }
        void *memory = NULL;
        size_t room = get_memory(stream, &memory);
        if (room == 0) {
            break;
        }
        note_direct_read(stream, size, room);
        size_t count = room < size - taken ? room : size - taken;
        memcpy(memory, data + taken, count);
        taken += count;
        stream->ops->on_buffer_filled(stream, count);
    }
    return taken;
}

/* Gives received bytes to the owner, in whichever way it wants them now. Returns how many it took;
 * the rest is the caller's to keep. */
static inline size_t
deliver(struct pyl_stream *stream, const uint8_t *data, size_t size)
{
    if (PYL_UNLIKELY(stream->is_direct_read)) {
        return deliver_copy(stream, data, size);
    }
    if (!can_deliver(stream)) {
        return 0;
    }
    stream->ops->on_data(stream, data, size);
    return size;
}

/* Tells how reading ended, when it has and nothing is held any more. */
static void
deliver_end(struct pyl_stream *stream)
{
    if (stream->read_end == PYL_READ_GOES_ON || held_left(stream) > 0 || !can_deliver(stream)) {
        return;
    }
    if (stream->read_end == PYL_READ_FAILED) {
        pyl_stream_fail(stream, stream->read_error);
        return;
    }
    stream->has_eof = true;
    stream->is_reading = false;
    stream->ops->on_eof(stream);
}

static void
deliver_held(struct pyl_stream *stream)
{
    while (held_left(stream) > 0 && can_deliver(stream)) {
        /* Detached: a callback may dispose of nothing, but new data may be held meanwhile. */
        struct pyl_held *held = stream->held;
        stream->held = NULL;
        held->first += deliver(stream, held->data + held->first, held->size - held->first);
        if (held->first == held->size || stream->state >= PYL_STREAM_CLOSING) {
            pyl_free(held);
            continue;
        }
        PYL_CHECK(stream->held == NULL); /* nothing is dispatched inside a callback */
        stream->held = held;
    }
    deliver_end(stream);
}

/*
 * Direct reading saves a copy and costs a system call for each read. Where the backend batches, a
 * RECV op needs none, and small reads are cheaper copied out of its buffer. Only into memory that
 * takes it all: an owner with less memory gets one piece a turn, as from any other event loop.
 */
static uint8_t
read_kind(const struct pyl_stream *stream)
{
    if (PYL_LIKELY(!stream->is_direct_read)) {
        return PYL_OP_RECV;
    }
    bool batches = (stream->worker->reactor.ops->features & PYL_BACKEND_BATCHES) != 0;
    return batches && stream->small_reads >= SMALL_READS_MIN ? PYL_OP_RECV : PYL_OP_POLL;
}

/*
 * The one place that compares the read op with what is wanted. An op that is being cancelled is
 * left alone: its terminal completion comes here again.
 */
static void
update_read_op(struct pyl_stream *stream)
{
    struct pyl_op *op = &stream->read_op;
    bool is_wanted =
        can_deliver(stream) && stream->read_end == PYL_READ_GOES_ON && held_left(stream) == 0;
    if (PYL_LIKELY(op->state == PYL_OP_ACTIVE)) {
        if (!is_wanted || op->kind != read_kind(stream)) {
            pyl_reactor_cancel(&stream->worker->reactor, op);
        }
    } else if (op->state == PYL_OP_IDLE && is_wanted) {
        op->kind = read_kind(stream);
        op->flags = PYL_OP_MULTISHOT | (stream->is_tcp ? PYL_OP_TCP : 0);
        if (op->kind == PYL_OP_POLL) {
            op->args.poll.events = PYL_POLL_IN;
        }
        pyl_reactor_submit(&stream->worker->reactor, op);
    }
}

static void
end_reading(struct pyl_stream *stream, int result)
{
    if (stream->read_end == PYL_READ_GOES_ON) {
        stream->read_end = result == 0 ? PYL_READ_EOF : PYL_READ_FAILED;
        stream->read_error = result;
    }
}

/* The socket is readable: receives straight into the owner's memory, once. */
static void
read_direct(struct pyl_stream *stream)
{
    void *memory = NULL;
    if (!can_deliver(stream) || held_left(stream) > 0 || !stream->is_direct_read) {
        return; /* still readable when reading goes on */
    }
    size_t size = get_memory(stream, &memory);
    if (size == 0) {
        return;
    }
    int64_t count = pyl_reactor_recv_now(&stream->worker->reactor, stream->fd, memory, size);
    if (count > 0) {
        note_direct_read(stream, (size_t)count, size);
        stream->ops->on_buffer_filled(stream, (size_t)count);
    } else if (count != -EAGAIN) {
        end_reading(stream, (int)count);
        deliver_end(stream);
    }
}

static void
receive(struct pyl_stream *stream, const uint8_t *data, size_t size)
{
    if (stream->state >= PYL_STREAM_CLOSING || stream->worker->is_closing) {
        return;
    }
    size_t taken = held_left(stream) > 0 ? 0 : deliver(stream, data, size);
    if (taken < size && stream->state < PYL_STREAM_CLOSING) {
        hold(stream, data + taken, size - taken);
    }
}

static void
read_complete(struct pyl_op *op, const struct pyl_event *event)
{
    struct pyl_stream *stream = PYL_CONTAINER_OF(op, struct pyl_stream, read_op);
    if (op->kind == PYL_OP_POLL && event->result >= 0) {
        read_direct(stream);
    } else if (event->result > 0) {
        receive(stream, event->data, (size_t)event->result);
    } else if (event->result != -ECANCELED) {
        end_reading(stream, event->result);
        deliver_end(stream);
    }
    update_read_op(stream);
    pyl_stream_settle(stream);
}

void
pyl_stream_read_start(struct pyl_stream *stream)
{
    if (stream->is_reading || stream->has_eof || stream->state >= PYL_STREAM_CLOSING) {
        return;
    }
    stream->is_reading = true;
    if (held_left(stream) > 0 || stream->read_end != PYL_READ_GOES_ON) {
        pyl_stream_queue_event(stream);
    } else {
        update_read_op(stream);
    }
}

void
pyl_stream_read_stop(struct pyl_stream *stream)
{
    if (!stream->is_reading) {
        return;
    }
    stream->is_reading = false;
    /* The op is cancelled at the end of the turn: whoever starts again before pays nothing. */
    if (stream->read_op.state == PYL_OP_ACTIVE) {
        pyl_stream_queue_flush(stream);
    }
}

void
pyl_stream_set_direct_read(struct pyl_stream *stream, bool is_direct)
{
    PYL_DCHECK(!is_direct || stream->ops->get_buffer != NULL);
    if (stream->is_direct_read != is_direct) {
        stream->is_direct_read = is_direct;
        stream->small_reads = 0;
        if (stream->read_op.state == PYL_OP_ACTIVE) {
            pyl_stream_queue_flush(stream);
        }
    }
}

static void
run_flush(struct pyl_job *job)
{
    struct pyl_stream *stream = PYL_CONTAINER_OF(job, struct pyl_stream, flush_job);
    stream->is_flush_queued = false;
    update_read_op(stream);
    pyl_stream_send_queue(stream, stream->worker->flushes_running > 1);
    pyl_stream_report_progress(stream);
    pyl_stream_settle(stream);
}

/* Nothing is left to send, nor will the owner write more when told of progress. Cancelled ops may
 * still have to end. */
static bool
is_drained(const struct pyl_stream *stream)
{
    if (stream->state != PYL_STREAM_CLOSING || stream->is_releasing) {
        return false;
    }
    return stream->is_aborting || (stream->write_count == 0 && !stream->is_progress_pending);
}

static bool
is_ready_to_end(const struct pyl_stream *stream)
{
    return is_drained(stream) && stream->write_count == 0 && !stream->is_flush_queued &&
           pyl_op_is_idle(&stream->read_op) && !pyl_stream_is_sending(stream);
}

void
pyl_stream_settle(struct pyl_stream *stream)
{
    if (stream->worker->is_closing) {
        return;
    }
    if (is_ready_to_end(stream) || (is_drained(stream) && !stream->is_lost)) {
        pyl_stream_queue_event(stream);
    }
}

/* Frees what the stream owns but the fd. */
static void
free_memory(struct pyl_stream *stream)
{
    free_held(stream);
    pyl_stream_free_send(stream);
    if (stream->writes != stream->inline_writes) {
        pyl_free(stream->writes);
        stream->writes = stream->inline_writes;
        stream->write_capacity = PYL_STREAM_INLINE_WRITES;
    }
}

/* The owner may free the stream in on_closed. */
static void
end(struct pyl_stream *stream)
{
    struct pyl_reactor *reactor = &stream->worker->reactor;
    int fd = stream->fd;
    bool owns_fd = stream->owns_fd;
    stream->state = PYL_STREAM_CLOSED;
    free_memory(stream);
    pyl_reactor_forget(reactor, fd);
    stream->ops->on_closed(stream);
    if (owns_fd) {
        pyl_reactor_close_now(reactor, fd);
    }
}

static void
run_event(struct pyl_job *job)
{
    struct pyl_stream *stream = PYL_CONTAINER_OF(job, struct pyl_stream, event_job);
    stream->is_event_queued = false;
    if (stream->is_error_pending) {
        stream->is_error_pending = false;
        stream->ops->on_error(stream, stream->error);
    }
    if (stream->state < PYL_STREAM_CLOSING) {
        deliver_held(stream);
        update_read_op(stream);
    }
    /* Delivering may have met an error: then the job is queued again and tells it first. */
    if (is_drained(stream) && !stream->is_lost && !stream->is_error_pending) {
        stream->is_lost = true;
        if (stream->ops->on_lost != NULL) {
            stream->ops->on_lost(stream);
        }
    }
    /* A callback may have queued this job again: then that one ends the stream. */
    if (is_ready_to_end(stream) && !stream->is_event_queued) {
        end(stream);
    }
}

static void
start_closing(struct pyl_stream *stream)
{
    stream->state = PYL_STREAM_CLOSING;
    stream->is_reading = false;
    free_held(stream);
    pyl_reactor_cancel(&stream->worker->reactor, &stream->read_op);
}

void
pyl_stream_close(struct pyl_stream *stream)
{
    if (stream->state >= PYL_STREAM_CLOSING) {
        return;
    }
    start_closing(stream);
    pyl_stream_settle(stream);
}

void
pyl_stream_abort(struct pyl_stream *stream)
{
    if (stream->state == PYL_STREAM_CLOSED || stream->is_aborting) {
        return;
    }
    stream->is_aborting = true;
    if (stream->state < PYL_STREAM_CLOSING) {
        start_closing(stream);
    }
    pyl_stream_cancel_send(stream);
    pyl_stream_drop_queue(stream);
    pyl_stream_settle(stream);
}

void
pyl_stream_fail(struct pyl_stream *stream, int error)
{
    if (stream->state == PYL_STREAM_CLOSED || stream->is_aborting) {
        return;
    }
    stream->error = error;
    stream->is_error_pending = true;
    pyl_stream_queue_event(stream);
    pyl_stream_abort(stream);
}

void
pyl_stream_shutdown(struct pyl_stream *stream)
{
    if (stream->state == PYL_STREAM_OPEN && !stream->is_shutdown_wanted) {
        stream->is_shutdown_wanted = true;
        pyl_stream_try_shutdown(stream);
    }
}

void
pyl_stream_dispose(struct pyl_stream *stream)
{
    if (stream->state == PYL_STREAM_CLOSED) {
        return;
    }
    PYL_CHECK(pyl_op_is_idle(&stream->read_op) && !pyl_stream_is_sending(stream));
    stream->state = PYL_STREAM_CLOSED;
    stream->is_aborting = true;
    stream->is_reading = false;
    pyl_stream_drop_queue(stream);
    free_memory(stream);
    if (stream->owns_fd) {
        (void)close(stream->fd);
    }
}
