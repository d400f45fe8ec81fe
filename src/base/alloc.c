/*
 * alloc.c - malloc with overflow checks and injected failure.
 */
#include "base/alloc.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>

/* What a test has injected; 0 in production, where it costs one relaxed load. Any thread, relaxed:
 * tests are the only writers. */
static struct {
    _Atomic uint64_t countdown;
    _Atomic int is_lasting;
    _Atomic uint64_t count;
} injected; /* tidy: global because malloc is, and a test of any layer sets it */

/* tidy: global because malloc is. Any thread; relaxed, as it orders nothing. */
static _Atomic uint64_t live_blocks;

/* Returns the new block, which may be NULL. */
static void *
count_block(void *memory)
{
    if (PYL_DEBUG && memory != NULL) {
        (void)atomic_fetch_add_explicit(&live_blocks, 1, memory_order_relaxed);
    }
    return memory;
}

static void
uncount_block(const void *memory)
{
    if (PYL_DEBUG && memory != NULL) {
        (void)atomic_fetch_sub_explicit(&live_blocks, 1, memory_order_relaxed);
    }
}

uint64_t
pyl_alloc_live_blocks(void)
{
    return atomic_load_explicit(&live_blocks, memory_order_relaxed);
}

static bool
inject_failure(void)
{
    uint64_t left = atomic_load_explicit(&injected.countdown, memory_order_relaxed);
    if (PYL_LIKELY(left == 0)) {
        return false;
    }
    if (left > 1) {
        atomic_store_explicit(&injected.countdown, left - 1, memory_order_relaxed);
        return false;
    }
    if (!atomic_load_explicit(&injected.is_lasting, memory_order_relaxed)) {
        atomic_store_explicit(&injected.countdown, 0, memory_order_relaxed);
    }
    atomic_fetch_add_explicit(&injected.count, 1, memory_order_relaxed);
    return true;
}

void
pyl_alloc_inject_failure(uint64_t nth, int is_lasting)
{
    atomic_store_explicit(&injected.count, 0, memory_order_relaxed);
    atomic_store_explicit(&injected.is_lasting, is_lasting, memory_order_relaxed);
    atomic_store_explicit(&injected.countdown, nth, memory_order_relaxed);
}

uint64_t
pyl_alloc_injected_count(void)
{
    return atomic_load_explicit(&injected.count, memory_order_relaxed);
}

void *
pyl_alloc(size_t size)
{
    if (inject_failure()) {
        return NULL;
    }
    return count_block(malloc(size > 0 ? size : 1));
}

void *
pyl_alloc_zero(size_t size)
{
    if (inject_failure()) {
        return NULL;
    }
    return count_block(calloc(1, size > 0 ? size : 1));
}

void *
pyl_alloc_array(size_t count, size_t size)
{
    size_t total;
    if (__builtin_mul_overflow(count, size, &total)) {
        return NULL;
    }
    return pyl_alloc(total);
}

void *
pyl_realloc(void *memory, size_t size)
{
    if (inject_failure()) {
        return NULL;
    }
    bool is_new = memory == NULL;
    memory = realloc(memory, size > 0 ? size : 1);
    return is_new ? count_block(memory) : memory;
}

void *
pyl_realloc_array(void *memory, size_t count, size_t size)
{
    size_t total;
    if (__builtin_mul_overflow(count, size, &total)) {
        return NULL;
    }
    return pyl_realloc(memory, total);
}

void *
pyl_alloc_pages(size_t size)
{
    if (inject_failure()) {
        return NULL;
    }
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? NULL : count_block(memory);
}

void
pyl_free_pages(void *memory, size_t size)
{
    uncount_block(memory);
    if (memory != NULL) {
        munmap(memory, size);
    }
}

void
pyl_free(void *memory)
{
    uncount_block(memory);
    free(memory);
}
