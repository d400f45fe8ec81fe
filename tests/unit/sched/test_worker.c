/*
 * test_worker.c - the turn, timers, the park protocol, the end.
 */
#include "sched/worker.h"

#include "base/clock.h"
#include "support/worker_fixture.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TRACE_MAX = 4096 };

static struct pyl_worker worker;
static int trace[TRACE_MAX];
static int trace_count;

struct step {
    struct pyl_job job;
    int number;
    struct step *then; /* posted by the job */
    bool is_deferred;  /* `then` is deferred instead */
    bool is_interrupting;
    size_t unsent; /* noted by the job */
};

static void
run_step(struct pyl_job *job)
{
    struct step *step = PYL_CONTAINER_OF(job, struct step, job);
    trace[trace_count++] = step->number;
    if (step->then != NULL && step->is_deferred) {
        pyl_worker_defer(&worker, &step->then->job);
    } else if (step->then != NULL) {
        pyl_worker_post(&worker, &step->then->job);
    }
    pyl_worker_note_unsent(&worker, step->unsent);
    if (step->is_interrupting) {
        pyl_worker_interrupt(&worker);
    }
}

#define STEP(...)                                       \
    {                                                   \
        .job = {.run = run_step}, .number = __VA_ARGS__ \
    }

static void
expect_trace(const int *expected, int count)
{
    cr_assert_eq(trace_count, count, "%d entries instead of %d", trace_count, count);
    for (int i = 0; i < count; i++) {
        cr_assert_eq(trace[i], expected[i], "entry %d is %d", i, trace[i]);
    }
}

#define EXPECT_TRACE(...) \
    expect_trace((const int[]){__VA_ARGS__}, sizeof((const int[]){__VA_ARGS__}) / sizeof(int))

static void
open_worker(void)
{
    fixture_open(&worker);
}

static void
close_worker(void)
{
    pyl_worker_fini(&worker);
}

TestSuite(worker, .init = open_worker, .fini = close_worker);

/* Goal: jobs run in order, and one that a job posts runs in the next turn. */
Test(worker, job_posted_by_job_runs_in_next_turn)
{
    struct step late = STEP(3);
    struct step first = STEP(1, .then = &late);
    struct step second = STEP(2);
    pyl_worker_post(&worker, &first.job);
    pyl_worker_post(&worker, &second.job);
    cr_assert_eq(pyl_worker_turn(&worker, true), 0);
    EXPECT_TRACE(1, 2);
    cr_assert_eq(pyl_worker_turn(&worker, true), 0);
    EXPECT_TRACE(1, 2, 3);
}

/* Sends enter the kernel with the next wait. */
static bool
batches(void)
{
    return (worker.reactor.ops->features & PYL_BACKEND_BATCHES) != 0;
}

/* Goal: deferred jobs run at the end of the turn; what they defer waits for the end of the next. */
Test(worker, deferred_jobs_run_last)
{
    struct step after = STEP(4);
    struct step deferred = STEP(3, .then = &after, .is_deferred = true);
    struct step first = STEP(1, .then = &deferred, .is_deferred = true);
    struct step second = STEP(2);
    pyl_worker_post(&worker, &first.job);
    pyl_worker_post(&worker, &second.job);
    cr_assert_eq(pyl_worker_turn(&worker, true), 0);
    EXPECT_TRACE(1, 2, 3);
    cr_assert_eq(pyl_worker_turn(&worker, true), 0); /* does not wait: something is deferred */
    EXPECT_TRACE(1, 2, 3, 4);
}

/* Goal: pyl_worker_flush_deferred() runs what was deferred outside a turn. */
Test(worker, flush_deferred_runs_at_once)
{
    struct step step = STEP(1);
    pyl_worker_defer(&worker, &step.job);
    pyl_worker_flush_deferred(&worker);
    EXPECT_TRACE(1);
}

