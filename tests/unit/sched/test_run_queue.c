/*
 * test_run_queue.c - order, capacity, what a thief takes. Threads: tests/stress/stress_steal.c.
 */
#include "sched/run_queue.h"

#include <criterion/criterion.h>

static struct pyl_run_queue queue;
static struct pyl_run_queue thief;
static int items[PYL_RUN_QUEUE_SLOTS * 2];

static void
init_queues(void)
{
    pyl_run_queue_init(&queue);
    pyl_run_queue_init(&thief);
}

TestSuite(run_queue, .init = init_queues);

/* Entry i is ready since i. */
static void
push_range(int first, int end)
{
    for (int i = first; i < end; i++) {
        struct pyl_run_entry entry = {.item = &items[i], .since_ns = i};
        cr_assert(pyl_run_queue_push(&queue, entry));
    }
}

static void
expect_range(struct pyl_run_queue *from, int first, int end)
{
    struct pyl_run_entry entry;
    for (int i = first; i < end; i++) {
        cr_assert(pyl_run_queue_pop(from, &entry));
        cr_assert_eq(entry.item, &items[i]);
        cr_assert_eq(entry.since_ns, i);
    }
    cr_assert(!pyl_run_queue_pop(from, &entry));
}

/* Goal: the owner gets its entries in order, also when positions have wrapped around the ring. */
Test(run_queue, owner_pops_in_order)
{
    for (int round = 0; round < 10; round++) {
        push_range(0, PYL_RUN_QUEUE_SLOTS - 1);
        cr_assert_eq(pyl_run_queue_count(&queue), PYL_RUN_QUEUE_SLOTS - 1);
        expect_range(&queue, 0, PYL_RUN_QUEUE_SLOTS - 1);
        cr_assert_eq(pyl_run_queue_count(&queue), 0);
    }
}

/* Goal: a full queue refuses one more and loses nothing. */
Test(run_queue, full_queue_refuses)
{
    push_range(0, PYL_RUN_QUEUE_SLOTS);
    cr_assert(!pyl_run_queue_push(&queue, (struct pyl_run_entry){.item = &items[0]}));
    expect_range(&queue, 0, PYL_RUN_QUEUE_SLOTS);
}

/* Goal: a thief takes as many as it wants of the oldest, in order; the owner keeps the rest. */
Test(run_queue, thief_takes_oldest)
{
    push_range(0, 3);
    cr_assert_eq(pyl_run_queue_steal(&queue, &thief, 2, INT64_MAX), 2);
    expect_range(&thief, 0, 2);
    expect_range(&queue, 2, 3);
}

/* Goal: a single entry can be stolen; an empty queue gives nothing. */
Test(run_queue, thief_takes_last_entry)
{
    push_range(0, 1);
    cr_assert_eq(pyl_run_queue_steal(&queue, &thief, UINT32_MAX, INT64_MAX), 1);
    expect_range(&queue, 0, 0);
    cr_assert_eq(pyl_run_queue_steal(&queue, &thief, UINT32_MAX, INT64_MAX), 0);
    expect_range(&thief, 0, 1);
}

/* Goal: entries that became ready after the given time stay. */
Test(run_queue, young_entries_stay)
{
    push_range(1, 5);
    cr_assert_eq(pyl_run_queue_steal(&queue, &thief, UINT32_MAX, 0), 0);
    cr_assert_eq(pyl_run_queue_steal(&queue, &thief, UINT32_MAX, 1), 1);
    expect_range(&thief, 1, 2);
    expect_range(&queue, 2, 5);
}

/* Goal: the age of the oldest entry can be seen, and that there is none. */
Test(run_queue, oldest_is_told)
{
    struct pyl_run_entry entry;
    cr_assert_eq(pyl_run_queue_oldest_ns(&queue), INT64_MAX);
    push_range(2, 4);
    cr_assert_eq(pyl_run_queue_oldest_ns(&queue), 2);
    cr_assert(pyl_run_queue_pop(&queue, &entry));
    cr_assert_eq(pyl_run_queue_oldest_ns(&queue), 3);
}

/* The head as a thief leaves it that has reserved the entries [stolen, taken) and not yet copied.
 */
static void
set_head(struct pyl_run_queue *of, uint32_t stolen, uint32_t taken)
{
    atomic_store(&of->head, (uint64_t)stolen << 32 | taken);
}

/* Goal: behind a thief that does not finish a queue runs out of room even when it is empty; nothing
 * is pushed, or stolen by its owner, over what that thief still reads. */
Test(run_queue, no_room_behind_a_slow_thief)
{
    struct pyl_run_entry entry;
    push_range(0, PYL_RUN_QUEUE_SLOTS);
    cr_assert_eq(pyl_run_queue_room(&queue), 0);
    set_head(&queue, 0, PYL_RUN_QUEUE_SLOTS / 2);
    expect_range(&queue, PYL_RUN_QUEUE_SLOTS / 2, PYL_RUN_QUEUE_SLOTS);
    cr_assert_eq(pyl_run_queue_count(&queue), 0);
    cr_assert_eq(pyl_run_queue_room(&queue), 0);
    cr_assert(!pyl_run_queue_push(&queue, (struct pyl_run_entry){.item = &items[0]}));

    struct pyl_run_queue victim;
    pyl_run_queue_init(&victim);
    cr_assert(pyl_run_queue_push(&victim, (struct pyl_run_entry){.item = &items[1]}));
    cr_assert_eq(pyl_run_queue_steal(&victim, &queue, UINT32_MAX, 1), 0);
    cr_assert_eq(pyl_run_queue_count(&victim), 1);
    cr_assert(pyl_run_queue_pop(&victim, &entry), "what could not be stolen stays");

    set_head(&queue, PYL_RUN_QUEUE_SLOTS, PYL_RUN_QUEUE_SLOTS); /* it has finished */
    cr_assert_eq(pyl_run_queue_room(&queue), PYL_RUN_QUEUE_SLOTS);
    push_range(0, PYL_RUN_QUEUE_SLOTS);
    expect_range(&queue, 0, PYL_RUN_QUEUE_SLOTS);
}
