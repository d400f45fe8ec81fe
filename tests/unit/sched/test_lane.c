/*
 * test_lane.c - where new strands go: own queue, injector, thieves; who sleeps, watches, is woken.
 * Covers steal.c.
 */
#include "sched/lane.h"

#include "support/runtime_fixture.h"

enum { STRANDS = PYL_LANE_QUEUE_SLOTS * 2 + 64, JOBS = 4 * PYL_WORKER_JOBS_STRIDE };

static struct pyl_runtime runtime;
static struct pyl_lane *first;
static struct pyl_lane *second;
static struct counted_strand strands[STRANDS];

static void
open_lanes(void)
{
    fixture_open_runtime(&runtime, 2);
    first = &runtime.lanes[0];
    second = &runtime.lanes[1];
    for (int i = 0; i < STRANDS; i++) {
        counted_init(&strands[i], true);
    }
}

static void
close_lanes(void)
{
    fixture_end_runtime(&runtime);
}

TestSuite(lane, .init = open_lanes, .fini = close_lanes);

/* Spawned by the lane itself, or from outside (NULL). */
static void
spawn_range(struct pyl_lane *lane, int begin, int end)
{
    pyl_lane_set_current(lane);
    for (int i = begin; i < end; i++) {
        cr_assert_eq(pyl_runtime_spawn(&runtime, &strands[i].strand, &strands[i].job), 0);
    }
    pyl_lane_set_current(NULL);
}

static int
count_runs(uint32_t lane)
{
    int count = 0;
    for (int i = 0; i < STRANDS; i++) {
        cr_assert_leq(strands[i].runs, 1);
        count += strands[i].runs == 1 && strands[i].ran_on == lane;
    }
    return count;
}

/* The first half of a turn: what a lane does before it may block. */
static bool
look(struct pyl_lane *lane)
{
    pyl_lane_set_current(lane);
    bool may_block = pyl_lane_look(lane);
    pyl_lane_set_current(NULL);
    return may_block;
}

/* The second half, when it was allowed to block: it must not, or the simulation would jump. */
static void
wake_up(struct pyl_lane *lane)
{
    pyl_lane_set_current(lane);
    cr_assert_eq(pyl_worker_turn(&lane->worker, false), 0);
    pyl_lane_settle(lane);
    pyl_lane_set_current(NULL);
}

static bool
is_notified(struct pyl_lane *lane)
{
    return atomic_load(&lane->worker.park) == PYL_WORKER_NOTIFIED;
}

/* Goal: what a lane spawns runs there when nobody is idle for long. */
Test(lane, own_strands_run_here)
{
    spawn_range(first, 0, 3);
    fixture_turn_lane(first);
    cr_assert_eq(count_runs(0), 3);
}

/* Goal: in a timed turn each strand counts as a callback, though one job begins them all. */
Test(lane, strands_are_timed_one_by_one)
{
    for (int i = 1; i < PYL_SAMPLE_TURNS; i++) {
        fixture_turn_lane(first);
    }
    spawn_range(first, 0, 5);
    fixture_turn_lane(first);
    cr_assert_eq(count_runs(0), 5);
    cr_assert_eq(atomic_load(&first->worker.sample.callbacks.buckets[0]), 5);
    cr_assert_eq(atomic_load(&first->worker.stats.jobs), 1);
}

/* Goal: a strand from outside is found by whichever lane looks. */
Test(lane, outside_strand_is_taken_from_injector)
{
    spawn_range(NULL, 0, 1);
    cr_assert_eq(pyl_injector_depth(&runtime.injector), 1);
    fixture_turn_lane(second);
    cr_assert_eq(count_runs(1), 1);
}

/* Goal: entries are stolen when they have waited for 100 us, and not before; then the older half.
 */
Test(lane, thief_takes_what_waited)
{
    spawn_range(first, 0, 3);
    fixture_turn_lane(second);
    cr_assert_eq(count_runs(1), 0);
    fixture_pass(&runtime, PYL_RUNTIME_STEAL_DELAY_NS);
    fixture_turn_lane(second);
    cr_assert_eq(count_runs(1), 2);
    fixture_turn_lane(first);
    cr_assert_eq(count_runs(0), 1);
    cr_assert_eq(atomic_load(&second->stats.stolen), 2);
}

/* Goal: a lane that saw young entries waits until they are old enough, no longer. */
Test(lane, thief_waits_for_young_entries)
{
    spawn_range(first, 0, 2);
    cr_assert(look(second));
    cr_assert_eq(second->mode, PYL_LANE_WATCHING);
    cr_assert(second->watch.is_armed);
    pyl_lane_set_current(second);
    cr_assert_eq(pyl_worker_turn(&second->worker, true), 0); /* the simulated wait jumps there */
    pyl_lane_settle(second);
    pyl_lane_set_current(NULL);
    fixture_turn_lane(second);
    cr_assert_eq(count_runs(1), 1);
}

