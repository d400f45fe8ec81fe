/*
 * stream.h - a connected byte stream (TCP, Unix): reading with flow control, a write queue that
 * leaves in one vectored send a turn, half-close, close, abort.
 *
 * The stream is embedded in its owner's object, which must live until on_closed. Owner thread only.
 *
 *   OPEN --shutdown--> SHUT (write side closed after the queue) --.
 *     |                                                           |
 *     +--close--> CLOSING (queue drains) --> CLOSED  <--abort-----+   (abort: from any state, queue
 * dropped)
 *
 * From pyl_worker_fini() on, a stream makes no call but release: see pyl_stream_dispose().
 *
 * CLOSED is entered, and on_closed called, only when no op is active: the fd number cannot be
 * reused before. on_closed is the last call a stream makes.
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
 * order; may run inside pyl_stream_write, flush, close and abort, and may call them. Bytes that the
 * kernel still refers to are released after their op has ended, also after an abort. */
typedef void pyl_release_fn(struct pyl_stream *stream, void *owner);

struct pyl_stream_ops {
    /* Once per turn and stream, or once per full ring buffer. `data` is lent until the call
     * returns. */
    void (*on_data)(struct pyl_stream *stream, const uint8_t *data, size_t size);
    /* Optional, instead of on_data where set and enabled by pyl_stream_set_direct_read(): gives
     * memory for the next read, which is received into it, or copied: see read_kind(). It may turn
     * out that there was nothing to read, and no other call follows. A size of 0 ends the stream
     * with -ENOBUFS to on_error, unless the callback itself stopped reading, closed or aborted. */
    void *(*get_buffer)(struct pyl_stream *stream, size_t *ret_size);
    /* `size` bytes were read into what get_buffer returned. */
    void (*on_buffer_filled)(struct pyl_stream *stream, size_t size);
    /* The peer closed its side. Reading has ended; the stream stays open for writing. */
    void (*on_eof)(struct pyl_stream *stream);
    /* Reading or writing failed (negative errno); at most once, and not after an abort. The stream
     * is being aborted: on_closed follows. */
    void (*on_error)(struct pyl_stream *stream, int error);
    /* The queue got shorter; optional. Look at pyl_stream_queued_size(). Never runs inside a call
     * of the owner's. */
    void (*on_progress)(struct pyl_stream *stream);
    /* The stream is closing and nothing is left to send or to deliver: asyncio's moment for
     * connection_lost. Optional. on_closed follows when the last op has ended, often at once. */
    void (*on_lost)(struct pyl_stream *stream);
    /* Last call. `fd` is still open and no longer known to the reactor: with owns_fd the stream
     * closes it right after this returns, otherwise it is the callee's. */
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

enum { PYL_STREAM_INLINE_WRITES = 2 };

/* A SEND op and what it refers to. */
struct pyl_send;
/* Data that arrived while the owner did not read. */
struct pyl_held;

/* How reading ended; told to the owner behind the data that came before. */
enum pyl_stream_read_end { PYL_READ_GOES_ON, PYL_READ_EOF, PYL_READ_FAILED };

struct pyl_stream {
    const struct pyl_stream_ops *ops;
    struct pyl_worker *worker;
    uint8_t state;    /* enum pyl_stream_state */
    uint8_t read_end; /* enum pyl_stream_read_end */
    bool owns_fd;
    bool is_tcp;     /* known to be; may be set right after pyl_stream_init() */
    bool is_reading; /* wanted by the owner */
    bool is_direct_read;
    uint8_t small_reads; /* direct reads in a row that a RECV op would have done, see read_kind() */
    bool has_eof;        /* on_eof was called */
    bool is_shutdown_wanted;
    bool is_aborting;
    bool is_lost;             /* on_lost was called */
    bool is_flush_queued;     /* flush_job is in worker->deferred */
    bool is_event_queued;     /* event_job is in worker->ready */
    bool is_releasing;        /* sent writes are being given back: nothing may be sent now */
    bool is_progress_pending; /* on_progress is owed */
    bool is_error_pending;    /* on_error is owed */
    int error;                /* first error, 0 */
    int read_error;           /* of PYL_READ_FAILED */
    struct pyl_op read_op;
    struct pyl_job flush_job; /* end of turn: sends, adapts the read op to what is wanted */
    struct pyl_job event_job; /* held data, errors, the end: what must not run inside a call */
    struct pyl_held *held;    /* NULL: nothing */
    /* Ring of queued writes, a power of two of slots; the first is sent up to first_sent. */
    struct pyl_write *writes;
    uint32_t write_first;
    uint32_t write_count;
    uint32_t write_capacity;
    int fd; /* stays when closed */
    size_t first_sent;
    size_t queued_size; /* bytes not yet taken by the kernel */
    struct pyl_write inline_writes[PYL_STREAM_INLINE_WRITES];
    struct pyl_send *send; /* allocated while a SEND op is active, else NULL */
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
 * Returns: 0; -EPIPE after shutdown, abort or on_lost (a stream that drains takes more); -ENOMEM.
 * size 0 releases at once.
 */
PYL_NODISCARD int pyl_stream_write(struct pyl_stream *stream, const void *data, size_t size,
                                   void *owner);

/* Tries to send what is queued at once, without waiting. Errors go to on_error, and progress to
 * on_progress, later. */
void pyl_stream_flush(struct pyl_stream *stream);

static inline size_t
pyl_stream_queued_size(const struct pyl_stream *stream)
{
    return stream->queued_size;
}

/* A SEND op is active: the kernel may still read bytes of the queue. */
bool pyl_stream_is_sending(const struct pyl_stream *stream);

/* The on_progress that may be owed is not needed: a closing stream does not wait for it. */
static inline void
pyl_stream_forget_progress(struct pyl_stream *stream)
{
    stream->is_progress_pending = false;
}

/* Sends FIN when the queue is empty. Reading goes on. */
void pyl_stream_shutdown(struct pyl_stream *stream);
/* Stops reading, sends the queue, then closes. on_closed comes later, from a job. */
void pyl_stream_close(struct pyl_stream *stream);
/* Drops the queue (releasing each write) and closes. on_closed comes later, from a job. */
void pyl_stream_abort(struct pyl_stream *stream);

/* For a stream whose worker was closed or abandoned, so that no job can run any more: releases the
 * queue, frees memory and closes an owned fd. No callback but release. Harmless after on_closed. */
void pyl_stream_dispose(struct pyl_stream *stream);

#endif