/* Goal: with many unsent bytes the deferred jobs run before the next job, once. */
Test(worker, unsent_bytes_do_not_wait_for_the_other_jobs)
{
    struct step deferred = STEP(9);
    struct step first =
        STEP(1, .then = &deferred, .is_deferred = true, .unsent = PYL_WORKER_UNSENT_MAX - 1);
    struct step second = STEP(2, .unsent = 1);
    struct step third = STEP(3);
    pyl_worker_post(&worker, &first.job);
    pyl_worker_post(&worker, &second.job);
    pyl_worker_post(&worker, &third.job);
    cr_assert_eq(pyl_worker_turn(&worker, true), 0);
    if (batches()) {
        EXPECT_TRACE(1, 2, 3, 9);
    } else {
        EXPECT_TRACE(1, 2, 9, 3);
    }
}

/* Goal: an interrupt ends the job phase; the rest runs in the next turn in the same order, and the
 * deferred jobs are not held back. */
Test(worker, interrupt_keeps_the_rest_in_order)
{
    struct step deferred = STEP(9);
    struct step first = STEP(1, .then = &deferred, .is_deferred = true, .is_interrupting = true);
    struct step second = STEP(2);
    struct step third = STEP(3);
    pyl_worker_post(&worker, &first.job);
    pyl_worker_post(&worker, &second.job);
    pyl_worker_post(&worker, &third.job);
    cr_assert_eq(pyl_worker_turn(&worker, true), 0);
    EXPECT_TRACE(1, 9);
    cr_assert_eq(pyl_worker_turn(&worker, true), 0);
    EXPECT_TRACE(1, 9, 2, 3);
}

/* ---- timers ---- */

struct alarm {
    struct pyl_timer timer;
    int number;
    int64_t deadline_ns;
    bool has_fired;
    bool was_early;
};

static void
run_alarm(struct pyl_job *job)
{
    struct alarm *alarm = PYL_CONTAINER_OF(job, struct alarm, timer.job);
    alarm->has_fired = true;
    alarm->was_early = pyl_clock_now_ns() < alarm->deadline_ns;
    trace[trace_count++] = alarm->number;
}

static void
start_alarm(struct alarm *alarm, int number, int64_t deadline_ns)
{
    *alarm = (struct alarm){.number = number, .deadline_ns = deadline_ns};
    alarm->timer.job.run = run_alarm;
    cr_assert_eq(pyl_timer_start(&worker, &alarm->timer, deadline_ns), 0);
}

/* Goal: timers fire in order of deadline, equal ones in order of starting, none early. */
Test(worker, timers_fire_in_order_and_never_early)
{
    struct alarm alarms[6];
    int64_t now_ns = pyl_clock_now_ns();
    int64_t soon_ns = now_ns + 3 * PYL_NS_PER_MS;
    start_alarm(&alarms[0], 0, soon_ns + PYL_NS_PER_MS);
    start_alarm(&alarms[1], 1, soon_ns);
    start_alarm(&alarms[2], 2, soon_ns);
    start_alarm(&alarms[3], 3, soon_ns + 700 * PYL_NS_PER_US);
    start_alarm(&alarms[4], 4, soon_ns);
    start_alarm(&alarms[5], 5, soon_ns + 2 * PYL_NS_PER_MS);
    fixture_turn_until(&worker, &alarms[5].has_fired);
    EXPECT_TRACE(1, 2, 4, 3, 0, 5);
    for (int i = 0; i < 6; i++) {
        cr_assert_not(alarms[i].was_early);
        cr_assert_not(alarms[i].timer.is_armed);
    }
}

/* Goal: a deadline already due is queued at once, behind the jobs that are ready. */
Test(worker, due_deadline_is_queued_at_once)
{
    struct alarm alarm;
    struct step step = STEP(1);
    pyl_worker_post(&worker, &step.job);
    start_alarm(&alarm, 2, pyl_clock_now_ns() - PYL_NS_PER_S);
    cr_assert_not(alarm.timer.is_armed);
    cr_assert_eq(pyl_worker_turn(&worker, true), 0);
    EXPECT_TRACE(1, 2);
}

