/*
 * runtime_fixture.h - a runtime on simulated reactors whose lanes a test turns by hand, and strands
 * that record what they run.
 */
#ifndef PYL_TESTS_SUPPORT_RUNTIME_FIXTURE_H
#define PYL_TESTS_SUPPORT_RUNTIME_FIXTURE_H

#include "reactor/sim.h"
#include "sched/runtime.h"

#include <criterion/criterion.h>
#include <stdbool.h>

static inline void
fixture_open_runtime(struct pyl_runtime *runtime, uint32_t workers)
{
    struct pyl_runtime_options options = {
        .workers = workers,
        .seed = 1,
        .reactor = {.backend = "sim"},
    };
    char cause[PYL_REACTOR_CAUSE_SIZE] = "";
    cr_assert_eq(pyl_runtime_init(runtime, &options, cause, sizeof(cause)), 0, "%s", cause);
}

/* Time passes for every lane. */
static inline void
fixture_pass(struct pyl_runtime *runtime, int64_t duration_ns)
{
    for (uint32_t i = 0; i < runtime->lane_count; i++) {
        pyl_sim_advance(&runtime->lanes[i].worker.reactor, duration_ns);
    }
}

/* One turn of the lane that does not block. */
static inline void
fixture_turn_lane(struct pyl_lane *lane)
{
    pyl_lane_set_current(lane);
    bool may_block = pyl_lane_look(lane);
    (void)may_block; /* the simulated wait would jump to whatever comes next */
    cr_assert_eq(pyl_worker_turn(&lane->worker, false), 0);
    pyl_lane_settle(lane);
    pyl_runtime_advance(lane->runtime, lane);
    pyl_lane_set_current(NULL);
}

/* A strand with one job; counts what happens to it. */
struct counted_strand {
    struct pyl_strand strand;
    struct pyl_job job;
    int runs;
    int stops;
    int ends;
    uint32_t ran_on; /* index of the lane of the last run */
    bool is_ending;  /* the job ends the strand */
};

static inline void
counted_run(struct pyl_job *job)
{
    struct counted_strand *counted = PYL_CONTAINER_OF(job, struct counted_strand, job);
    counted->runs++;
    counted->ran_on = pyl_lane_current()->index;
    if (counted->is_ending) {
        pyl_strand_end(&counted->strand);
    }
}

static inline void
counted_on_stop(struct pyl_strand *strand)
{
    struct counted_strand *counted = PYL_CONTAINER_OF(strand, struct counted_strand, strand);
    counted->stops++;
    counted->is_ending = true;
    if (counted->runs > 0) {
        pyl_strand_post(strand, &counted->job);
    }
}

static inline void
counted_on_ended(struct pyl_strand *strand)
{
    PYL_CONTAINER_OF(strand, struct counted_strand, strand)->ends++;
}

static const struct pyl_strand_ops counted_ops = {counted_on_stop, counted_on_ended};

static inline void
counted_init(struct counted_strand *counted, bool is_ending)
{
    *counted = (struct counted_strand){.job = {.run = counted_run}, .is_ending = is_ending};
    pyl_strand_init(&counted->strand, &counted_ops);
}

/* Turns all lanes until the runtime is drained: every strand has ended. */
static inline void
fixture_end_runtime(struct pyl_runtime *runtime)
{
    pyl_runtime_stop(runtime);
    for (int turns = 0; pyl_runtime_phase_of(runtime) < PYL_RUNTIME_DRAINED; turns++) {
        cr_assert_lt(turns, 10000, "a strand does not end");
        fixture_turn_lane(&runtime->lanes[(uint32_t)turns % runtime->lane_count]);
    }
    pyl_runtime_fini(runtime);
}

#endif
