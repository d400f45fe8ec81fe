/*
 * worker.c - the turn, the park protocol, timers.
 *
 * Invariant: while the worker is blocked in the reactor's wait its park word is SLEEPING or
 * NOTIFIED, and whoever changed it from SLEEPING to NOTIFIED has written, or is about to write,
 * the reactor's wake-up.
 */
#include "sched/worker.h"

#include "base/check.h"
#include "base/clock.h"
#include "base/counter.h"

#include <errno.h>
#include <sched.h>
#include <string.h>

/* pyl_worker_fini() gives the kernel this many waits without progress to end what was cancelled. */
enum { FINI_ROUNDS = 200 };
#define FINI_WAIT_NS INT64_C(50000000)

/* Jobs that together took more than this part of the budget are followed by a single one. */
enum { JOBS_SLOW_PART = 32 };

/* A storm: so many sleeps in a row were ended by several posts at once, or by one so soon after the
 * turn before began. While it lasts the next post is awaited, awake, for no longer than that. */
enum { STORM_SLEEPS = 4 };
#define STORM_GAP_NS INT64_C(20000)

int
pyl_worker_init(struct pyl_worker *worker, const struct pyl_reactor_options *options,
                const struct pyl_worker_hooks *hooks, char *cause, size_t cause_size)
{
    memset(worker, 0, sizeof(*worker));
    int rc = pyl_reactor_init(&worker->reactor, options, cause, cause_size);
    if (rc < 0) {
        return rc;
    }
    pyl_heap_init(&worker->timers);
    pyl_inbox_init(&worker->inbox);
    atomic_init(&worker->park, PYL_WORKER_RUNNING);
    if (hooks != NULL) {
        worker->hooks = *hooks;
    }
    worker->now_ns = pyl_reactor_now_ns(&worker->reactor);
    pyl_sample_init(&worker->sample);
    atomic_init(&worker->busy_since_ns, INT64_MAX);
    worker->is_initialized = true;
    return 0;
}

/* The kernel still refers to memory of active ops, so there is no way on while one is left. */
static void
drain_ops(struct pyl_worker *worker)
{
    struct pyl_reactor *reactor = &worker->reactor;
    uint32_t fewest = UINT32_MAX;
    int rounds = 0;
    while (reactor->active_count > 0 || pyl_reactor_has_events(reactor)) {
        if (reactor->active_count < fewest) {
            fewest = reactor->active_count;
            rounds = 0;
        }
        rounds++;
        PYL_CHECK(rounds < FINI_ROUNDS);
        pyl_reactor_cancel_all(reactor);
        if (pyl_reactor_wait(reactor, FINI_WAIT_NS) < 0) {
            pyl_reactor_drop(reactor); /* it is beyond use: nothing will complete any more */
            return;
        }
        pyl_reactor_dispatch(reactor);
    }
}

void
pyl_worker_drain(struct pyl_worker *worker)
{
    worker->is_closing = true;
    if (!worker->reactor.is_forked_child) {
        drain_ops(worker);
    }
}

void
pyl_worker_fini(struct pyl_worker *worker)
{
    if (!worker->is_initialized) {
        return;
    }
    pyl_worker_drain(worker);
    pyl_reactor_fini(&worker->reactor);
    pyl_heap_fini(&worker->timers);
    pyl_block_cache_clear(&worker->sends);
    (void)pyl_inbox_take(&worker->inbox);
    memset(&worker->ready, 0, sizeof(worker->ready));
    memset(&worker->deferred, 0, sizeof(worker->deferred));
    worker->is_initialized = false;
}

void
pyl_worker_abandon(struct pyl_worker *worker)
{
    if (!worker->is_initialized) {
        return;
    }
    worker->is_closing = true;
    pyl_sample_reset(&worker->sample);
    pyl_reactor_abandon(&worker->reactor);
    (void)pyl_inbox_take(&worker->inbox);
    memset(&worker->ready, 0, sizeof(worker->ready));
    memset(&worker->deferred, 0, sizeof(worker->deferred));
}

/* Acquires what posters released, so that a post after this finds RUNNING and notifies anew. True:
 * somebody has notified. */