/* Goal: a stopped timer does not fire, does not end a wait, and can be started again. */
Test(worker, stopped_timer_leaves_no_trace)
{
    struct alarm stopped;
    struct alarm other;
    int64_t now_ns = pyl_clock_now_ns();
    start_alarm(&stopped, 1, now_ns + PYL_NS_PER_MS);
    start_alarm(&other, 2, now_ns + 4 * PYL_NS_PER_MS);
    pyl_timer_stop(&worker, &stopped.timer);
    pyl_timer_stop(&worker, &stopped.timer);
    fixture_turn_until(&worker, &other.has_fired);
    EXPECT_TRACE(2);
    start_alarm(&stopped, 3, pyl_clock_now_ns() + PYL_NS_PER_MS);
    fixture_turn_until(&worker, &stopped.has_fired);
    EXPECT_TRACE(2, 3);
}

/* Goal: a timer that is due does not let the worker wait even if nothing else is ready. */
Test(worker, turn_that_may_not_block_returns_at_once)
{
    struct alarm far_away;
    start_alarm(&far_away, 1, pyl_clock_now_ns() + 3600 * PYL_NS_PER_S);
    fixture_turn_times(&worker, 3);
    cr_assert_eq(trace_count, 0);
    cr_assert_eq(atomic_load(&worker.stats.parks), 0);
    pyl_timer_stop(&worker, &far_away.timer);
}

/* ---- parking ---- */

static _Atomic bool is_parked;
static int before_count;
static int after_count;

static void
before_wait(struct pyl_worker *unused, void *user)
{
    before_count++;
    cr_assert_eq(user, &before_count);
    atomic_store(&is_parked, true);
}

static void
after_wait(struct pyl_worker *unused, void *user)
{
    after_count++;
}

static void
open_with_hooks(void)
{
    struct pyl_worker_hooks hooks = {
        .before_wait = before_wait,
        .after_wait = after_wait,
        .user = &before_count,
    };
    fixture_open_with_hooks(&worker, &hooks);
}

TestSuite(park, .init = open_with_hooks, .fini = close_worker);

static void *
post_when_parked(void *argument)
{
    while (!atomic_load(&is_parked)) {
        sched_yield();
    }
    pyl_worker_post_remote(&worker, argument);
    return NULL;
}

/* Goal: a post from another thread ends a wait without limit, and its job runs in the same turn. */
Test(park, remote_post_ends_the_wait)
{
    pthread_t thread;
    struct step step = STEP(1);
    cr_assert_eq(pthread_create(&thread, NULL, post_when_parked, &step.job), 0);
    cr_assert_eq(pyl_worker_turn(&worker, true), 0);
    if (trace_count == 0) { /* the post came between the hook and the sleep of the kernel */
        cr_assert_eq(pyl_worker_turn(&worker, true), 0);
    }
    EXPECT_TRACE(1);
    pthread_join(thread, NULL);
    cr_assert_eq(atomic_load(&worker.stats.wakes_written), 1);
}

/* Goal: the hooks stand around waits that may block, and around no poll. */
Test(park, hooks_only_around_blocking_waits)
{
    struct step step = STEP(1);
    struct alarm alarm;
    pyl_worker_post(&worker, &step.job);
    cr_assert_eq(pyl_worker_turn(&worker, true), 0);
    cr_assert_eq(pyl_worker_turn(&worker, false), 0);
    cr_assert_eq(before_count, 0);
    cr_assert_eq(after_count, 0);
    start_alarm(&alarm, 1, pyl_clock_now_ns() + 50 * PYL_NS_PER_MS);
    cr_assert_eq(pyl_worker_turn(&worker, true), 0);
    cr_assert_eq(before_count, 1);
    cr_assert_eq(after_count, 1);
    cr_assert_eq(atomic_load(&worker.stats.parks), 1);
    fixture_turn_until(&worker, &alarm.has_fired);
}

