/*
 * test_sample.c - what a worker measures in one turn of eight, on a simulated clock.
 */
#include "sched/sample.h"

#include "reactor/sim.h"
#include "sched/worker.h"

#include <criterion/criterion.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TURNS = PYL_SAMPLE_TURNS, JOBS_MAX = 256 };

#define US INT64_C(1024) /* so that durations fall on bounds of buckets */

static struct pyl_worker worker;

struct timed_job {
    struct pyl_job job;
    int64_t duration_ns;
    struct timed_job *then; /* posted at the end of the job */
    int runs;
    bool is_first; /* `then` is posted at the beginning instead */
    bool is_interrupting;
    bool is_deferring;
};

static void
post_then(struct timed_job *timed)
{
    if (timed->then == NULL) {
        return;
    }
    if (timed->is_deferring) {
        pyl_worker_defer(&worker, &timed->then->job);
    } else {
        pyl_worker_post(&worker, &timed->then->job);
    }
}

static void
run_timed_job(struct pyl_job *job)
{
    struct timed_job *timed = PYL_CONTAINER_OF(job, struct timed_job, job);
    timed->runs++;
    if (timed->is_first) {
        post_then(timed);
    }
    pyl_sim_advance(&worker.reactor, timed->duration_ns);
    if (!timed->is_first) {
        post_then(timed);
    }
    if (timed->is_interrupting) {
        pyl_worker_interrupt(&worker);
    }
}

#define TIMED(...)                                                \
    {                                                             \
        .job = {.run = run_timed_job}, .duration_ns = __VA_ARGS__ \
    }

static void
open_worker(void)
{
    struct pyl_reactor_options options = {.backend = "sim", .sim_seed = 1};
    cr_assert_eq(pyl_worker_init(&worker, &options, NULL, NULL, 0), 0);
}

static void
close_worker(void)
{
    pyl_worker_fini(&worker);
}

TestSuite(sample, .init = open_worker, .fini = close_worker);

static void
turn(int times)
{
    for (int i = 0; i < times; i++) {
        cr_assert_eq(pyl_worker_turn(&worker, false), 0);
    }
}

static uint64_t
count_in(const struct pyl_duration_histogram *histogram, int64_t duration_ns)
{
    return pyl_counter_read(&histogram->buckets[pyl_duration_bucket(duration_ns)]);
}

static uint64_t
count_all(const struct pyl_duration_histogram *histogram)
{
    uint64_t count = 0;
    for (int i = 0; i < PYL_DURATION_BUCKETS; i++) {
        count += pyl_counter_read(&histogram->buckets[i]);
    }
    return count;
}

static uint64_t
sum_of(const struct pyl_duration_histogram *histogram)
{
    return pyl_counter_read(&histogram->sum_ns);
}

/* Goal: in the timed turn, and in no other, each job counts with its own length. */
Test(sample, long_job_is_not_hidden_by_short_ones)
{
    struct timed_job jobs[100];
    for (int number = 1; number <= 2 * TURNS; number++) {
        for (int i = 0; i < 100; i++) {
            jobs[i] = (struct timed_job)TIMED(i == 70 ? 10000 * US : 10 * US);
            pyl_worker_post(&worker, &jobs[i].job);
        }
        turn(1);
        uint64_t timed = (uint64_t)(number / TURNS);
        cr_assert_eq(count_all(&worker.sample.turns), timed);
        cr_assert_eq(count_all(&worker.sample.callbacks), 100 * timed);
        cr_assert_eq(count_in(&worker.sample.callbacks, 10 * US), 99 * timed);
        cr_assert_eq(count_in(&worker.sample.callbacks, 10000 * US), timed);
    }
    cr_assert_eq(sum_of(&worker.sample.callbacks), 2 * (10000 + 990) * US);
    cr_assert_eq(sum_of(&worker.sample.turns), 2 * (10000 + 990) * US);
    cr_assert_eq(pyl_counter_read(&worker.stats.jobs), 200 * TURNS);
}

/* Goal: deferred jobs are part of the turn and no callbacks. */
Test(sample, deferred_jobs_count_for_the_turn_only)
{
    struct timed_job deferred = TIMED(100 * US);
    struct timed_job job = TIMED(US, .then = &deferred, .is_deferring = true);
    turn(TURNS - 1);
    pyl_worker_post(&worker, &job.job);
    turn(1);
    cr_assert_eq(sum_of(&worker.sample.callbacks), US);
    cr_assert_eq(sum_of(&worker.sample.turns), 101 * US);
}

struct slow_op {
    struct pyl_op op;
    int64_t duration_ns;
    struct timed_job *then;
};

