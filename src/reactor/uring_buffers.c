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
#include <unistd.h>

enum {
    GROUP_ID = 0,
    GROWTH_MAX = PYL_TINY_LIMITS ? 2 : 16, /* capacity, as a multiple of the first count */
    CAPACITY_MAX = 32768,
};

static size_t
ring_size(const struct pyl_uring_buffers *buffers)
{
    return buffers->capacity * sizeof(struct io_uring_buf);
}

static size_t
memory_size(const struct pyl_uring_buffers *buffers)
{
    return buffers->capacity * pyl_uring_buffers_stride(buffers);
}

static void
buffer_offer(struct pyl_uring_buffers *buffers, uint16_t id)
{
    io_uring_buf_ring_add(buffers->ring, pyl_uring_buffers_at(buffers, id), buffers->size, id,
                          io_uring_buf_ring_mask(buffers->capacity), 0);
    io_uring_buf_ring_advance(buffers->ring, 1);
}

static int
buffers_register(struct pyl_uring_buffers *buffers, struct io_uring *ring)
{
    struct io_uring_buf_reg registration = {
        .ring_addr = (uint64_t)(uintptr_t)buffers->ring,
        .ring_entries = buffers->capacity,
        .bgid = GROUP_ID,
    };
    io_uring_buf_ring_init(buffers->ring);
    return io_uring_register_buf_ring(ring, &registration, 0);
}

int
pyl_uring_buffers_init(struct pyl_uring_buffers *buffers, struct io_uring *ring, uint32_t count,
                       uint32_t size)
{
    buffers->capacity = count * GROWTH_MAX < CAPACITY_MAX ? count * GROWTH_MAX : CAPACITY_MAX;
    buffers->count = count;
    buffers->count_min = count;
    buffers->keep = count;
    buffers->size = size;
    buffers->ring = pyl_alloc_pages(ring_size(buffers));
    buffers->memory = pyl_alloc_pages(memory_size(buffers)); /* resident where it was touched */
    buffers->is_withdrawn = pyl_alloc_zero(buffers->capacity * sizeof(*buffers->is_withdrawn));
    if (buffers->ring == NULL || buffers->memory == NULL || buffers->is_withdrawn == NULL) {
        return -ENOMEM;
    }
    /* A huge page would make all of the pool resident at the first touch. */
    (void)madvise(buffers->memory, memory_size(buffers), MADV_NOHUGEPAGE);
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
    pyl_free_pages(buffers->memory, memory_size(buffers));
    pyl_free(buffers->is_withdrawn);
    buffers->ring = NULL;
    buffers->memory = NULL;
    buffers->is_withdrawn = NULL;
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
        if (!is_lent[id] && !buffers->is_withdrawn[id]) {
            buffer_offer(buffers, (uint16_t)id);
        }
    }
    return 0;
}

/* ---- how many there are ---- */

/* What was withdrawn comes back into circulation. */
static void
restore(struct pyl_uring_buffers *buffers)
{
    for (uint32_t id = buffers->keep; id < buffers->count; id++) {
        if (buffers->is_withdrawn[id]) {
            buffers->is_withdrawn[id] = false;
            buffer_offer(buffers, (uint16_t)id);
        }
    }
    buffers->withdrawn = 0;
    buffers->keep = buffers->count;
}

void
pyl_uring_buffers_grow(struct pyl_uring_buffers *buffers)
{
    pyl_uring_buffers_note_needed(buffers, buffers->count);
    if (buffers->keep < buffers->count) {
        restore(buffers);
        return;
    }
    if (buffers->count == buffers->capacity) {
        return;
    }
    uint32_t first = buffers->count;
    buffers->count *= 2;
    buffers->keep = buffers->count;
    for (uint32_t id = first; id < buffers->count; id++) {
        buffer_offer(buffers, (uint16_t)id);
    }
}

void
pyl_uring_buffers_trim(struct pyl_uring_buffers *buffers)
{
    bool is_too_many = buffers->count > buffers->count_min && buffers->needed <= buffers->count / 4;
    if (is_too_many && buffers->keep == buffers->count) {
        buffers->keep = buffers->count / 2;
    }
    buffers->needed = buffers->lent;
}

/* It is not lent and not in the ring. The last one gives the memory of all back to the system. */
static void
withdraw(struct pyl_uring_buffers *buffers, uint16_t id)
{
    buffers->is_withdrawn[id] = true;
    buffers->withdrawn++;
    if (buffers->withdrawn < buffers->count - buffers->keep) {
        return;
    }
    memset(&buffers->is_withdrawn[buffers->keep], 0, buffers->withdrawn);
    buffers->count = buffers->keep;
    buffers->withdrawn = 0;
    size_t kept = buffers->count * pyl_uring_buffers_stride(buffers);
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    kept = (kept + page - 1) / page * page;
    (void)madvise(buffers->memory + kept, memory_size(buffers) - kept, MADV_DONTNEED);
}

void
pyl_uring_buffers_release(struct pyl_uring_buffers *buffers, uint16_t id)
{
    PYL_CHECK(id < buffers->count && buffers->lent > 0);
    buffers->lent--;
    if (PYL_UNLIKELY(id >= buffers->keep)) {
        withdraw(buffers, id);
    } else {
        buffer_offer(buffers, id);
    }
}