/* The first lane spawns strands that stay, as many at a time as its queue holds, and turns. */
static void
spawn_lasting(int begin, int end)
{
    for (int i = begin; i < end; i++) {
        counted_init(&strands[i], false);
    }
    while (begin < end) {
        int next = end - begin > PYL_LANE_QUEUE_SLOTS ? begin + PYL_LANE_QUEUE_SLOTS : end;
        spawn_range(first, begin, next);
        fixture_turn_lane(first);
        begin = next;
    }
}

/* Goal: strands that stay are shared out when they begin, also if nobody had time to steal. */
Test(lane, lasting_strands_are_shared_out)
{
    spawn_lasting(0, 9);
    fixture_turn_lane(second);
    cr_assert_eq(count_runs(0), 5);
    cr_assert_eq(count_runs(1), 4);
    cr_assert_eq(atomic_load(&first->stats.handed_over), 4);
    cr_assert_eq(atomic_load(&second->stats.stolen), 0);
}

/* Goal: what is bound is not handed over, but stolen like any other. */
Test(lane, bound_strands_are_only_stolen)
{
    atomic_store(&first->stats.guests, 100);
    for (int i = 0; i < 5; i++) {
        strands[i].strand.is_bound = true;
    }
    spawn_range(first, 0, 2);
    fixture_turn_lane(first);
    cr_assert_eq(count_runs(0), 2);
    cr_assert_eq(atomic_load(&first->stats.handed_over), 0);
    fixture_turn_lane(second); /* each lane has a clock of its own, which its turns move */
    spawn_range(first, 2, 5);
    fixture_pass(&runtime, PYL_RUNTIME_STEAL_DELAY_NS);
    fixture_turn_lane(second);
    cr_assert_eq(count_runs(1), 2);
    cr_assert_eq(atomic_load(&second->stats.stolen), 2);
}

/* Goal: nothing new goes to a lane that is in the middle of a long turn, until it has far less. */
Test(lane, a_late_lane_gets_nothing)
{
    fixture_turn_lane(second);
    fixture_pass(&runtime, PYL_RUNTIME_STEAL_DELAY_NS + 1); /* as if a job of that turn took it */
    spawn_lasting(0, PYL_LANE_LATE_SLACK + 1);
    cr_assert_eq(count_runs(0), PYL_LANE_LATE_SLACK + 1);
    spawn_lasting(PYL_LANE_LATE_SLACK + 1, PYL_LANE_LATE_SLACK + 3);
    cr_assert_eq(atomic_load(&first->stats.handed_over), 1);
}

/* Goal: guests count as much as strands do. */
Test(lane, guests_count_as_load)
{
    atomic_store(&second->stats.guests, 2);
    spawn_lasting(0, 4);
    fixture_turn_lane(second);
    cr_assert_eq(count_runs(0), 3);
    cr_assert_eq(count_runs(1), 1);
}

/* Goal: with stealing off nothing is stolen. */
Test(lane, stealing_can_be_off)
{
    runtime.steal_delay_ns = -1;
    counted_init(&strands[0], false);
    spawn_range(first, 0, 2);
    fixture_pass(&runtime, PYL_RUNTIME_STEAL_DELAY_NS * 10);
    cr_assert(look(second));
    cr_assert_eq(second->mode, PYL_LANE_SLEEPING);
    wake_up(second);
    fixture_turn_lane(first);
    cr_assert_eq(count_runs(0), 2);
}

/* Goal: what does not fit into the queue goes to the injector, and everything runs once. */
Test(lane, full_queue_overflows)
{
    spawn_range(first, 0, PYL_LANE_QUEUE_SLOTS + 1);
    cr_assert_eq(pyl_injector_depth(&runtime.injector), PYL_LANE_QUEUE_SLOTS / 2 + 1);
    for (int i = 0; i < PYL_LANE_QUEUE_SLOTS; i++) {
        fixture_turn_lane(second);
        fixture_turn_lane(first);
    }
    cr_assert_eq(count_runs(0) + count_runs(1), PYL_LANE_QUEUE_SLOTS + 1);
    cr_assert_gt(count_runs(1), 0);
}

/* Goal: a spawn from outside wakes one sleeper, once. */
Test(lane, outside_spawn_wakes_one_sleeper)
{
    cr_assert(look(first));
    cr_assert(look(second));
    spawn_range(NULL, 0, 2);
    cr_assert(is_notified(first) != is_notified(second));
    wake_up(first);
    wake_up(second);
    cr_assert(first->mode == PYL_LANE_SEARCHING || second->mode == PYL_LANE_SEARCHING);
}

