/*
 * test_alloc.c - overflow checks, failure injection, counting.
 */
#include "base/alloc.h"

#include <criterion/criterion.h>
#include <string.h>

/* Goal: a product that overflows is refused instead of giving a short block. */
Test(alloc, array_overflow_is_refused)
{
    cr_assert_null(pyl_alloc_array(SIZE_MAX / 2, 3));
    cr_assert_null(pyl_realloc_array(NULL, SIZE_MAX / 8 + 1, 16));
}

/* Goal: a size of zero gives something that can be freed. */
Test(alloc, zero_size_can_be_freed)
{
    void *memory = pyl_alloc(0);
    cr_assert_not_null(memory);
    pyl_free(memory);
    pyl_free(NULL);
}

/* Goal: zeroed memory is zero, and realloc keeps what was there. */
Test(alloc, zero_and_realloc_keep_content)
{
    uint8_t *memory = pyl_alloc_zero(100);
    for (int i = 0; i < 100; i++) {
        cr_assert_eq(memory[i], 0);
    }
    memset(memory, 7, 100);
    memory = pyl_realloc_array(memory, 1000, 10);
    cr_assert_not_null(memory);
    cr_assert_eq(memory[99], 7);
    pyl_free(memory);
}

/* Goal: a debug build knows how many blocks there are, whatever they went through. */
Test(alloc, live_blocks_are_counted)
{
    uint64_t before = pyl_alloc_live_blocks();
    void *block = pyl_alloc(1);
    void *grown = pyl_realloc(NULL, 1);
    void *pages = pyl_alloc_pages(4096);
    pyl_alloc_inject_failure(1, 1);
    cr_assert_null(pyl_realloc(grown, 100));
    cr_assert_null(pyl_alloc_zero(1));
    pyl_alloc_inject_failure(0, 0);
    grown = pyl_realloc(grown, 100);
    cr_assert_eq(pyl_alloc_live_blocks() - before, PYL_DEBUG ? 3 : 0);
    pyl_free(block);
    pyl_free(grown);
    pyl_free_pages(pages, 4096);
    pyl_free(NULL);
    cr_assert_eq(pyl_alloc_live_blocks(), before);
}

/* Goal: exactly the n-th allocation fails, once or from then on. */
Test(alloc, injection_fails_the_nth)
{
    pyl_alloc_inject_failure(2, 0);
    void *first = pyl_alloc(1);
    void *second = pyl_alloc(1);
    void *third = pyl_alloc(1);
    cr_assert_not_null(first);
    cr_assert_null(second);
    cr_assert_not_null(third);
    cr_assert_eq(pyl_alloc_injected_count(), 1);
    pyl_free(first);
    pyl_free(third);

    pyl_alloc_inject_failure(1, 1);
    cr_assert_null(pyl_alloc_zero(1));
    cr_assert_null(pyl_alloc_pages(4096));
    cr_assert_eq(pyl_alloc_injected_count(), 2);
    pyl_alloc_inject_failure(0, 0);
}

/* Goal: pages are aligned and zero. */
Test(alloc, pages_are_aligned)
{
    uint8_t *pages = pyl_alloc_pages(8192);
    cr_assert_not_null(pages);
    cr_assert_eq((uintptr_t)pages % 4096, 0);
    cr_assert_eq(pages[8191], 0);
    pyl_free_pages(pages, 8192);
    pyl_free_pages(NULL, 0);
}
