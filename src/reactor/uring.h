/*
 * uring.h - what backend_uring.c, uring_ops.c, uring_buffers.c and uring_probe.c share. Nobody
 * else includes it.
 */
#ifndef PYL_REACTOR_URING_H
#define PYL_REACTOR_URING_H

#include "base/check.h"
#include "reactor/reactor.h"
#include "reactor/uring_batch.h"

#include <liburing.h>
#include <string.h>

/*
 * The provided buffers of one ring: the kernel takes the oldest free one for each receive. A
 * buffer is lent from its harvest until pyl_uring_buffers_release(). Owner thread only.
 *
 * As many are in circulation as the load needs at once: all of them take turns, so each one more
 * is memory that is touched and cache that is lost. A receive that finds none doubles the number;
 * when a long time needed a quarter at most, those of the upper half are withdrawn as they come
 * back.
 *
 * Invariant: count == free in the kernel's ring + lent + named by completions not yet harvested +
 * withdrawn.
 */
struct pyl_uring_buffers {
    struct io_uring_buf_ring *ring; /* page-aligned, shared with the kernel */
    uint8_t *memory;
    uint32_t capacity;  /* entries of the ring, buffers in memory: a power of two, at most 32768 */
    uint32_t count;     /* in circulation are those with an id below it */
    uint32_t count_min; /* it began with so many */
    uint32_t keep;      /* ids from here to count are being withdrawn; == count: none */
    uint32_t withdrawn;
    bool *is_withdrawn; /* by id */
    uint32_t size;      /* of one buffer */
    uint32_t lent;
    uint32_t needed; /* the most at once since pyl_uring_buffers_trim() last looked */
};

/* Registers with `ring`; `count` is a power of two. 0 or -errno; on failure fini() is still to be
 * called. */
PYL_NODISCARD int pyl_uring_buffers_init(struct pyl_uring_buffers *buffers, struct io_uring *ring,
                                         uint32_t count, uint32_t size);
/* After the ring was closed, or before. Accepts a zeroed one. */
void pyl_uring_buffers_fini(struct pyl_uring_buffers *buffers);

/* Registers the same memory with another ring, after the one before was closed; `is_lent[id]`
 * buffers stay out until they are released. */
PYL_NODISCARD int pyl_uring_buffers_move(struct pyl_uring_buffers *buffers, struct io_uring *ring,
                                         const bool *is_lent);

/* A receive found no buffer: twice as many, as long as there is room for them. */
void pyl_uring_buffers_grow(struct pyl_uring_buffers *buffers);
/* From time to time: begins to withdraw half of them if that many were never needed since. */
void pyl_uring_buffers_trim(struct pyl_uring_buffers *buffers);

static inline bool
pyl_uring_buffers_has_free(const struct pyl_uring_buffers *buffers)
{
    return buffers->lent + buffers->withdrawn < buffers->count;
}

/* As many may have been taken at once. */
static inline void
pyl_uring_buffers_note_needed(struct pyl_uring_buffers *buffers, uint32_t needed)
{
    if (needed > buffers->needed) {
        buffers->needed = needed;
    }
}

/* A completion that names a buffer was harvested. */
static inline void
pyl_uring_buffers_lend(struct pyl_uring_buffers *buffers)
{
    buffers->lent++;
}

/* Buffers of a power-of-two size would begin in the same few cache sets, and small messages touch
 * just the beginnings: two cache lines between buffers spread them. */
static inline size_t
pyl_uring_buffers_stride(const struct pyl_uring_buffers *buffers)
{
    return (size_t)buffers->size + 2 * PYL_CACHE_LINE;
}

/* The bytes of a buffer. */
static inline uint8_t *
pyl_uring_buffers_at(const struct pyl_uring_buffers *buffers, uint16_t id)
{
    PYL_CHECK(id < buffers->count);
    return buffers->memory + id * pyl_uring_buffers_stride(buffers);
}

/* Gives a lent buffer back to the kernel. */
void pyl_uring_buffers_release(struct pyl_uring_buffers *buffers, uint16_t id);

/* pyl_op.backend_bits */
enum {
    PYL_URING_IN_KERNEL = 1, /* a request was prepared, and its last completion not seen */
    PYL_URING_LISTED = 2,    /* on `arming` or `parked` by op->queue */
    PYL_URING_DONE = 4,      /* LISTED, and backend_value is the terminal result */
    PYL_URING_CONNECT_POLL =
        8, /* CONNECT under way: wait until writable instead of connecting again */
    PYL_URING_RECV_BULK = 16,  /* RECV: ask for readiness, receive into the bulk buffer */
    PYL_URING_RECV_POLL = 32,  /* RECV: the request in the kernel, or the last one, was a poll */
    PYL_URING_RECV_SMALL = 64, /* RECV in bulk: the last read would have fitted a ring buffer */
};

