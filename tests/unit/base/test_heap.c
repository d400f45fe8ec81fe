/*
 * test_heap.c - the timer heap against a sorted model.
 */
#include "base/alloc.h"
#include "base/heap.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>

enum { NODE_COUNT = 500 };

static struct pyl_heap_node *
pop(struct pyl_heap *heap)
{
    struct pyl_heap_node *node = pyl_heap_first(heap)->node;
    pyl_heap_remove(heap, node);
    return node;
}

/* Goal: an empty heap has no first entry. */
Test(heap, empty_has_no_first)
{
    struct pyl_heap heap;
    pyl_heap_init(&heap);
    cr_assert_null(pyl_heap_first(&heap));
    pyl_heap_fini(&heap);
}

/* Goal: equal deadlines leave in order of insertion, also after removals in between. */
Test(heap, equal_deadlines_keep_insertion_order)
{
    struct pyl_heap heap;
    struct pyl_heap_node nodes[NODE_COUNT] = {{0}};
    pyl_heap_init(&heap);
    for (int i = 0; i < NODE_COUNT; i++) {
        cr_assert_eq(pyl_heap_push(&heap, &nodes[i], 7), 0);
    }
    for (int i = 0; i < NODE_COUNT; i += 3) {
        pyl_heap_remove(&heap, &nodes[i]);
        cr_assert(pyl_heap_check(&heap));
    }
    for (int i = 0; i < NODE_COUNT; i++) {
        if (i % 3 != 0) {
            cr_assert_eq(pop(&heap), &nodes[i]);
        }
    }
    cr_assert_eq(heap.count, 0);
    pyl_heap_fini(&heap);
}

/* Goal: a random mix of pushes and removals of any node always yields the smallest deadline. */
Test(heap, random_operations_agree_with_model)
{
    struct pyl_heap heap;
    struct pyl_heap_node nodes[NODE_COUNT] = {{0}};
    int64_t deadlines[NODE_COUNT];
    pyl_heap_init(&heap);
    srandom(1);
    for (int step = 0; step < 20000; step++) {
        int i = (int)(random() % NODE_COUNT);
        if (nodes[i].index == 0) {
            deadlines[i] = random() % 100 - 50;
            cr_assert_eq(pyl_heap_push(&heap, &nodes[i], deadlines[i]), 0);
        } else {
            pyl_heap_remove(&heap, &nodes[i]);
            cr_assert_eq(nodes[i].index, 0);
        }
        int64_t least = INT64_MAX;
        for (int k = 0; k < NODE_COUNT; k++) {
            if (nodes[k].index != 0 && deadlines[k] < least) {
                least = deadlines[k];
            }
        }
        if (heap.count > 0) {
            cr_assert_eq(pyl_heap_first(&heap)->deadline_ns, least);
        }
        if (step % 100 == 0) {
            cr_assert(pyl_heap_check(&heap));
        }
    }
    pyl_heap_fini(&heap);
}

/* Goal: removing a node that is in no heap does nothing. */
Test(heap, removing_twice_is_harmless)
{
    struct pyl_heap heap;
    struct pyl_heap_node node = {0};
    pyl_heap_init(&heap);
    pyl_heap_remove(&heap, &node);
    cr_assert_eq(pyl_heap_push(&heap, &node, 1), 0);
    pyl_heap_remove(&heap, &node);
    pyl_heap_remove(&heap, &node);
    cr_assert_eq(heap.count, 0);
    pyl_heap_fini(&heap);
}

/* Goal: out of memory leaves the heap and the node as they were. */
Test(heap, push_without_memory_changes_nothing)
{
    struct pyl_heap heap;
    struct pyl_heap_node nodes[65] = {{0}};
    pyl_heap_init(&heap);
    for (int i = 0; i < 64; i++) {
        cr_assert_eq(pyl_heap_push(&heap, &nodes[i], 64 - i), 0);
    }
    pyl_alloc_inject_failure(1, 0);
    cr_assert_eq(pyl_heap_push(&heap, &nodes[64], 0), -ENOMEM);
    cr_assert_eq(nodes[64].index, 0);
    cr_assert_eq(heap.count, 64);
    cr_assert(pyl_heap_check(&heap));
    cr_assert_eq(pyl_heap_push(&heap, &nodes[64], 0), 0);
    cr_assert_eq(pyl_heap_first(&heap)->node, &nodes[64]);
    pyl_heap_fini(&heap);
    cr_assert_eq(nodes[0].index, 0);
}
