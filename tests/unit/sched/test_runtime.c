/*
 * test_runtime.c - threads, spawning from outside, the phases of the end.
 */
#include "sched/runtime.h"

#include "support/runtime_fixture.h"

#include <errno.h>
#include <stdio.h>

enum { STRANDS = 100 };

static struct pyl_runtime runtime;
static struct counted_strand strands[STRANDS];

/* On the backend that PYLOOP_BACKEND names. */
static void
start_runtime(uint32_t workers)
{
    struct pyl_runtime_options options = {.workers = workers};
    char cause[PYL_REACTOR_CAUSE_SIZE] = "";
    if (pyl_runtime_init(&runtime, &options, cause, sizeof(cause)) < 0) {
        fprintf(stderr, "SKIPPED: this backend is not available: %s\n", cause);
        cr_skip_test("%s", cause);
    }
    cr_assert_eq(pyl_runtime_start(&runtime), 0);
}

static void
end_runtime(void)
{
    pyl_runtime_stop(&runtime);
    cr_assert_eq(pyl_runtime_join(&runtime), 0);
    pyl_runtime_fini(&runtime);
}

/* Goal: every strand spawned from outside runs once and ends, and the end waits for all of them. */
Test(runtime, strands_from_outside_run_once)
{
    start_runtime(2);
    for (int i = 0; i < STRANDS; i++) {
        counted_init(&strands[i], true);
        cr_assert_eq(pyl_runtime_spawn(&runtime, &strands[i].strand, &strands[i].job), 0);
    }
    end_runtime();
    for (int i = 0; i < STRANDS; i++) {
        cr_assert_eq(strands[i].runs, 1);
        cr_assert_eq(strands[i].ends, 1);
    }
}

/* Goal: strands that live on are told once that the runtime stops, and end. */
Test(runtime, living_strands_are_told)
{
    start_runtime(2);
    for (uint32_t i = 0; i < STRANDS; i++) {
        counted_init(&strands[i], false);
        struct pyl_strand *strand = &strands[i].strand;
        cr_assert_eq(pyl_runtime_spawn_on(&runtime, i % 2, strand, &strands[i].job), 0);
    }
    end_runtime();
    for (uint32_t i = 0; i < STRANDS; i++) {
        cr_assert_eq(strands[i].stops, 1);
        cr_assert_eq(strands[i].ends, 1);
        cr_assert_eq(strands[i].ran_on, i % 2);
    }
}

/* Goal: a stopping runtime takes nothing more from outside. */
Test(runtime, stopping_runtime_refuses)
{
    start_runtime(1);
    pyl_runtime_stop(&runtime);
    counted_init(&strands[0], true);
    int rc = pyl_runtime_spawn(&runtime, &strands[0].strand, &strands[0].job);
    cr_assert_eq(rc, -ECANCELED);
    end_runtime();
    cr_assert_eq(strands[0].runs, 0);
}

struct late_spawn {
    struct pyl_job job;
    int rc;
};

static void
run_late_spawn(struct pyl_job *job)
{
    struct late_spawn *late = PYL_CONTAINER_OF(job, struct late_spawn, job);
    counted_init(&strands[0], true);
    late->rc = pyl_runtime_spawn(&runtime, &strands[0].strand, &strands[0].job);
}

/* Goal: nor from a lane that runs no strand, for whose callbacks the end does not wait. */
Test(runtime, stopping_runtime_refuses_callbacks)
{
    struct late_spawn late = {.job = {.run = run_late_spawn}, .rc = 1};
    fixture_open_runtime(&runtime, 2);
    pyl_worker_post(&runtime.lanes[0].worker, &late.job);
    pyl_runtime_stop(&runtime);
    fixture_turn_lane(&runtime.lanes[0]);
    cr_assert_eq(late.rc, -ECANCELED);
    fixture_end_runtime(&runtime);
    cr_assert_eq(strands[0].runs, 0);
}

struct parent {
    struct counted_strand counted;
    struct counted_strand *children;
    int count;
};

static void
run_parent(struct pyl_job *job)
{
    struct parent *parent = PYL_CONTAINER_OF(job, struct parent, counted.job);
    for (int i = 0; i < parent->count; i++) {
        struct counted_strand *child = &parent->children[i];
        counted_init(child, true);
        cr_assert_eq(pyl_runtime_spawn(&runtime, &child->strand, &child->job), 0);
    }
    counted_run(job);
}

/* Goal: a strand may spawn others while the runtime ends, and the end waits for them. */
Test(runtime, end_waits_for_strands_of_strands)
{
    static struct parent parent;
    start_runtime(2);
    counted_init(&parent.counted, true);
    parent.counted.job.run = run_parent;
    parent.children = strands;
    parent.count = STRANDS;
    cr_assert_eq(pyl_runtime_spawn(&runtime, &parent.counted.strand, &parent.counted.job), 0);
    end_runtime();
    for (int i = 0; i < STRANDS; i++) {
        cr_assert_eq(strands[i].ends, 1);
    }
}