/* Goal: a wake-up before the wait is not lost, and costs no system call. */
Test(park, wake_before_the_wait_prevents_it)
{
    pyl_worker_wake(&worker);
    cr_assert_eq(pyl_worker_turn(&worker, true), 0);
    cr_assert_eq(before_count, 0);
    cr_assert_eq(atomic_load(&worker.stats.wakes_written), 0);
    cr_assert_eq(atomic_load(&worker.stats.wakes_suppressed), 1);
}

/* Goal: posts to a worker that is awake write no wake-up, arrive in order, and leave no stale
 * notification that would make the next wait a poll. */
Test(park, posts_to_an_awake_worker_are_free)
{
    enum { COUNT = 1000 };
    static struct step steps[COUNT];
    for (int i = 0; i < COUNT; i++) {
        steps[i] = (struct step)STEP(i);
        pyl_worker_post_remote(&worker, &steps[i].job);
    }
    cr_assert_eq(pyl_worker_turn(&worker, true), 0);
    cr_assert_eq(trace_count, COUNT);
    for (int i = 0; i < COUNT; i++) {
        cr_assert_eq(trace[i], i);
    }
    cr_assert_eq(atomic_load(&worker.stats.wakes_written), 0);
    struct alarm alarm;
    start_alarm(&alarm, 1, pyl_clock_now_ns() + PYL_NS_PER_MS);
    cr_assert_eq(pyl_worker_turn(&worker, true), 0);
    cr_assert_eq(before_count, 1);
    fixture_turn_until(&worker, &alarm.has_fired);
}

static struct step signal_step = STEP(1);

static void
post_from_handler(int number)
{
    pyl_worker_post_remote(&worker, &signal_step.job);
}

static void *
kill_when_parked(void *argument)
{
    while (!atomic_load(&is_parked)) {
        sched_yield();
    }
    kill(getpid(), SIGUSR1);
    return NULL;
}

/* Goal: a signal handler may post, and ends the wait of the very thread it interrupts. */
Test(park, signal_handler_may_post)
{
    pthread_t thread;
    struct sigaction action = {.sa_handler = post_from_handler};
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    cr_assert_eq(sigaction(SIGUSR1, &action, NULL), 0);
    pthread_sigmask(SIG_BLOCK, &set, NULL); /* in the other thread: the handler runs in this one */
    cr_assert_eq(pthread_create(&thread, NULL, kill_when_parked, NULL), 0);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    while (trace_count == 0) {
        cr_assert_eq(pyl_worker_turn(&worker, true), 0);
    }
    pthread_join(thread, NULL);
    EXPECT_TRACE(1);
}

/* ---- lingering ---- */

static int64_t linger_ns;

static int64_t
linger(struct pyl_worker *unused, void *user)
{
    atomic_store(&is_parked, true);
    return linger_ns;
}

static void
open_that_lingers(void)
{
    struct pyl_worker_hooks hooks = {
        .linger = linger,
        .before_wait = before_wait,
        .after_wait = after_wait,
        .user = &before_count,
    };
    fixture_open_with_hooks(&worker, &hooks);
}

TestSuite(linger, .init = open_that_lingers, .fini = close_worker);

/* Goal: what happens while the worker lingers ends the wait, and the hooks are not called. */
Test(linger, an_event_spares_the_hooks)
{
    struct alarm alarm;
    linger_ns = 10 * PYL_NS_PER_S;
    start_alarm(&alarm, 1, pyl_clock_now_ns() + 5 * PYL_NS_PER_MS);
    fixture_turn_until(&worker, &alarm.has_fired);
    cr_assert_eq(before_count, 0);
    cr_assert_eq(after_count, 0);
    cr_assert_geq(atomic_load(&worker.stats.parks), 1);
    cr_assert_eq(atomic_load(&worker.stats.lingered), atomic_load(&worker.stats.parks));
}

