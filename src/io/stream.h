/*
 * stream.h - a connected byte stream (TCP, Unix): reading with flow control, a write queue that
 * leaves in one vectored send a turn, half-close, close, abort.
 *
 * The stream is embedded in its owner's object, which must live until on_closed. Owner thread only.
 *
 *   OPEN --shutdown--> SHUT (write side closed after the queue) --.
 *     |                                                           |
 *     +--close--> CLOSING (queue drains) --> CLOSED  <--abort-----+   (abort: from any state, queue dropped)
 *
 * CLOSED is entered, and on_closed called, only when no op is active: the fd number cannot be reused
 * before. on_closed is the last call a stream makes.
 */
#ifndef PYL_IO_STREAM_H
#define PYL_IO_STREAM_H

#include "reactor/op.h"
#include "sched/worker.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pyl_stream;

/* Called when the bytes of a write are no longer needed (sent or dropped), exactly once each, in
 * order; may run inside pyl_stream_write, flush, close and abort. */
typedef void pyl_release_fn(struct pyl_stream *stream, void *owner);

struct pyl_stream_ops {
    /* At most once per turn and stream. `data` is lent until the call returns. */
    void (*on_data)(struct pyl_stream *stream, const uint8_t *data, size_t size);
    /* Optional, instead of on_data where set and enabled by pyl_stream_set_direct_read(): gives
     * memory for the next read. A size of 0 stops reading with -ENOBUFS to on_error. */
    void *(*get_buffer)(struct pyl_stream *stream, size_t *ret_size);
    /* `size` bytes were read into what get_buffer returned. */
    void (*on_buffer_filled)(struct pyl_stream *stream, size_t size);
    /* The peer closed its side. Reading has ended; the stream stays open for writing. */
    void (*on_eof)(struct pyl_stream *stream);
    /* Reading or writing failed (negative errno). The stream is being aborted: on_closed follows. */
    void (*on_error)(struct pyl_stream *stream, int error);
    /* The queue got shorter; optional. Look at pyl_stream_queued_size(). */
    void (*on_progress)(struct pyl_stream *stream);
    /* Last call. `fd` is still open and no longer known to the reactor: with owns_fd the stream closes it
     * right after this returns, otherwise it is the callee's. */
    void (*on_closed)(struct pyl_stream *stream);
    pyl_release_fn *release;
};

enum pyl_stream_state { PYL_STREAM_OPEN, PYL_STREAM_SHUT, PYL_STREAM_CLOSING, PYL_STREAM_CLOSED };

/* One queued write: bytes and whoever keeps them alive. */
struct pyl_write {
    const uint8_t *data;
    size_t size;
    void *owner;
};

enum { PYL_STREAM_INLINE_WRITES = 4 };

struct pyl_stream {
    const struct pyl_stream_ops *ops;
    struct pyl_worker *worker;
    int fd;
    uint8_t state; /* enum pyl_stream_state */
    bool owns_fd;
    bool is_reading;      /* wanted by the owner */
    bool is_direct_read;
    bool has_eof;
    bool is_shutdown_wanted;
    bool is_flush_queued; /* flush_job is in worker->deferred */
    int error;            /* first error, 0 */
    struct pyl_op read_op;
    struct pyl_op send_op;
    struct pyl_job flush_job;
    struct pyl_job close_job;
    /* Data that arrived after reading was paused; delivered first on resume. */
    uint8_t *held;
    size_t held_size;
    size_t held_capacity;
    /* Ring of queued writes, `first` partly sent up to first_sent. */
    struct pyl_write *writes;
    uint32_t write_first;
    uint32_t write_count;
    uint32_t write_capacity;
    size_t first_sent;
    size_t queued_size; /* bytes not yet taken by the kernel */
    struct pyl_write inline_writes[PYL_STREAM_INLINE_WRITES];
    struct iovec *send_iov; /* of the active SEND op */
};

/* The fd is a connected, non-blocking socket. Nothing is read before pyl_stream_read_start(). */
void pyl_stream_init(struct pyl_stream *stream, struct pyl_worker *worker, int fd, bool owns_fd,
                     const struct pyl_stream_ops *ops);

/* Both may be called at any time, also twice, also from callbacks; after eof and close: nothing. */
void pyl_stream_read_start(struct pyl_stream *stream);
void pyl_stream_read_stop(struct pyl_stream *stream);
/* Chooses between on_data and get_buffer; between any two reads. */
void pyl_stream_set_direct_read(struct pyl_stream *stream, bool is_direct);

/*
 * Queues bytes behind everything already queued; sent at the end of the turn or by flush.
 *
 * Owns:    on success the stream holds `data` until release(owner); owner may be NULL (static
 *          bytes: release is not called). On failure nothing is kept.
 * Returns: 0; -EPIPE after shutdown or close; -ENOMEM. size 0 releases at once.
 */
PYL_NODISCARD int pyl_stream_write(struct pyl_stream *stream, const void *data, size_t size,
                                   void *owner);

/* Tries to send what is queued at once, without waiting. Errors go to on_error, later. */
void pyl_stream_flush(struct pyl_stream *stream);

static inline size_t
pyl_stream_queued_size(const struct pyl_stream *stream)
{
    return stream->queued_size;
}

/* Sends FIN when the queue is empty. Reading goes on. */
void pyl_stream_shutdown(struct pyl_stream *stream);
/* Stops reading, sends the queue, then closes. on_closed comes in a later turn. */
void pyl_stream_close(struct pyl_stream *stream);
/* Drops the queue (releasing each write) and closes. on_closed comes in a later turn. */
void pyl_stream_abort(struct pyl_stream *stream);

#endif