static bool
become_running(struct pyl_worker *worker)
{
    return atomic_exchange_explicit(&worker->park, PYL_WORKER_RUNNING, memory_order_acq_rel) ==
           PYL_WORKER_NOTIFIED;
}

static void
drain_inbox(struct pyl_worker *worker)
{
    struct pyl_inbox_node *node = pyl_inbox_take(&worker->inbox);
    while (node != NULL) {
        struct pyl_inbox_node *next = node->next;
        pyl_worker_post(worker, PYL_CONTAINER_OF(node, struct pyl_job, link));
        node = next;
    }
}

/* 0: only poll; negative: until something happens. Reads the clock only when a timer decides. */
static int64_t
wait_timeout(struct pyl_worker *worker, bool may_block)
{
    if (!may_block || worker->ready.count > 0 || worker->deferred.count > 0 ||
        pyl_reactor_has_events(&worker->reactor)) {
        return 0;
    }
    const struct pyl_heap_entry *first = pyl_heap_first(&worker->timers);
    if (first == NULL) {
        return -1;
    }
    int64_t left = first->deadline_ns - pyl_reactor_now_ns(&worker->reactor);
    return left > 0 ? left : 0;
}

/* The first part of a sleep, with the embedder's lock. True: the sleep is over, *ret_rc is its
 * result; else *timeout_ns is what remains of it. */
static bool
linger(struct pyl_worker *worker, int64_t *timeout_ns, int *ret_rc)
{
    int64_t linger_ns =
        worker->hooks.linger != NULL ? worker->hooks.linger(worker, worker->hooks.user) : 0;
    if (PYL_LIKELY(linger_ns <= 0)) {
        return false;
    }
    bool is_all = *timeout_ns >= 0 && *timeout_ns <= linger_ns;
    *ret_rc = pyl_reactor_wait(&worker->reactor, is_all ? *timeout_ns : linger_ns);
    if (*timeout_ns > 0) {
        *timeout_ns -= is_all ? *timeout_ns : linger_ns;
    }
    /* A poster that comes after this look finds SLEEPING and wakes the wait that follows. */
    return is_all || *ret_rc < 0 || pyl_reactor_has_events(&worker->reactor) ||
           atomic_load_explicit(&worker->park, memory_order_relaxed) != PYL_WORKER_SLEEPING;
}

/* In a storm the next post is a moment away. To sleep until then costs the poster a system call and
 * this thread two switches; and where both have one core, the wake-up puts this thread in the place
 * of a poster that has more. RUNNING meanwhile, so posters write nothing. The core is offered to
 * those who may be waiting for it. */
static void
await_post(struct pyl_worker *worker, int64_t timeout_ns)
{
    if (PYL_LIKELY(worker->storm_sleeps < STORM_SLEEPS) ||
        (timeout_ns >= 0 && timeout_ns < STORM_GAP_NS)) {
        return;
    }
    int64_t until_ns = pyl_clock_now_ns() + STORM_GAP_NS;
    do {
        /* Only a hint: the compare-exchange that follows looks properly. */
        if (atomic_load_explicit(&worker->park, memory_order_relaxed) == PYL_WORKER_NOTIFIED) {
            return;
        }
        (void)sched_yield();
    } while (pyl_clock_now_ns() < until_ns);
    worker->storm_sleeps = 0;
}

/* After a sleep and before now_ns is read anew. */
static void
note_sleep(struct pyl_worker *worker, bool is_notified)
{
    if (!worker->hooks.awaits_posts) {
        return;
    }
    bool is_short = pyl_clock_now_ns() - worker->now_ns < STORM_GAP_NS;
    bool is_storm = is_notified && (is_short || worker->ready.count > 1);
    worker->storm_sleeps = is_storm ? worker->storm_sleeps + 1 : 0;
}