/* Goal: a post from another thread finds the lingering worker asleep. */
Test(linger, a_remote_post_ends_it)
{
    pthread_t thread;
    struct step step = STEP(1);
    linger_ns = 10 * PYL_NS_PER_S;
    cr_assert_eq(pthread_create(&thread, NULL, post_when_parked, &step.job), 0);
    cr_assert_eq(pyl_worker_turn(&worker, true), 0);
    EXPECT_TRACE(1);
    pthread_join(thread, NULL);
    cr_assert_eq(before_count, 0);
    cr_assert_eq(atomic_load(&worker.stats.wakes_written), 1);
}

/* Goal: a wait that outlasts the lingering goes on with the hooks, for what remains of it. */
Test(linger, a_long_wait_calls_the_hooks)
{
    struct alarm alarm;
    linger_ns = PYL_NS_PER_MS;
    int64_t deadline_ns = pyl_clock_now_ns() + 20 * PYL_NS_PER_MS;
    start_alarm(&alarm, 1, deadline_ns);
    cr_assert_eq(pyl_worker_turn(&worker, true), 0);
    cr_assert_eq(before_count, 1);
    cr_assert_eq(after_count, 1);
    cr_assert_eq(atomic_load(&worker.stats.lingered), 0);
    fixture_turn_until(&worker, &alarm.has_fired);
    cr_assert_geq(pyl_clock_now_ns(), deadline_ns);
}

/* ---- events and the end ---- */

struct watch {
    struct pyl_op op;
    int fds[2];
    int number;
    int last_result;
    int terminal_count;
    bool is_interrupting;
    size_t unsent; /* noted by the callback */
};

static void
watch_complete(struct pyl_op *op, const struct pyl_event *event)
{
    struct watch *watch = PYL_CONTAINER_OF(op, struct watch, op);
    trace[trace_count++] = watch->number;
    watch->last_result = event->result;
    watch->terminal_count += (event->flags & PYL_EVENT_MORE) == 0;
    pyl_worker_note_unsent(&worker, watch->unsent);
    if (watch->is_interrupting) {
        pyl_worker_interrupt(&worker);
    }
}

static void
open_watch(struct watch *watch, int number)
{
    *watch = (struct watch){.number = number};
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, watch->fds), 0);
    watch->op.on_complete = watch_complete;
    watch->op.kind = PYL_OP_POLL;
    watch->op.fd = watch->fds[0];
    watch->op.args.poll.events = PYL_POLL_IN;
    pyl_reactor_submit(&worker.reactor, &watch->op);
}

static void
close_watch(struct watch *watch)
{
    pyl_reactor_forget(&worker.reactor, watch->fds[0]);
    close(watch->fds[0]);
    close(watch->fds[1]);
}

/* Goal: an interrupt inside a completion leaves the other completions, and all jobs, to later
 * turns. */
Test(worker, interrupt_inside_dispatch)
{
    struct watch watches[2];
    struct step step = STEP(5);
    for (int i = 0; i < 2; i++) {
        open_watch(&watches[i], 1);
        watches[i].is_interrupting = true;
    }
    fixture_turn_times(&worker, 2); /* the ops are in the kernel */
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(write(watches[i].fds[1], "x", 1), 1);
    }
    pyl_worker_post(&worker, &step.job);
    cr_assert_eq(pyl_worker_turn(&worker, false), 0);
    EXPECT_TRACE(1);
    cr_assert_eq(pyl_worker_turn(&worker, true), 0);
    EXPECT_TRACE(1, 1);
    cr_assert_eq(pyl_worker_turn(&worker, true), 0);
    EXPECT_TRACE(1, 1, 5);
    close_watch(&watches[0]);
    close_watch(&watches[1]);
}

