/*
 * block_cache.h - freed blocks of one kind, kept for the next who needs one. One thread.
 *
 * A block's first bytes are overwritten while it is in the cache; the rest stays as it was, so that
 * its owner need not set it again.
 */
#ifndef PYL_BASE_BLOCK_CACHE_H
#define PYL_BASE_BLOCK_CACHE_H

#include "base/alloc.h"

#include <string.h>

enum { PYL_BLOCK_CACHE_MAX = 1024 }; /* blocks; the others are freed */

/* Zeroed: empty. */
struct pyl_block_cache {
    void *first; /* linked through their first bytes */
    uint32_t count;
};

/* A block, or NULL. The caller's. */
static inline void *
pyl_block_cache_take(struct pyl_block_cache *cache)
{
    void *block = cache->first;
    if (block != NULL) {
        memcpy(&cache->first, block, sizeof(void *));
        cache->count--;
    }
    return block;
}

/* Takes a block from pyl_alloc(), not NULL. */
static inline void
pyl_block_cache_give(struct pyl_block_cache *cache, void *block)
{
    if (cache->count == PYL_BLOCK_CACHE_MAX) {
        pyl_free(block);
        return;
    }
    memcpy(block, &cache->first, sizeof(void *));
    cache->first = block;
    cache->count++;
}

/* Frees all. The cache may be used on. */
static inline void
pyl_block_cache_clear(struct pyl_block_cache *cache)
{
    void *block;
    while ((block = pyl_block_cache_take(cache)) != NULL) {
        pyl_free(block);
    }
}

#endif