/* The sleeper's side of the park protocol. */
static int
park(struct pyl_worker *worker, int64_t timeout_ns)
{
    await_post(worker, timeout_ns);
    uint32_t expected = PYL_WORKER_RUNNING;
    if (!atomic_compare_exchange_strong_explicit(&worker->park, &expected, PYL_WORKER_SLEEPING,
                                                 memory_order_acq_rel, memory_order_acquire)) {
        /* NOTIFIED since the inbox was last empty: look again instead of sleeping. */
        (void)become_running(worker);
        drain_inbox(worker);
        return pyl_reactor_wait(&worker->reactor, 0);
    }
    pyl_counter_add(&worker->stats.parks, 1);
    pyl_worker_pause(worker);
    int rc;
    if (linger(worker, &timeout_ns, &rc)) {
        pyl_counter_add(&worker->stats.lingered, 1);
        (void)become_running(worker);
        drain_inbox(worker);
        return rc;
    }
    if (worker->hooks.before_wait != NULL) {
        worker->hooks.before_wait(worker, worker->hooks.user);
    }
    rc = pyl_reactor_wait(&worker->reactor, timeout_ns);
    /* RUNNING first, then the inbox: a push that this drain misses finds RUNNING or a sleeper. */
    bool is_notified = become_running(worker);
    if (worker->hooks.after_wait != NULL) {
        worker->hooks.after_wait(worker, worker->hooks.user);
    }
    drain_inbox(worker);
    note_sleep(worker, is_notified);
    return rc;
}

static void
collect_timers(struct pyl_worker *worker)
{
    const struct pyl_heap_entry *first;
    while ((first = pyl_heap_first(&worker->timers)) != NULL &&
           first->deadline_ns <= worker->now_ns) {
        struct pyl_timer *timer = PYL_CONTAINER_OF(first->node, struct pyl_timer, node);
        pyl_heap_remove(&worker->timers, &timer->node);
        timer->is_armed = false;
        pyl_worker_post(worker, &timer->job);
    }
}

/* ---- the timed turn ---- */

/* The place of the job that is run next in the order of all jobs. */
static uint64_t
next_place(const struct pyl_worker *worker)
{
    return pyl_counter_read(&worker->stats.jobs) + 1;
}

void
pyl_worker_sample_post(struct pyl_worker *worker)
{
    uint64_t place = pyl_counter_read(&worker->stats.jobs) + worker->ready.count;
    if (pyl_sample_offer(&worker->sample, place)) {
        worker->sample.chosen_ns = pyl_reactor_now_ns(&worker->reactor);
    }
}

/* After each callback. It may have been the one that forked, and the child has no clock to read. */
static void
note_callback(struct pyl_worker *worker)
{
    if (worker->sample.is_open) {
        pyl_sample_note_callback(&worker->sample, pyl_reactor_now_ns(&worker->reactor));
    }
}

static void
on_delivered(struct pyl_reactor *reactor)
{
    note_callback(PYL_CONTAINER_OF(reactor, struct pyl_worker, reactor));
}

/* ---- ready and deferred jobs ---- */

/* Returns false if there was none: a job took others out of the queue. */
static inline bool
run_next(struct pyl_worker *worker)
{
    struct pyl_job *job = pyl_job_queue_pop(&worker->ready);
    if (job == NULL) {
        return false;
    }
    pyl_counter_add(&worker->stats.jobs, 1); /* one by one: see pyl_loop_py_progress() */
    job->run(job);
    if (pyl_worker_is_full(worker)) {
        pyl_worker_flush_deferred(worker);
    }
    return true;
}

static inline bool
run_untimed(struct pyl_worker *worker, size_t count)
{
    for (; count > 0 && !worker->is_interrupted; count--) {
        if (!run_next(worker)) {
            return false;
        }
    }
    return !worker->is_interrupted;
}

static bool
run_timed(struct pyl_worker *worker, size_t count)
{
    struct pyl_sample *sample = &worker->sample;
    for (; count > 0 && !worker->is_interrupted; count--) {
        if (pyl_sample_is_awaited(sample, next_place(worker))) {
            pyl_sample_note_delay(sample, sample->last_ns);
        }
        if (!run_next(worker)) {
            return false;
        }
        note_callback(worker);
    }
    return !worker->is_interrupted;
}

/* Of a later turn: the chosen job may be among these. */
static bool
run_awaiting(struct pyl_worker *worker, size_t count)
{
    uint64_t before = worker->sample.chosen - next_place(worker);
    if (before >= count) {
        return run_untimed(worker, count);
    }
    if (!run_untimed(worker, (size_t)before)) {
        return false;
    }
    pyl_sample_note_delay(&worker->sample, pyl_reactor_now_ns(&worker->reactor));
    return run_untimed(worker, count - (size_t)before);
}

