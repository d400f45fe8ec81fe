/*
 * stream_internal.h - what stream.c (life, reading) and stream_write.c (queue, sending) share.
 */
#ifndef PYL_IO_STREAM_INTERNAL_H
#define PYL_IO_STREAM_INTERNAL_H

#include "io/stream.h"

/* The first error ends the stream: the queue is dropped, on_error and on_closed follow from jobs.
 */
void pyl_stream_fail(struct pyl_stream *stream, int error);

/* Queues the job that makes the calls which are owed: held data, on_error, on_closed. */
void pyl_stream_queue_event(struct pyl_stream *stream);

/* Queues the job for the end of this turn. */
static inline void
pyl_stream_queue_flush(struct pyl_stream *stream)
{
    if (!stream->is_flush_queued) {
        stream->is_flush_queued = true;
        pyl_worker_defer(stream->worker, &stream->flush_job);
    }
}

/* To be called after anything that may have been the last thing a closing stream waited for. */
void pyl_stream_settle(struct pyl_stream *stream);

/* The sending part of the end-of-turn job. */
void pyl_stream_send_queue(struct pyl_stream *stream, bool is_batched);

/* Calls on_progress if it is owed. */
void pyl_stream_report_progress(struct pyl_stream *stream);

/* Releases every queued write, or does nothing while the kernel or a release still uses one. */
void pyl_stream_drop_queue(struct pyl_stream *stream);

/* Sends FIN if that is wanted and the queue is empty. */
void pyl_stream_try_shutdown(struct pyl_stream *stream);

/* Asks for the end of the SEND op, if there is one. */
void pyl_stream_cancel_send(struct pyl_stream *stream);

/* What is left of a SEND op whose reactor was given up, if there is something. */
void pyl_stream_free_send(struct pyl_stream *stream);

#endif
