/*
 * test_lane_queue.c - order, capacity, and that a thief takes every second entry. Threads:
 * tests/stress/stress_steal.c for the rings, stress_runtime.c for the whole.
 */
#include "sched/lane_queue.h"

#include <criterion/criterion.h>

static struct pyl_lane_queue queue;
static struct pyl_lane_queue thief;
static int items[PYL_LANE_QUEUE_SLOTS + 1];

static void
init_queues(void)
{
    pyl_lane_queue_init(&queue);
    pyl_lane_queue_init(&thief);
}

TestSuite(lane_queue, .init = init_queues);

static bool
push(int i, int64_t since_ns)
{
    return pyl_lane_queue_push(&queue,
                               (struct pyl_run_entry){.item = &items[i], .since_ns = since_ns});
}

/* The number of the next entry, -1 for none. */
static int
pop(struct pyl_lane_queue *from)
{
    struct pyl_run_entry entry;
    return pyl_lane_queue_pop(from, &entry) ? (int)((int *)entry.item - items) : -1;
}

/* Goal: the owner gets its entries in order, whether their times differ or not, and a queue that is
 * full refuses one more and loses nothing. */
Test(lane_queue, owner_pops_in_order)
{
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < PYL_LANE_QUEUE_SLOTS; i++) {
            cr_assert(push(i, round == 0 ? 7 : i));
        }
        cr_assert_not(push(PYL_LANE_QUEUE_SLOTS, PYL_LANE_QUEUE_SLOTS));
        cr_assert_eq(pyl_lane_queue_count(&queue), PYL_LANE_QUEUE_SLOTS);
        cr_assert_eq(pyl_lane_queue_room(&queue), 0);
        for (int i = 0; i < PYL_LANE_QUEUE_SLOTS; i++) {
            cr_assert_eq(pop(&queue), i);
        }
        cr_assert_eq(pop(&queue), -1);
        cr_assert_eq(pyl_lane_queue_room(&queue), PYL_LANE_QUEUE_SLOTS);
    }
}

/* Goal: a thief takes every second entry, that is half; both go on in order. */
Test(lane_queue, thief_takes_every_second)
{
    for (int i = 0; i < 8; i++) {
        cr_assert(push(i, 1));
    }
    cr_assert_eq(pyl_lane_queue_steal(&queue, &thief, INT64_MAX), 4);
    for (int i = 0; i < 8; i += 2) {
        cr_assert_eq(pop(&queue), i);
        cr_assert_eq(pop(&thief), i + 1);
    }
    cr_assert_eq(pop(&queue), -1);
    cr_assert_eq(pop(&thief), -1);
}

/* Goal: half is half also where one ring has all: the older half of it, rounded up. */
Test(lane_queue, thief_takes_half_of_what_a_theft_left)
{
    struct pyl_lane_queue other;
    pyl_lane_queue_init(&other);
    for (int i = 0; i < 6; i++) {
        cr_assert(push(i, i));
    }
    cr_assert_eq(pyl_lane_queue_steal(&queue, &thief, INT64_MAX), 3); /* leaves 0, 2, 4 */
    cr_assert_eq(pyl_lane_queue_steal(&queue, &other, INT64_MAX), 2);
    cr_assert_eq(pop(&other), 0);
    cr_assert_eq(pop(&other), 2);
    cr_assert_eq(pop(&queue), 4);
}

/* Goal: the oldest comes first also when thieves have left the rings unlike. */
Test(lane_queue, order_after_a_theft)
{
    for (int i = 0; i < 4; i++) {
        cr_assert(push(i, i));
    }
    cr_assert_eq(pyl_lane_queue_steal(&queue, &thief, INT64_MAX), 2); /* leaves 0, 2 */
    for (int i = 4; i < 8; i++) {
        cr_assert(push(i, i));
    }
    cr_assert_eq(pyl_lane_queue_oldest_ns(&queue), 0);
    const int left[] = {0, 2, 4, 5, 6, 7};
    for (int i = 0; i < 6; i++) {
        cr_assert_eq(pop(&queue), left[i]);
    }
    cr_assert_eq(pyl_lane_queue_oldest_ns(&queue), INT64_MAX);
}

/* Goal: entries that became ready after the given time stay; a single old one is found in either
 * ring. */
Test(lane_queue, young_entries_stay)
{
    cr_assert(push(0, 5));
    cr_assert(push(1, 9));
    cr_assert_eq(pyl_lane_queue_steal(&queue, &thief, 4), 0);
    cr_assert_eq(pyl_lane_queue_steal(&queue, &thief, 5), 1);
    cr_assert_eq(pop(&thief), 0);
    cr_assert_eq(pop(&queue), 1);
}