/* Returns false if the phase is over. */
static bool
run_jobs(struct pyl_worker *worker, size_t count)
{
    if (PYL_LIKELY(!worker->sample.is_watching)) {
        return run_untimed(worker, count);
    }
    return worker->sample.is_open ? run_timed(worker, count) : run_awaiting(worker, count);
}

/* Not less than the events had, or jobs would be made faster than they are run. But the clock says
 * how long the events took, not what they did: the thread may have been without a core. So no more
 * than a budget for each job that they made. */
static int64_t
jobs_time_ns(const struct pyl_worker *worker, int64_t events_ns, size_t made_count)
{
    int64_t budget_ns = worker->jobs_budget_ns;
    int64_t made_ns = (int64_t)made_count * budget_ns;
    int64_t needed_ns = made_ns < events_ns ? made_ns : events_ns;
    return budget_ns > needed_ns ? budget_ns : needed_ns;
}

/* Only the jobs that are ready now: what they post belongs to the next turn, after the reactor.
 * made_count: so many of them the events of this turn made. */
static void
run_ready(struct pyl_worker *worker, size_t made_count)
{
    size_t left = worker->ready.count;
    if (worker->jobs_budget_ns == 0 || left <= PYL_WORKER_JOBS_STRIDE) {
        (void)run_jobs(worker, left);
        return;
    }
    int64_t now_ns = pyl_reactor_now_ns(&worker->reactor);
    int64_t end_ns = now_ns + jobs_time_ns(worker, now_ns - worker->now_ns, made_count);
    size_t stride = 1;
    while (now_ns < end_ns || worker->is_turn_whole) {
        size_t count = left < stride ? left : stride;
        left -= count;
        if (!run_jobs(worker, count) || left == 0) {
            return;
        }
        int64_t before_ns = now_ns;
        now_ns = pyl_reactor_now_ns(&worker->reactor);
        bool is_quick = now_ns - before_ns < worker->jobs_budget_ns / JOBS_SLOW_PART;
        stride = !is_quick ? 1 : stride < PYL_WORKER_JOBS_STRIDE ? 2 * stride : stride;
    }
    pyl_counter_add(&worker->stats.turns_cut, 1);
}

void
pyl_worker_flush_deferred(struct pyl_worker *worker)
{
    worker->flushes_running = worker->flushes_wanted;
    worker->flushes_wanted = 0;
    worker->unsent_size = 0;
    for (size_t left = worker->deferred.count; left > 0; left--) {
        struct pyl_job *job = pyl_job_queue_pop(&worker->deferred);
        if (job == NULL) {
            break;
        }
        job->run(job);
    }
}

/* Returns how many jobs the events made. after_each: called after each event, or NULL. */
static inline size_t
dispatch(struct pyl_worker *worker, void (*after_each)(struct pyl_reactor *reactor))
{
    if (worker->is_interrupted || !pyl_reactor_has_events(&worker->reactor)) {
        return 0;
    }
    size_t before_count = worker->ready.count;
    worker->is_dispatching = true;
    if (after_each == NULL) {
        pyl_reactor_dispatch(&worker->reactor);
    } else {
        pyl_reactor_dispatch_watched(&worker->reactor, after_each);
    }
    worker->is_dispatching = false;
    /* An event may also have taken jobs out of the queue. */
    return worker->ready.count > before_count ? worker->ready.count - before_count : 0;
}

/* All of a turn after its wait. */
static inline void
run_phases(struct pyl_worker *worker)
{
    collect_timers(worker);
    size_t made_count = dispatch(worker, NULL);
    if (worker->ready.count > 0) {
        run_ready(worker, made_count);
    }
    if (worker->deferred.count > 0) {
        pyl_worker_flush_deferred(worker);
    }
}

