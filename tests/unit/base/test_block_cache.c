/*
 * test_block_cache.c - the cache of blocks; that nothing leaks is ASan's to say.
 */
#include "base/block_cache.h"

#include <criterion/criterion.h>

enum { SIZE = 32 };

/* Goal: a block comes back as it was given, but for its first bytes. */
Test(block_cache, keeps_what_is_behind_the_link)
{
    struct pyl_block_cache cache = {0};
    cr_assert_null(pyl_block_cache_take(&cache));
    char *a = pyl_alloc(SIZE), *b = pyl_alloc(SIZE);
    memset(a, 'a', SIZE);
    memset(b, 'b', SIZE);
    pyl_block_cache_give(&cache, a);
    pyl_block_cache_give(&cache, b);
    cr_assert_eq(pyl_block_cache_take(&cache), b);
    cr_assert_eq(pyl_block_cache_take(&cache), a);
    cr_assert_null(pyl_block_cache_take(&cache));
    for (int i = sizeof(void *); i < SIZE; i++) {
        cr_assert(a[i] == 'a' && b[i] == 'b');
    }
    pyl_free(a);
    pyl_free(b);
}

/* Goal: what exceeds the limit is freed, and clear frees the rest. */
Test(block_cache, is_limited)
{
    struct pyl_block_cache cache = {0};
    for (int i = 0; i < PYL_BLOCK_CACHE_MAX + 10; i++) {
        pyl_block_cache_give(&cache, pyl_alloc(SIZE));
    }
    cr_assert_eq(cache.count, PYL_BLOCK_CACHE_MAX);
    pyl_block_cache_clear(&cache);
    cr_assert_eq(cache.count, 0);
    cr_assert_null(pyl_block_cache_take(&cache));
}
