/*
 * heap.c - the 4-ary heap. Four children share a cache line or two, and the tree is half as deep
 * as a binary one, which is what a timer heap needs: many inserts, many removals, few minimums
 * taken.
 */
#include "base/heap.h"

#include "base/alloc.h"
#include "base/check.h"

#include <errno.h>

enum { HEAP_ARITY = 4, HEAP_CAPACITY_FIRST = 64 };

void
pyl_heap_init(struct pyl_heap *heap)
{
    *heap = (struct pyl_heap){0};
}

void
pyl_heap_fini(struct pyl_heap *heap)
{
    for (uint32_t i = 0; i < heap->count; i++) {
        heap->entries[i].node->index = 0;
    }
    pyl_free(heap->entries);
    *heap = (struct pyl_heap){0};
}

static bool
entry_is_before(const struct pyl_heap_entry *a, const struct pyl_heap_entry *b)
{
    if (a->deadline_ns != b->deadline_ns) {
        return a->deadline_ns < b->deadline_ns;
    }
    return a->sequence < b->sequence;
}

static void
entry_place(struct pyl_heap *heap, uint32_t position, struct pyl_heap_entry entry)
{
    heap->entries[position] = entry;
    entry.node->index = position + 1;
}

static void
sift_up(struct pyl_heap *heap, uint32_t position, struct pyl_heap_entry entry)
{
    while (position > 0) {
        uint32_t parent = (position - 1) / HEAP_ARITY;
        if (!entry_is_before(&entry, &heap->entries[parent])) {
            break;
        }
        entry_place(heap, position, heap->entries[parent]);
        position = parent;
    }
    entry_place(heap, position, entry);
}

static void
sift_down(struct pyl_heap *heap, uint32_t position, struct pyl_heap_entry entry)
{
    for (;;) {
        uint64_t child = (uint64_t)position * HEAP_ARITY + 1;
        if (child >= heap->count) {
            break;
        }
        uint64_t end = child + HEAP_ARITY < heap->count ? child + HEAP_ARITY : heap->count;
        uint64_t least = child;
        for (uint64_t i = child + 1; i < end; i++) {
            if (entry_is_before(&heap->entries[i], &heap->entries[least])) {
                least = i;
            }
        }
        if (!entry_is_before(&heap->entries[least], &entry)) {
            break;
        }
        entry_place(heap, position, heap->entries[least]);
        position = (uint32_t)least;
    }
    entry_place(heap, position, entry);
}

static int
heap_grow(struct pyl_heap *heap)
{
    if (heap->capacity > UINT32_MAX / 2) {
        return -ENOMEM;
    }
    uint32_t capacity = heap->capacity > 0 ? heap->capacity * 2 : HEAP_CAPACITY_FIRST;
    struct pyl_heap_entry *entries =
        pyl_realloc_array(heap->entries, capacity, sizeof(*heap->entries));
    if (entries == NULL) {
        return -ENOMEM;
    }
    heap->entries = entries;
    heap->capacity = capacity;
    return 0;
}

int
pyl_heap_push(struct pyl_heap *heap, struct pyl_heap_node *node, int64_t deadline_ns)
{
    PYL_DCHECK(node->index == 0);

    if (heap->count == heap->capacity) {
        int rc = heap_grow(heap);
        if (rc < 0) {
            return rc;
        }
    }
    struct pyl_heap_entry entry = {
        .deadline_ns = deadline_ns, .sequence = heap->next_sequence++, .node = node};
    sift_up(heap, heap->count++, entry);
    return 0;
}

void
pyl_heap_remove(struct pyl_heap *heap, struct pyl_heap_node *node)
{
    if (node->index == 0) {
        return;
    }
    uint32_t position = node->index - 1;
    PYL_CHECK(position < heap->count);
    PYL_DCHECK(heap->entries[position].node == node);

    node->index = 0;
    heap->count--;
    if (position == heap->count) {
        return;
    }
    /* The last entry fills the hole; it may belong above or below it. */
    struct pyl_heap_entry last = heap->entries[heap->count];
    if (position > 0 && entry_is_before(&last, &heap->entries[(position - 1) / HEAP_ARITY])) {
        sift_up(heap, position, last);
    } else {
        sift_down(heap, position, last);
    }
}

bool
pyl_heap_check(const struct pyl_heap *heap)
{
    for (uint32_t i = 0; i < heap->count; i++) {
        if (heap->entries[i].node->index != i + 1) {
            return false;
        }
        if (i > 0 && entry_is_before(&heap->entries[i], &heap->entries[(i - 1) / HEAP_ARITY])) {
            return false;
        }
    }
    return heap->count <= heap->capacity;
}
