/*
 * uring.h - what backend_uring.c, uring_buffers.c and uring_probe.c share. Nobody else includes it.
 */
#ifndef PYL_REACTOR_URING_H
#define PYL_REACTOR_URING_H

#include "reactor/reactor.h"

#include <liburing.h>

/*
 * The provided buffers of one ring: the kernel takes the oldest free one for each receive. A buffer is
 * lent from its harvest until pyl_uring_buffers_release(). Owner thread only.
 *
 * Invariant: count == free in the kernel's ring + lent + named by completions not yet harvested.
 */
struct pyl_uring_buffers {
    struct io_uring_buf_ring *ring; /* page-aligned, shared with the kernel */
    uint8_t *memory;
    uint32_t count; /* a power of two, at most 32768 */
    uint32_t size;  /* of one buffer */
    uint32_t lent;
};

/* Registers with `ring`. 0 or -errno; on failure fini() is still to be called. */
PYL_NODISCARD int pyl_uring_buffers_init(struct pyl_uring_buffers *buffers, struct io_uring *ring,
                                         uint32_t count, uint32_t size);
/* After the ring was closed, or before. Accepts a zeroed one. */
void pyl_uring_buffers_fini(struct pyl_uring_buffers *buffers);

/* Registers the same memory with another ring, after the one before was closed; `is_lent[id]` buffers stay out
 * until they are released. */
PYL_NODISCARD int pyl_uring_buffers_move(struct pyl_uring_buffers *buffers, struct io_uring *ring,
                                         const bool *is_lent);

/* A completion that names a buffer was harvested. */
static inline void
pyl_uring_buffers_lend(struct pyl_uring_buffers *buffers)
{
    buffers->lent++;
}

const uint8_t *pyl_uring_buffers_data(const struct pyl_uring_buffers *buffers, uint16_t id);
void pyl_uring_buffers_release(struct pyl_uring_buffers *buffers, uint16_t id);

/* See pyl_backend_ops.probe. */
int pyl_uring_probe(char *cause, size_t cause_size);

#endif