/* ---- embedding ---- */

static _Atomic int threads_begun;
static _Atomic int threads_ended;
static _Atomic int turns_ended;
static _Atomic int waits_open; /* before_wait without after_wait */

static void
count_start(struct pyl_lane *lane, void *user)
{
    cr_assert_eq(pyl_lane_current(), lane);
    atomic_fetch_add(&threads_begun, 1);
}

static void
count_end(struct pyl_lane *lane, void *user)
{
    atomic_fetch_add(&threads_ended, 1);
}

static void
count_turn(struct pyl_lane *lane, void *user)
{
    atomic_fetch_add(&turns_ended, 1);
}

static _Atomic int lanes_drained;

static void
count_drain(struct pyl_lane *lane, void *user)
{
    cr_assert_eq(pyl_runtime_phase_of(lane->runtime), PYL_RUNTIME_ENDED);
    cr_assert_leq(atomic_load(&threads_ended), atomic_fetch_add(&lanes_drained, 1));
}

static void
count_before(struct pyl_worker *worker, void *user)
{
    atomic_fetch_add(&waits_open, 1);
}

static void
count_after(struct pyl_worker *worker, void *user)
{
    atomic_fetch_sub(&waits_open, 1);
}

static struct counted_strand main_strand;
static bool is_main_done;

static void
run_main_strand(struct pyl_job *job)
{
    counted_run(job);
    is_main_done = true;
}

/* Goal: an embedder runs the first lane itself, as far as it likes and to the end; it is told of
 * the other threads, of turns and of waits. */
Test(runtime, first_lane_runs_in_caller)
{
    struct pyl_runtime_options options = {
        .workers = 3,
        .is_first_external = true,
        .embedder =
            {
                .on_start = count_start,
                .after_turn = count_turn,
                .on_drain = count_drain,
                .on_end = count_end,
                .wait = {.before_wait = count_before, .after_wait = count_after},
            },
    };
    if (pyl_runtime_init(&runtime, &options, NULL, 0) < 0) {
        cr_skip_test("this backend is not available");
    }
    cr_assert_eq(pyl_runtime_start(&runtime), 0);
    counted_init(&main_strand, false);
    main_strand.job.run = run_main_strand;
    struct pyl_strand *strand = &main_strand.strand;
    cr_assert_eq(pyl_runtime_spawn_on(&runtime, 0, strand, &main_strand.job), 0);
    cr_assert_eq(pyl_runtime_run_first(&runtime, &is_main_done), 0);
    cr_assert_eq(main_strand.runs, 1);
    cr_assert_eq(main_strand.ends, 0);
    for (uint32_t i = 0; i < STRANDS; i++) { /* some wait for the lane that nobody runs now */
        counted_init(&strands[i], true);
        strand = &strands[i].strand;
        cr_assert_eq(pyl_runtime_spawn_on(&runtime, i % 3, strand, &strands[i].job), 0);
    }
    end_runtime();
    cr_assert_eq(main_strand.ends, 1);
    for (int i = 0; i < STRANDS; i++) {
        cr_assert_eq(strands[i].ends, 1);
    }
    cr_assert_eq(atomic_load(&threads_begun), 2);
    cr_assert_eq(atomic_load(&lanes_drained), 3);
    cr_assert_eq(atomic_load(&threads_ended), 2);
    cr_assert_gt(atomic_load(&turns_ended), 3);
    cr_assert_eq(atomic_load(&waits_open), 0);
}

/* Goal: of two lanes the one with fewer strands; equal ones take turns. */
Test(runtime, lighter_lane_is_found)
{
    fixture_open_runtime(&runtime, 2);
    cr_assert_neq(pyl_runtime_lighter(&runtime, 0), pyl_runtime_lighter(&runtime, 1));
    counted_init(&strands[0], false);
    cr_assert_eq(pyl_runtime_spawn_on(&runtime, 0, &strands[0].strand, &strands[0].job), 0);
    cr_assert_eq(pyl_runtime_lighter(&runtime, 0), 1, "it counts before it has begun");
    fixture_turn_lane(&runtime.lanes[0]);
    cr_assert_eq(pyl_runtime_lighter(&runtime, 1), 1);
    fixture_end_runtime(&runtime);
    fixture_open_runtime(&runtime, 1);
    cr_assert_eq(pyl_runtime_lighter(&runtime, 5), 0);
    pyl_runtime_fini(&runtime);
}

/* Goal: too many workers are refused; a runtime that was never started can be freed, twice. */
Test(runtime, bad_and_unused)
{
    struct pyl_runtime_options options = {.workers = PYL_IDLE_WORKERS_MAX + 1};
    cr_assert_eq(pyl_runtime_init(&runtime, &options, NULL, 0), -EINVAL);
    fixture_open_runtime(&runtime, 3);
    pyl_runtime_fini(&runtime);
    pyl_runtime_fini(&runtime);
}