static void
on_slow_op(struct pyl_op *op, const struct pyl_event *event)
{
    struct slow_op *slow = PYL_CONTAINER_OF(op, struct slow_op, op);
    pyl_sim_advance(&worker.reactor, slow->duration_ns);
    if (slow->then != NULL) {
        pyl_worker_post(&worker, &slow->then->job);
    }
}

static void
submit_slow_op(struct slow_op *slow, int64_t duration_ns, struct timed_job *then)
{
    int fds[2];
    cr_assert_eq(pyl_sim_pair(&worker.reactor, 0, fds), 0);
    *slow = (struct slow_op){.duration_ns = duration_ns, .then = then};
    slow->op.kind = PYL_OP_POLL;
    slow->op.fd = fds[0];
    slow->op.on_complete = on_slow_op;
    slow->op.args.poll.events = PYL_POLL_OUT;
    pyl_reactor_submit(&worker.reactor, &slow->op);
}

/* Goal: each event counts with its own length, too, and a job that one posted waits for the rest.
 */
Test(sample, events_count_for_themselves)
{
    struct slow_op ops[3];
    struct timed_job job = TIMED(US);
    turn(TURNS - 1);
    submit_slow_op(&ops[0], 2 * US, &job);
    submit_slow_op(&ops[1], 2 * US, NULL);
    submit_slow_op(&ops[2], 500 * US, NULL);
    turn(1);
    cr_assert_eq(pyl_counter_read(&worker.reactor.stats.events), 3);
    cr_assert_eq(count_all(&worker.sample.callbacks), 4);
    cr_assert_eq(count_in(&worker.sample.callbacks, 2 * US), 2);
    cr_assert_eq(count_in(&worker.sample.callbacks, 500 * US), 1);
    cr_assert_eq(count_in(&worker.sample.callbacks, US), 1);
    cr_assert_eq(count_all(&worker.sample.delays), 1);
    cr_assert_leq(sum_of(&worker.sample.delays), 502 * US); /* by the order of the events */
}

/* Goal: of many circulating jobs each waits for all others, and so says what is measured; in the
 * order of jobs nothing is added. */
Test(sample, delay_is_what_others_took)
{
    enum { CIRCULATING = 50 };
    struct timed_job jobs[CIRCULATING];
    for (int i = 0; i < CIRCULATING; i++) {
        jobs[i] = (struct timed_job)TIMED(100 * US, .then = &jobs[i]);
        pyl_worker_post(&worker, &jobs[i].job);
    }
    int turns = 10 * TURNS;
    turn(turns + 1);
    cr_assert_eq(pyl_counter_read(&worker.stats.jobs), (uint64_t)(turns + 1) * CIRCULATING);
    cr_assert_eq(worker.ready.count, CIRCULATING);
    cr_assert_eq(count_all(&worker.sample.delays), 10 * CIRCULATING);
    /* 49 others; the simulated wait between two turns takes less than one job. */
    cr_assert_geq(sum_of(&worker.sample.delays), 10 * CIRCULATING * 4900 * US);
    cr_assert_lt(sum_of(&worker.sample.delays), 10 * CIRCULATING * 5000 * US);
}

/* Goal: the delay begins when the job is posted, not when the one that posts it begins or ends. */
Test(sample, delay_begins_with_the_post)
{
    struct timed_job late = TIMED(US);
    struct timed_job early = TIMED(400 * US, .then = &late, .is_first = true);
    turn(TURNS - 1);
    pyl_worker_post(&worker, &early.job);
    turn(1);
    cr_assert_eq(count_all(&worker.sample.delays), 0);
    turn(1);
    cr_assert_eq(late.runs, 1);
    cr_assert_eq(count_all(&worker.sample.delays), 1);
    cr_assert_geq(sum_of(&worker.sample.delays), 400 * US);
    struct timed_job second = TIMED(400 * US, .then = &late);
    turn(TURNS - 2);
    pyl_worker_post(&worker, &second.job);
    uint64_t before = sum_of(&worker.sample.delays);
    turn(2);
    cr_assert_eq(count_all(&worker.sample.delays), 2);
    cr_assert_lt(sum_of(&worker.sample.delays) - before, 400 * US);
}

static void
run_nothing(struct pyl_job *job)
{
}

/* Goal: jobs of other threads, and timers, count from when the worker has them. */
Test(sample, remote_jobs_and_timers_are_posted_too)
{
    struct timed_job remote = TIMED(300 * US);
    struct pyl_timer timer = {.job = {.run = run_nothing}};
    turn(TURNS - 1);
    cr_assert_eq(pyl_timer_start(&worker, &timer, worker.now_ns + 1), 0);
    pyl_sim_advance(&worker.reactor, US);
    pyl_worker_post_remote(&worker, &remote.job);
    turn(1);
    cr_assert_not(timer.is_armed);
    cr_assert_eq(count_all(&worker.sample.delays), 2);
    cr_assert_leq(sum_of(&worker.sample.delays), 2 * 301 * US);
}

