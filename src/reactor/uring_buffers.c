/*
 * uring_buffers.c - the provided-buffer ring. liburing before 2.4 has no
 * io_uring_setup_buf_ring(), so the ring's memory is ours.
 *
 * Tested by tests/unit/reactor/test_backend_uring.c.
 */
#include "base/alloc.h"
#include "base/check.h"
#include "reactor/uring.h"

#include <errno.h>
#include <sys/mman.h>

enum { GROUP_ID = 0 };

static size_t
ring_size(const struct pyl_uring_buffers *buffers)
{
    return buffers->count * sizeof(struct io_uring_buf);
}

static void
buffer_offer(struct pyl_uring_buffers *buffers, uint16_t id)
{
    io_uring_buf_ring_add(buffers->ring, pyl_uring_buffers_at(buffers, id), buffers->size, id,
                          io_uring_buf_ring_mask(buffers->count), 0);
    io_uring_buf_ring_advance(buffers->ring, 1);
}

static int
buffers_register(struct pyl_uring_buffers *buffers, struct io_uring *ring)
{
    struct io_uring_buf_reg registration = {
        .ring_addr = (uint64_t)(uintptr_t)buffers->ring,
        .ring_entries = buffers->count,
        .bgid = GROUP_ID,
    };
    io_uring_buf_ring_init(buffers->ring);
    return io_uring_register_buf_ring(ring, &registration, 0);
}

int
pyl_uring_buffers_init(struct pyl_uring_buffers *buffers, struct io_uring *ring, uint32_t count,
                       uint32_t size)
{
    buffers->count = count;
    buffers->size = size;
    buffers->ring = pyl_alloc_pages(ring_size(buffers));
    buffers->memory = pyl_alloc_pages(count * pyl_uring_buffers_stride(buffers));
    if (buffers->ring == NULL || buffers->memory == NULL) {
        return -ENOMEM;
    }
    /* A huge page would make all of the pool resident at the first touch. */
    (void)madvise(buffers->memory, count * pyl_uring_buffers_stride(buffers), MADV_NOHUGEPAGE);
    int rc = buffers_register(buffers, ring);
    if (rc < 0) {
        return rc;
    }
    for (uint32_t id = 0; id < count; id++) {
        buffer_offer(buffers, (uint16_t)id);
    }
    return 0;
}

void
pyl_uring_buffers_fini(struct pyl_uring_buffers *buffers)
{
    pyl_free_pages(buffers->ring, ring_size(buffers));
    pyl_free_pages(buffers->memory, buffers->count * pyl_uring_buffers_stride(buffers));
    buffers->ring = NULL;
    buffers->memory = NULL;
}

int
pyl_uring_buffers_move(struct pyl_uring_buffers *buffers, struct io_uring *ring,
                       const bool *is_lent)
{
    int rc = buffers_register(buffers, ring);
    if (rc < 0) {
        return rc;
    }
    for (uint32_t id = 0; id < buffers->count; id++) {
        if (!is_lent[id]) {
            buffer_offer(buffers, (uint16_t)id);
        }
    }
    return 0;
}

void
pyl_uring_buffers_release(struct pyl_uring_buffers *buffers, uint16_t id)
{
    PYL_CHECK(id < buffers->count && buffers->lent > 0);
    buffers->lent--;
    buffer_offer(buffers, id);
}
