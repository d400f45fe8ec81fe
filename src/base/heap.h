/*
 * heap.h - 4-ary min-heap with the keys inline and a back-index in each node, so that removal of
 * any node is O(log n) and compares without touching the nodes. Owner thread only.
 */
#ifndef PYL_BASE_HEAP_H
#define PYL_BASE_HEAP_H

#include "base/platform.h"

#include <stdbool.h>
#include <stdint.h>

struct pyl_heap_node {
    uint32_t index; /* position + 1; 0: not in a heap */
};

struct pyl_heap_entry {
    int64_t deadline_ns;
    uint64_t sequence; /* ties leave in order of insertion */
    struct pyl_heap_node *node;
};

struct pyl_heap {
    struct pyl_heap_entry *entries;
    uint32_t count;
    uint32_t capacity;
    uint64_t next_sequence;
};

/* An empty heap; allocates nothing. */
void pyl_heap_init(struct pyl_heap *heap);
/* Frees the memory; nodes still in the heap are out of it. Accepts a zeroed heap. */
void pyl_heap_fini(struct pyl_heap *heap);

/* Returns 0 or -ENOMEM. The node must not be in a heap. */
PYL_NODISCARD int pyl_heap_push(struct pyl_heap *heap, struct pyl_heap_node *node,
                                int64_t deadline_ns);
/* Does nothing for a node that is not in the heap. */
void pyl_heap_remove(struct pyl_heap *heap, struct pyl_heap_node *node);

/* The smallest entry, or NULL. */
static inline const struct pyl_heap_entry *
pyl_heap_first(const struct pyl_heap *heap)
{
    return heap->count > 0 ? &heap->entries[0] : NULL;
}

/* Debug walk: every parent precedes its children, every back-index is right. */
bool pyl_heap_check(const struct pyl_heap *heap);

#endif