enum { PYL_URING_BULK_SIZE = PYL_TINY_LIMITS ? 2048 : 256 * 1024 };

/* user_data of requests that belong to no op */
enum { PYL_URING_DATA_IGNORED = 0, PYL_URING_DATA_WAKER = 1 };

/* A completion as harvested, before the submitter may see it. */
struct pyl_uring_completion {
    struct pyl_op *op;
    int32_t result;
    uint32_t flags; /* IORING_CQE_F_* */
};

struct pyl_uring {
    struct io_uring ring;
    struct io_uring_params params; /* what the ring was set up with */
    uint32_t entries;
    bool has_ring;
    bool is_enabled; /* the owner's thread has enabled the ring */
    bool is_waker_armed;
    int broken;     /* what wait() returns for good, or 0 */
    uint32_t round; /* counts wait(); RECV ops hold that of their last delivery in backend_value */
    struct pyl_list arming; /* to get a request in the next wait(), or to end there */
    struct pyl_list parked; /* RECV ops that found no buffer */
    struct pyl_uring_buffers buffers;
    uint32_t grown_in; /* the round in which the buffers last became more */
    struct pyl_uring_batch batch;
    uint8_t *bulk; /* PYL_URING_BULK_SIZE bytes, filled during dispatch; made at the first need */
    /* Completions for later rounds: a RECV op delivers once a round. In order. */
    struct pyl_uring_completion *backlog;
    uint32_t backlog_count;
    uint32_t backlog_capacity;
};

static inline struct pyl_uring *
pyl_uring_of(struct pyl_reactor *reactor)
{
    return reactor->backend;
}

/* ---- backend_uring.c ---- */

/* Has the kernel take what was prepared. Returns false if it takes nothing now. */
bool pyl_uring_make_room(struct pyl_reactor *reactor);

static inline bool
pyl_uring_has_room(const struct io_uring_sq *sq)
{
    return sq->sqe_tail - IO_URING_READ_ONCE(*sq->khead) < sq->ring_entries;
}

/* A free submission entry, or NULL when the queue is full and the kernel takes nothing now. Less
 * than io_uring_get_sqe(), because our rings have no kernel thread and no entries of double size.
 * All zero: later than in liburing 2.3 io_uring_prep_*() set only what an op needs, and the flags
 * of the entry's last op (buffer selection, multishot) would be those of the next. */
static inline struct io_uring_sqe *
pyl_uring_sqe_get(struct pyl_reactor *reactor)
{
    struct io_uring_sq *sq = &pyl_uring_of(reactor)->ring.sq;
    if (PYL_UNLIKELY(!pyl_uring_has_room(sq)) && !pyl_uring_make_room(reactor)) {
        return NULL;
    }
    struct io_uring_sqe *sqe = &sq->sqes[sq->sqe_tail++ & sq->ring_mask];
    memset(sqe, 0, sizeof(*sqe));
    return sqe;
}

/* Puts an op on `arming` or `parked`, or takes it off. */
void pyl_uring_op_list(struct pyl_list *list, struct pyl_op *op);

static inline void
pyl_uring_op_unlist(struct pyl_op *op)
{
    if (op->backend_bits & PYL_URING_LISTED) {
        pyl_list_remove(&op->queue);
        op->backend_bits &= (uint8_t)~PYL_URING_LISTED;
    }
}

/* ---- uring_ops.c ---- */

/* What is wrong with a POLL op that the kernel would accept: 0 or -errno. */
int pyl_uring_check_poll(const struct pyl_op *op);

/* Prepares the op's request; false when there is no room for it. */
bool pyl_uring_op_prepare(struct pyl_reactor *reactor, struct pyl_op *op);

/* Prepares the request that ends the op's request; it precedes every later request of the same
 * op. */
bool pyl_uring_op_prepare_cancel(struct pyl_reactor *reactor, struct pyl_op *op);

/* Turns a completion into at most one event, for which there is room, and arms the op again
 * where the kernel's request has ended and the op has not. */
void pyl_uring_deliver(struct pyl_reactor *reactor, const struct pyl_uring_completion *completion);

/* See pyl_backend_ops.perform: receives for a RECV op in bulk. */
bool pyl_uring_perform(struct pyl_reactor *reactor, struct pyl_event *slot,
                       struct pyl_event *ret_event);

/* Emits the op's terminal event; there is room. */
void pyl_uring_emit_end(struct pyl_reactor *reactor, struct pyl_op *op, int result);

/* ---- uring_probe.c ---- */

/* See pyl_backend_ops.probe. */
int pyl_uring_probe(char *cause, size_t cause_size);

#endif