/* The same, timed. The clock is read where something has happened since it was read last. */
static void
run_timed_phases(struct pyl_worker *worker)
{
    struct pyl_sample *sample = &worker->sample;
    size_t ready_count = worker->ready.count;
    collect_timers(worker);
    /* To find many due timers takes long, and is no callback's time. */
    bool are_due = worker->ready.count != ready_count;
    sample->last_ns = are_due ? pyl_reactor_now_ns(&worker->reactor) : worker->now_ns;
    size_t made_count = dispatch(worker, on_delivered);
    if (worker->ready.count > 0) {
        run_ready(worker, made_count);
    }
    bool are_deferred = worker->deferred.count > 0;
    if (are_deferred) {
        pyl_worker_flush_deferred(worker);
    }
    if (sample->is_open) { /* not in the child of a fork */
        int64_t end_ns = are_deferred ? pyl_reactor_now_ns(&worker->reactor) : sample->last_ns;
        pyl_sample_close(sample, worker->now_ns, end_ns);
    }
}

int
pyl_worker_turn(struct pyl_worker *worker, bool may_block)
{
    PYL_DCHECK(worker->is_initialized);
    worker->is_interrupted = false;
    pyl_counter_add(&worker->stats.turns, 1);
    if (PYL_UNLIKELY(pyl_counter_read(&worker->stats.turns) % PYL_SAMPLE_TURNS == 0)) {
        pyl_sample_open(&worker->sample); /* for what comes from the inbox, too */
    }
    if (!pyl_inbox_is_empty(&worker->inbox)) {
        (void)become_running(worker);
        drain_inbox(worker);
    }
    int64_t timeout_ns = wait_timeout(worker, may_block);
    int rc = timeout_ns == 0 ? pyl_reactor_wait(&worker->reactor, 0) : park(worker, timeout_ns);
    if (rc < 0) {
        pyl_sample_reset(&worker->sample);
        return rc;
    }
    worker->now_ns = pyl_reactor_now_ns(&worker->reactor);
    pyl_worker_resume(worker);
    if (PYL_LIKELY(!worker->sample.is_open)) {
        run_phases(worker);
    } else {
        run_timed_phases(worker);
    }
    return 0;
}

void
pyl_worker_interrupt(struct pyl_worker *worker)
{
    worker->is_interrupted = true;
    if (worker->is_dispatching) {
        pyl_reactor_stop_dispatch(&worker->reactor);
    }
}

/* The waker's side of the park protocol. Only atomics and write(2): safe in a signal handler. */
bool
pyl_worker_notify(struct pyl_worker *worker)
{
    uint32_t before =
        atomic_exchange_explicit(&worker->park, PYL_WORKER_NOTIFIED, memory_order_acq_rel);
    bool was_asleep = before == PYL_WORKER_SLEEPING;
    atomic_fetch_add_explicit(was_asleep ? &worker->stats.wakes_written
                                         : &worker->stats.wakes_suppressed,
                              1, memory_order_relaxed);
    return was_asleep;
}

void
pyl_worker_signal(struct pyl_worker *worker)
{
    pyl_reactor_wake(&worker->reactor);
}

void
pyl_worker_wake(struct pyl_worker *worker)
{
    if (pyl_worker_notify(worker)) {
        pyl_worker_signal(worker);
    }
}

bool
pyl_worker_queue_remote(struct pyl_worker *worker, struct pyl_job *job)
{
    (void)pyl_inbox_push(&worker->inbox, &job->link);
    return pyl_worker_notify(worker);
}

void
pyl_worker_post_remote(struct pyl_worker *worker, struct pyl_job *job)
{
    if (pyl_worker_queue_remote(worker, job)) {
        pyl_worker_signal(worker);
    }
}

int
pyl_timer_start(struct pyl_worker *worker, struct pyl_timer *timer, int64_t deadline_ns)
{
    PYL_DCHECK(!timer->is_armed);
    if (deadline_ns <= worker->now_ns) {
        pyl_worker_post(worker, &timer->job);
        return 0;
    }
    int rc = pyl_heap_push(&worker->timers, &timer->node, deadline_ns);
    if (rc == 0) {
        timer->is_armed = true;
    }
    return rc;
}

void
pyl_timer_stop(struct pyl_worker *worker, struct pyl_timer *timer)
{
    if (timer->is_armed) {
        pyl_heap_remove(&worker->timers, &timer->node);
        timer->is_armed = false;
    }
}
