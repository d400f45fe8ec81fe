/*
 * steal.c - where a lane without work gets some: the injector, then the queues of the others.
 * Tested by tests/unit/sched/test_lane.c.
 */
#include "base/check.h"
#include "sched/lane.h"
#include "sched/runtime.h"

enum { INJECTED_MAX = PYL_LANE_QUEUE_SLOTS / 2 };

/* xorshift64*: which victim is first must differ, no more. */
static uint32_t
random_below(struct pyl_lane *lane, uint32_t bound)
{
    uint64_t x = lane->random_state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    lane->random_state = x;
    return (uint32_t)((x * UINT64_C(0x2545F4914F6CDD1D)) >> 33) % bound;
}

uint32_t
pyl_steal_injected(struct pyl_lane *lane, uint32_t limit)
{
    struct pyl_runtime *runtime = lane->runtime;
    uint32_t depth = pyl_injector_depth(&runtime->injector);
    if (depth == 0) {
        return 0;
    }
    uint32_t share = depth / runtime->lane_count + 1; /* leave the others theirs */
    limit = limit < share ? limit : share;
    limit = limit < INJECTED_MAX ? limit : INJECTED_MAX;
    /* Not always a whole ring, although the queue is empty: a thief that is still copying holds
     * what it reserved and all that came behind it. */
    uint32_t room = pyl_lane_queue_room(&lane->queue);
    limit = limit < room ? limit : room;
    struct pyl_job_queue taken = {0};
    uint32_t count = pyl_injector_take(&runtime->injector, limit, &taken);
    struct pyl_job *job;
    while ((job = pyl_job_queue_pop(&taken)) != NULL) {
        struct pyl_strand *strand = PYL_CONTAINER_OF(job, struct pyl_strand, job);
        struct pyl_run_entry entry = {.item = strand, .since_ns = strand->queued_ns};
        bool is_pushed = pyl_lane_queue_push(&lane->queue, entry);
        PYL_CHECK(is_pushed);
    }
    if (count > 0) {
        pyl_counter_add(&lane->stats.injected, count);
        pyl_lane_ready_queue(lane);
    }
    return count;
}

bool
pyl_steal(struct pyl_lane *lane, int64_t *ret_mature_ns)
{
    struct pyl_runtime *runtime = lane->runtime;
    *ret_mature_ns = INT64_MAX;
    if (runtime->steal_delay_ns < 0 || runtime->lane_count < 2) {
        return false;
    }
    pyl_counter_add(&lane->stats.searches, 1);
    int64_t not_after_ns = pyl_reactor_now_ns(&lane->worker.reactor) - runtime->steal_delay_ns;
    uint32_t first = random_below(lane, runtime->lane_count);
    for (uint32_t i = 0; i < runtime->lane_count; i++) {
        struct pyl_lane *victim = &runtime->lanes[(first + i) % runtime->lane_count];
        if (victim == lane) {
            continue;
        }
        uint32_t count = pyl_lane_queue_steal(&victim->queue, &lane->queue, not_after_ns);
        if (count > 0) {
            pyl_counter_add(&lane->stats.steals, 1);
            pyl_counter_add(&lane->stats.stolen, count);
            pyl_lane_ready_queue(lane);
            return true;
        }
        int64_t oldest_ns = pyl_lane_queue_oldest_ns(&victim->queue);
        if (oldest_ns != INT64_MAX && oldest_ns + runtime->steal_delay_ns < *ret_mature_ns) {
            *ret_mature_ns = oldest_ns + runtime->steal_delay_ns;
        }
    }
    return false;
}