/* Goal: many unsent bytes leave the other completions to the next turn, but no job. */
Test(worker, unsent_bytes_end_the_dispatch)
{
    struct watch watches[2];
    for (int i = 0; i < 2; i++) {
        open_watch(&watches[i], 1);
        watches[i].unsent = PYL_WORKER_UNSENT_MAX;
    }
    fixture_turn_times(&worker, 2); /* the ops are in the kernel */
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(write(watches[i].fds[1], "x", 1), 1);
    }
    struct step step = STEP(5);
    pyl_worker_post(&worker, &step.job);
    cr_assert_eq(pyl_worker_turn(&worker, false), 0);
    if (batches()) {
        EXPECT_TRACE(1, 1, 5);
    } else {
        EXPECT_TRACE(1, 5);
        cr_assert_eq(pyl_worker_turn(&worker, true), 0);
        EXPECT_TRACE(1, 5, 1);
    }
    close_watch(&watches[0]);
    close_watch(&watches[1]);
}

/* Goal: fini gives every active op its terminal completion, runs no job, and can be called twice.
 */
Test(worker, fini_ends_active_ops)
{
    struct watch watches[3];
    struct step step = STEP(9);
    struct pyl_worker zeroed = {0};
    for (int i = 0; i < 3; i++) {
        open_watch(&watches[i], i);
    }
    fixture_turn_times(&worker, 1);
    pyl_worker_post(&worker, &step.job);
    pyl_worker_fini(&worker);
    cr_assert_eq(trace_count, 3);
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(watches[i].last_result, -ECANCELED);
        cr_assert_eq(watches[i].terminal_count, 1);
        cr_assert(pyl_op_is_idle(&watches[i].op));
        close(watches[i].fds[0]);
        close(watches[i].fds[1]);
    }
    pyl_worker_fini(&worker);
    pyl_worker_fini(&zeroed);
}

/* Goal: a forked child gives the worker up without a call to anybody, can open its own, and the
 * parent's goes on working. */
Test(worker, forked_child_abandons)
{
    struct watch watch;
    open_watch(&watch, 1);
    fixture_turn_times(&worker, 1);
    pid_t child = fork();
    cr_assert_geq(child, 0);
    if (child == 0) {
        struct step step = STEP(7);
        pyl_worker_abandon(&worker);
        pyl_worker_fini(&worker);
        bool is_untouched = trace_count == 0 && pyl_op_is_idle(&watch.op);
        bool is_working = pyl_worker_init(&worker, NULL, NULL, NULL, 0) == 0;
        pyl_worker_post(&worker, &step.job);
        is_working = is_working && pyl_worker_turn(&worker, false) == 0 && trace_count == 1;
        pyl_worker_fini(&worker);
        _exit(is_untouched && is_working ? 0 : 1);
    }
    int status;
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    cr_assert_eq(write(watch.fds[1], "x", 1), 1);
    while (trace_count == 0) {
        cr_assert_eq(pyl_worker_turn(&worker, true), 0);
    }
    cr_assert_eq(watch.last_result & PYL_POLL_IN, PYL_POLL_IN);
    close_watch(&watch);
}

/* Goal: two workers in one process know nothing of each other. */
Test(worker, two_workers_are_independent)
{
    struct pyl_worker other;
    fixture_open(&other);
    struct step step = STEP(1);
    pyl_worker_post(&other, &step.job);
    fixture_turn_times(&worker, 1);
    cr_assert_eq(trace_count, 0);
    fixture_turn_times(&other, 1);
    EXPECT_TRACE(1);
    pyl_worker_fini(&other);
}

static void *
free_worker(void *argument)
{
    pyl_worker_fini(&worker);
    return NULL;
}

/* Goal: a worker that was drained in its thread may still be woken, and is freed elsewhere. */
Test(worker, drained_worker_can_be_woken)
{
    struct step step = STEP(1);
    cr_assert_eq(pyl_worker_turn(&worker, false), 0);
    pyl_worker_drain(&worker);
    pyl_worker_post_remote(&worker, &step.job);
    pyl_worker_wake(&worker);
    pthread_t thread;
    cr_assert_eq(pthread_create(&thread, NULL, free_worker, NULL), 0);
    cr_assert_eq(pthread_join(thread, NULL), 0);
    cr_assert_eq(trace_count, 0);
}
