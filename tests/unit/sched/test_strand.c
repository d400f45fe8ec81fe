/*
 * test_strand.c - serial order, the time budget, the end. Threads: tests/stress/stress_runtime.c.
 */
#include "sched/strand.h"

#include "support/runtime_fixture.h"

enum { STEPS = 6, STEP_NS = 10000 };

struct steps {
    struct pyl_strand strand;
    struct pyl_job jobs[STEPS];
    int trace[STEPS];
    int count;
    int end_after;  /* the strand is ended by the run of that number */
    bool is_slow;   /* each run takes STEP_NS */
    bool is_nested; /* the first run posts the others */
    bool is_ended;
};

static struct pyl_runtime runtime;
static struct steps steps;

static void
run_step(struct pyl_job *job)
{
    int number = (int)(job - steps.jobs);
    steps.trace[steps.count++] = number;
    if (steps.is_slow) {
        fixture_pass(&runtime, STEP_NS);
    }
    for (int i = 1; steps.is_nested && number == 0 && i < STEPS; i++) {
        pyl_strand_post(&steps.strand, &steps.jobs[i]);
    }
    if (steps.count == steps.end_after) {
        pyl_strand_end(&steps.strand);
    }
}

static void
steps_on_stop(struct pyl_strand *strand)
{
    pyl_strand_end(strand);
    pyl_strand_post(strand, &steps.jobs[0]);
}

static void
steps_on_ended(struct pyl_strand *strand)
{
    steps.is_ended = true;
}

static const struct pyl_strand_ops steps_ops = {steps_on_stop, steps_on_ended};

static void
open_steps(void)
{
    fixture_open_runtime(&runtime, 2);
    steps = (struct steps){.end_after = STEPS};
    pyl_strand_init(&steps.strand, &steps_ops);
    for (int i = 0; i < STEPS; i++) {
        steps.jobs[i].run = run_step;
    }
}

static void
close_steps(void)
{
    fixture_end_runtime(&runtime);
}

TestSuite(strand, .init = open_steps, .fini = close_steps);

static void
spawn_steps(void)
{
    cr_assert_eq(pyl_runtime_spawn_on(&runtime, 0, &steps.strand, &steps.jobs[0]), 0);
}

static void
post_steps(int first, int end)
{
    for (int i = first; i < end; i++) {
        pyl_strand_post(&steps.strand, &steps.jobs[i]);
    }
}

static void
expect_count(int count)
{
    cr_assert_eq(steps.count, count, "%d runs instead of %d", steps.count, count);
    for (int i = 0; i < count; i++) {
        cr_assert_eq(steps.trace[i], i);
    }
}

/* Goal: posts from elsewhere run in order, in one activation. */
Test(strand, posts_run_in_order)
{
    spawn_steps();
    post_steps(1, STEPS);
    fixture_turn_lane(&runtime.lanes[0]);
    expect_count(STEPS);
    cr_assert(steps.is_ended);
    cr_assert_eq(atomic_load(&runtime.lanes[0].stats.activations), 1);
}

/* Goal: what a job of the strand posts runs behind what is there, in order. */
Test(strand, posts_from_inside_run_in_order)
{
    steps.is_nested = true;
    spawn_steps();
    fixture_turn_lane(&runtime.lanes[0]);
    expect_count(STEPS);
}

/* Goal: a strand with much to do gives way when its time is used up, and goes on later. */
Test(strand, gives_way_after_its_time)
{
    steps.is_slow = true;
    spawn_steps();
    post_steps(1, STEPS);
    fixture_turn_lane(&runtime.lanes[0]);
    expect_count(3); /* the third run uses the 25 us up */
    cr_assert_eq(atomic_load(&runtime.lanes[0].stats.budget_ends), 1);
    fixture_turn_lane(&runtime.lanes[0]);
    expect_count(STEPS);
}

/* Goal: a strand that rests is scheduled by the next post, at home. */
Test(strand, resting_strand_wakes_at_home)
{
    spawn_steps();
    fixture_turn_lane(&runtime.lanes[0]);
    expect_count(1);
    post_steps(1, STEPS);
    fixture_turn_lane(&runtime.lanes[1]);
    expect_count(1);
    fixture_turn_lane(&runtime.lanes[0]);
    expect_count(STEPS);
}

/* Goal: after the end no job runs, not even one that was posted before. */
Test(strand, ended_strand_runs_nothing)
{
    steps.end_after = 2;
    spawn_steps();
    post_steps(1, STEPS);
    fixture_turn_lane(&runtime.lanes[0]);
    expect_count(2);
    cr_assert(steps.is_ended);
}