/* Goal: an interrupted turn leaves the chosen job, and its delay, to a later one. */
Test(sample, interrupt_leaves_the_delay_to_a_later_turn)
{
    struct timed_job late = TIMED(US);
    struct timed_job post = TIMED(US, .then = &late, .is_interrupting = true);
    struct timed_job stop = TIMED(70 * US, .is_interrupting = true);
    turn(TURNS - 1);
    pyl_worker_post(&worker, &post.job);
    pyl_worker_post(&worker, &stop.job);
    turn(1);
    cr_assert_eq(stop.runs, 0);
    turn(1);
    cr_assert_eq(stop.runs, 1);
    cr_assert_eq(late.runs, 0);
    cr_assert_eq(count_all(&worker.sample.delays), 0);
    turn(1);
    cr_assert_eq(late.runs, 1);
    cr_assert_eq(count_all(&worker.sample.delays), 1);
    cr_assert_geq(sum_of(&worker.sample.delays), 70 * US);
}

/* Goal: nothing is measured between two turns, nothing keeps the worker awake. */
Test(sample, rests_when_there_is_nothing)
{
    turn(TURNS);
    cr_assert_eq(worker.sample.is_open, false);
    cr_assert_eq(worker.ready.count, 0);
    struct timed_job job = TIMED(US);
    pyl_worker_post(&worker, &job.job);
    cr_assert_eq(worker.sample.posted, 0);
    turn(1);
    cr_assert_eq(worker.ready.count, 0);
    cr_assert_eq(count_all(&worker.sample.delays), 0);
}

/* Goal: each of many jobs that are posted is chosen as often as the others. */
Test(sample, choice_is_even)
{
    enum { POSTED = 8, ROUNDS = 8000 };
    int chosen[POSTED] = {0};
    struct pyl_sample sample = {0};
    pyl_sample_init(&sample);
    for (int round = 0; round < ROUNDS; round++) {
        for (uint64_t place = 0; place < POSTED; place++) {
            (void)!pyl_sample_offer(&sample, place);
        }
        chosen[sample.chosen]++;
        pyl_sample_note_delay(&sample, sample.chosen_ns);
    }
    for (int i = 0; i < POSTED; i++) {
        cr_assert_geq(chosen[i], 850, "%d: %d", i, chosen[i]);
        cr_assert_leq(chosen[i], 1150, "%d: %d", i, chosen[i]);
    }
}

/* Goal: the delays of a timed turn count for its jobs on average, also where jobs run while others
 * are posted: of jobs that post one each, before those are run, both kinds count alike. */
Test(sample, delays_count_each_job_once_on_average)
{
    enum { PAIRS = 8, ROUNDS = 4000 };
    struct pyl_sample sample = {0};
    pyl_sample_init(&sample);
    uint64_t first = 0;
    uint64_t second = 0;
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t place = 0;
        for (; place < PAIRS; place++) {
            (void)!pyl_sample_offer(&sample, place);
        }
        for (uint64_t run = 0; run < 2 * PAIRS; run++) {
            if (pyl_sample_is_awaited(&sample, run)) {
                *(run < PAIRS ? &first : &second) += sample.posted;
                pyl_sample_note_delay(&sample, sample.chosen_ns);
            }
            if (run < PAIRS) {
                (void)!pyl_sample_offer(&sample, place++);
            }
        }
    }
    cr_assert_eq(first + second, 2 * PAIRS * ROUNDS);
    cr_assert_geq(first, PAIRS * ROUNDS * 9 / 10);
    cr_assert_leq(first, PAIRS * ROUNDS * 11 / 10);
}

static pid_t child = -1;

static void
run_fork(struct pyl_job *job)
{
    child = fork();
    if (child == 0) {
        pyl_worker_abandon(&worker);
        pyl_worker_interrupt(&worker);
    }
}

/* Goal: the child of a fork inside a timed turn leaves the turn without asking its clock. */
Test(sample, fork_inside_a_timed_turn)
{
    struct pyl_job job = {.run = run_fork};
    turn(TURNS - 1);
    pyl_worker_post(&worker, &job);
    int rc = pyl_worker_turn(&worker, false);
    cr_assert_geq(child, 0);
    if (child == 0) {
        _exit(rc == 0 && count_all(&worker.sample.callbacks) == 0 ? 0 : 1);
    }
    int status;
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    cr_assert_eq(count_all(&worker.sample.callbacks), 1);
}