/* Goal: a strand that comes between a lane's search and its sleep is not overlooked. */
Test(lane, strand_during_last_look_keeps_lane_awake)
{
    cr_assert(look(first)); /* sleeps: it was the last to search */
    spawn_range(NULL, 0, 1);
    cr_assert(is_notified(first));
    cr_assert(!look(second), "the injector is looked at before the sleep");
    wake_up(second);
    cr_assert_eq(count_runs(1), 1);
    wake_up(first);
}

/* Goal: who begins a strand with others behind it tells a sleeper that there is something to take.
 */
Test(lane, backlog_wakes_sleeper)
{
    cr_assert(look(second));
    spawn_range(first, 0, 1);
    fixture_turn_lane(first);
    cr_assert(!is_notified(second), "a single strand is not worth a wake-up");
    spawn_range(first, 1, 3);
    fixture_turn_lane(first);
    cr_assert(is_notified(second));
    wake_up(second);
    cr_assert_eq(second->mode, PYL_LANE_SEARCHING);
    cr_assert(look(second));
    cr_assert_eq(second->mode, PYL_LANE_WATCHING, "it stays for a moment: more may come");
    wake_up(second);
    cr_assert(look(second));
    cr_assert_eq(second->mode, PYL_LANE_SLEEPING);
    wake_up(second);
}

static struct counted_strand circling;

static void
run_circling(struct pyl_job *job)
{
    pyl_strand_post(&circling.strand, job);
    fixture_pass(&runtime, PYL_STRAND_BUDGET_NS);
}

/* Goal: a lane that never runs dry still looks at the injector. */
Test(lane, busy_lane_looks_at_injector)
{
    counted_init(&circling, false);
    circling.job.run = run_circling;
    cr_assert_eq(pyl_runtime_spawn_on(&runtime, 0, &circling.strand, &circling.job), 0);
    fixture_turn_lane(first);
    spawn_range(NULL, 0, 1);
    for (int i = 0; i < PYL_LANE_INJECTOR_SHARE + 1; i++) {
        fixture_turn_lane(first);
    }
    cr_assert_eq(count_runs(0), 1);
    circling.job.run = counted_run;
}

static void
run_slow(struct pyl_job *job)
{
    fixture_pass(&runtime, PYL_LANE_TURN_NS / 2);
    counted_run(job);
}

/* Goal: much to do does not keep the lane from its reactor: a turn has a time limit. */
Test(lane, turn_has_time_limit)
{
    for (int i = 0; i < 4; i++) {
        strands[i].job.run = run_slow;
    }
    spawn_range(first, 0, 4);
    fixture_turn_lane(first);
    cr_assert_eq(count_runs(0), 2);
    fixture_turn_lane(first);
    cr_assert_eq(count_runs(0), 4);
}

/* ---- jobs that are no strand's ---- */

static struct slow_job {
    struct pyl_job job;
    int64_t duration_ns;
    bool is_stopping; /* its owner stops after this turn */
} slow_jobs[JOBS];
static int slow_trace[2 * JOBS];
static int slow_count;

/* Takes its time, and goes to the end of the queue. */
static void
run_slow_job(struct pyl_job *job)
{
    struct slow_job *slow = PYL_CONTAINER_OF(job, struct slow_job, job);
    cr_assert_lt(slow_count, 2 * JOBS);
    slow_trace[slow_count++] = (int)(slow - slow_jobs);
    fixture_pass(&runtime, slow->duration_ns);
    first->worker.is_turn_whole |= slow->is_stopping;
    pyl_worker_post(&first->worker, job);
}

static void
post_slow_jobs(int64_t duration_ns)
{
    slow_count = 0;
    for (int i = 0; i < JOBS; i++) {
        slow_jobs[i] = (struct slow_job){.job.run = run_slow_job, .duration_ns = duration_ns};
        pyl_worker_post(&first->worker, &slow_jobs[i].job);
    }
}

/* Slow ones post themselves for ever: the test drops them. */
static void
drop_jobs(void)
{
    while (pyl_job_queue_pop(&first->worker.ready) != NULL) {
    }
}

/* Goal: jobs without end do not keep the lane from its reactor, and stay in order. */
Test(lane, jobs_have_time_limit)
{
    post_slow_jobs(PYL_LANE_JOBS_NS / PYL_WORKER_JOBS_STRIDE);
    for (int turn = 1; turn <= 8; turn++) {
        fixture_turn_lane(first);
        cr_assert_eq(slow_count, turn * PYL_WORKER_JOBS_STRIDE);
    }
    for (int i = 0; i < 2 * JOBS; i++) {
        cr_assert_eq(slow_trace[i], i % JOBS);
    }
    cr_assert_eq(atomic_load(&first->worker.stats.turns_cut), 8);
    drop_jobs();
}

