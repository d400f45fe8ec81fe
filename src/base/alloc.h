/*
 * alloc.h - the memory of the C layers. Sizes are checked for overflow, and a test can make the
 * n-th allocation fail. Any thread.
 */
#ifndef PYL_BASE_ALLOC_H
#define PYL_BASE_ALLOC_H

#include "base/platform.h"

#include <stddef.h>
#include <stdint.h>

/* Memory for `size` bytes, or NULL. A size of 0 gives a pointer that can be freed. */
PYL_NODISCARD void *pyl_alloc(size_t size);
PYL_NODISCARD void *pyl_alloc_zero(size_t size);

/* NULL also when count * size overflows. */
PYL_NODISCARD void *pyl_alloc_array(size_t count, size_t size);

/* On failure NULL, and the old block stays as it was. */
PYL_NODISCARD void *pyl_realloc(void *memory, size_t size);
PYL_NODISCARD void *pyl_realloc_array(void *memory, size_t count, size_t size);

/* Whole pages, aligned to a page, zeroed; freed with the same size. */
PYL_NODISCARD void *pyl_alloc_pages(size_t size);
void pyl_free_pages(void *memory, size_t size);

/* Accepts NULL. */
void pyl_free(void *memory);

/*
 * Tests only: the n-th allocation from now fails (1: the next one), and every later one too while
 * `is_lasting`. 0 switches injection off.
 */
void pyl_alloc_inject_failure(uint64_t nth, int is_lasting);

/* Allocations that injection has made fail since it was last set. */
uint64_t pyl_alloc_injected_count(void);

/* Blocks, of pages or not, that were allocated and not freed. 0 where NDEBUG is defined. */
uint64_t pyl_alloc_live_blocks(void);

#endif