/* Goal: where a job takes as long as a turn may, the clock is read after each. */
Test(lane, slow_jobs_run_one_a_turn)
{
    post_slow_jobs(PYL_LANE_JOBS_NS);
    for (int turn = 1; turn <= 3; turn++) {
        fixture_turn_lane(first);
        cr_assert_eq(slow_count, turn);
    }
    drop_jobs();
}

static struct pyl_job quick_jobs[1024];
static int quick_count;

static void
run_quick_job(struct pyl_job *job)
{
    quick_count++;
    fixture_pass(&runtime, PYL_LANE_JOBS_NS / 640);
}

/* Goal: between two readings of the clock there are many quick jobs, but no more than a stride. */
Test(lane, quick_jobs_have_time_limit)
{
    for (int i = 0; i < 1024; i++) {
        quick_jobs[i].run = run_quick_job;
        pyl_worker_post(&first->worker, &quick_jobs[i]);
    }
    fixture_turn_lane(first);
    cr_assert_geq(quick_count, 640);
    cr_assert_leq(quick_count, 640 + PYL_WORKER_JOBS_STRIDE);
    drop_jobs();
}

/* Goal: a turn ends with what was ready when it began, also where time is left. */
Test(lane, jobs_that_jobs_post_wait_for_next_turn)
{
    post_slow_jobs(PYL_LANE_JOBS_NS / JOBS / 2);
    fixture_turn_lane(first);
    cr_assert_eq(slow_count, JOBS);
    cr_assert_eq(atomic_load(&first->worker.stats.turns_cut), 0);
    drop_jobs();
}

/* Goal: when the owner stops, what was ready at the beginning of the turn still runs. */
Test(lane, last_turn_has_no_time_limit)
{
    post_slow_jobs(PYL_LANE_JOBS_NS / PYL_WORKER_JOBS_STRIDE);
    slow_jobs[PYL_WORKER_JOBS_STRIDE + 1].is_stopping = true;
    fixture_turn_lane(first);
    cr_assert_eq(slow_count, PYL_WORKER_JOBS_STRIDE);
    fixture_turn_lane(first);
    cr_assert_eq(slow_count, PYL_WORKER_JOBS_STRIDE + JOBS);
    drop_jobs();
}

/* Takes as long as three turns of jobs, and makes jobs. */
struct slow_event {
    struct pyl_op op;
    struct pyl_job jobs[4];
    int job_count;
};

static void
run_nothing(struct pyl_job *job)
{
}

static void
on_slow_event(struct pyl_op *op, const struct pyl_event *event)
{
    struct slow_event *slow = PYL_CONTAINER_OF(op, struct slow_event, op);
    fixture_pass(&runtime, 3 * PYL_LANE_JOBS_NS);
    for (int i = 0; i < slow->job_count; i++) {
        slow->jobs[i].run = run_nothing;
        pyl_worker_post(&first->worker, &slow->jobs[i]);
    }
}

/* Returns how many slow jobs ran in the turn of an event that made so many jobs. */
static int
run_slow_event(int job_count)
{
    int fds[2];
    cr_assert_eq(pyl_sim_pair(&first->worker.reactor, 0, fds), 0);
    struct slow_event slow = {
        .op = {.kind = PYL_OP_POLL, .fd = fds[0], .on_complete = on_slow_event},
        .job_count = job_count,
    };
    slow.op.args.poll.events = PYL_POLL_OUT;
    pyl_reactor_submit(&first->worker.reactor, &slow.op);
    post_slow_jobs(PYL_LANE_JOBS_NS / PYL_WORKER_JOBS_STRIDE);
    fixture_turn_lane(first);
    cr_assert(pyl_op_is_idle(&slow.op));
    drop_jobs();
    return slow_count;
}

/* Goal: jobs get as much time as the events that made some took, so that they do not pile up. */
Test(lane, jobs_have_as_long_as_events)
{
    cr_assert_eq(run_slow_event(3), 3 * PYL_WORKER_JOBS_STRIDE);
    cr_assert_eq(run_slow_event(4), 3 * PYL_WORKER_JOBS_STRIDE);
}

/* Goal: events whose thread was without a core lengthen a turn by no more than the jobs they made.
 */
Test(lane, slow_events_that_make_few_jobs_lengthen_no_turn)
{
    cr_assert_eq(run_slow_event(0), PYL_WORKER_JOBS_STRIDE);
    cr_assert_eq(run_slow_event(1), PYL_WORKER_JOBS_STRIDE);
    cr_assert_eq(run_slow_event(2), 2 * PYL_WORKER_JOBS_STRIDE);
}

/* Goal: the same in a timed turn, whose phases are another function. */
Test(lane, slow_events_in_a_timed_turn)
{
    for (int i = 1; i < PYL_SAMPLE_TURNS; i++) {
        fixture_turn_lane(first);
    }
    cr_assert_eq(run_slow_event(2), 2 * PYL_WORKER_JOBS_STRIDE);
}
