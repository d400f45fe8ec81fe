/*
 * lane.c - what a worker of a runtime does around its turn: runs strands, looks for work, rests.
 *
 * Invariants: while `queue` is not empty, queue_job is ready, so the lane does not sleep. `mode`
 * says what pyl_idle knows of the lane, except that a sleeper may have been claimed.
 */
#include "sched/lane.h"

#include "base/check.h"
#include "sched/runtime.h"

#include <string.h>

/* tidy: global because "in which lane am I" is a property of the thread. */
static _Thread_local struct pyl_lane *current_lane;

struct pyl_lane *
pyl_lane_current(void)
{
    return current_lane;
}

void
pyl_lane_set_current(struct pyl_lane *lane)
{
    current_lane = lane;
}

static int64_t
lane_now_ns(struct pyl_lane *lane)
{
    return pyl_reactor_now_ns(&lane->worker.reactor);
}

/* ---- strands ---- */

static void become_busy(struct pyl_lane *lane);

static void
run_strand(struct pyl_lane *lane, struct pyl_strand *strand)
{
    int64_t start_ns = lane_now_ns(lane);
    if (lane->mode != PYL_LANE_AWAKE) {
        become_busy(lane);
    }
    pyl_counter_add(&lane->stats.activations, 1);
    pyl_duration_note(&lane->stats.queue_delay, start_ns - strand->queued_ns);
    int64_t now_ns;
    lane->current = strand;
    enum pyl_strand_outcome outcome = pyl_strand_run(strand, lane, start_ns, &now_ns);
    lane->current = NULL;
    if (outcome == PYL_STRAND_AGAIN) {
        pyl_counter_add(&lane->stats.budget_ends, now_ns - start_ns >= PYL_STRAND_BUDGET_NS);
        strand->queued_ns = now_ns;
        pyl_worker_post(&lane->worker, &strand->job);
    } else if (outcome == PYL_STRAND_ENDED) {
        pyl_list_remove(&strand->live);
        strand->ops->on_ended(strand);
        pyl_lane_count(&lane->stats.ended);
    }
    if (now_ns - lane->worker.now_ns >= PYL_LANE_TURN_NS && !lane->worker.is_turn_whole) {
        pyl_worker_interrupt(&lane->worker);
    }
}

static void
run_at_home(struct pyl_job *job)
{
    struct pyl_strand *strand = PYL_CONTAINER_OF(job, struct pyl_strand, job);
    run_strand(strand->home, strand);
}

/* Whoever holds the strand decides, also another thread: so the count is a read-modify-write. */
static void
choose_home(struct pyl_lane *lane, struct pyl_strand *strand)
{
    strand->home = lane;
    (void)atomic_fetch_add_explicit(&lane->stats.homes, 1, memory_order_relaxed);
}

static void
tell_stop(struct pyl_strand *strand)
{
    if (strand->ops->on_stop != NULL) {
        strand->ops->on_stop(strand);
    }
}

static void
move_in(struct pyl_lane *lane, struct pyl_strand *strand)
{
    strand->job.run = run_at_home;
    pyl_list_append(&lane->strands, &strand->live);
    if (lane->is_stop_told) {
        tell_stop(strand);
    }
}

static void
settle_here(struct pyl_job *job)
{
    struct pyl_strand *strand = PYL_CONTAINER_OF(job, struct pyl_strand, job);
    move_in(strand->home, strand);
    run_strand(strand->home, strand);
}

void
pyl_lane_place(struct pyl_lane *lane, struct pyl_strand *strand)
{
    choose_home(lane, strand);
    strand->job.run = settle_here;
    pyl_lane_schedule(strand);
}

void
pyl_lane_schedule(struct pyl_strand *strand)
{
    struct pyl_lane *home = strand->home;
    if (current_lane == home) {
        strand->queued_ns = home->worker.now_ns; /* near enough, and the clock is not read */
        pyl_worker_post(&home->worker, &strand->job);
    } else {
        strand->queued_ns = lane_now_ns(home);
        pyl_runtime_queue_home(home->runtime, strand);
    }
}

/* What a busy lane owes to the injector: measured in work, because a turn may be long or short. */
static void
pay_injector(struct pyl_lane *lane)
{
    uint64_t activations = pyl_counter_read(&lane->stats.activations);
    lane->injector_debt += activations - lane->activations_seen + 1;
    lane->activations_seen = activations;
    if (lane->injector_debt < PYL_LANE_INJECTOR_SHARE) {
        return;
    }
    uint32_t share = (uint32_t)(lane->injector_debt / PYL_LANE_INJECTOR_SHARE);
    lane->injector_debt %= PYL_LANE_INJECTOR_SHARE;
    struct pyl_job_queue taken = {0};
    if (pyl_injector_depth(&lane->runtime->injector) == 0 ||
        pyl_injector_take(&lane->runtime->injector, share, &taken) == 0) {
        return;
    }
    pyl_counter_add(&lane->stats.injected, taken.count);
    struct pyl_job *job;
    while ((job = pyl_job_queue_pop(&taken)) != NULL) {
        struct pyl_strand *strand = PYL_CONTAINER_OF(job, struct pyl_strand, job);
        choose_home(lane, strand);
        strand->job.run = settle_here;
        pyl_worker_post(&lane->worker, &strand->job);
    }
}

/* ---- the queue of new strands ---- */

void
pyl_lane_ready_queue(struct pyl_lane *lane)
{
    if (!lane->is_queue_job_ready) {
        lane->is_queue_job_ready = true;
        pyl_worker_post(&lane->worker, &lane->queue_job);
    }
}

/* The older half of a full queue and the new one go where every lane looks. */
static void
overflow(struct pyl_lane *lane, struct pyl_strand *strand)
{
    struct pyl_job_queue chain = {0};
    struct pyl_run_entry entry;
    while (chain.count < PYL_LANE_QUEUE_SLOTS / 2 && pyl_lane_queue_pop(&lane->queue, &entry)) {
        struct pyl_strand *oldest = entry.item;
        pyl_job_queue_push(&chain, &oldest->job);
    }
    pyl_job_queue_push(&chain, &strand->job);
    pyl_counter_add(&lane->stats.overflowed, chain.count);
    pyl_injector_push(&lane->runtime->injector, &chain);
    pyl_runtime_offer(lane->runtime, true);
}

void
pyl_lane_push(struct pyl_lane *lane, struct pyl_strand *strand)
{
    strand->queued_ns = lane_now_ns(lane);
    struct pyl_run_entry entry = {.item = strand, .since_ns = strand->queued_ns};
    if (pyl_lane_queue_push(&lane->queue, entry)) {
        pyl_lane_ready_queue(lane);
    } else {
        overflow(lane, strand);
    }
}

/* What begins stays, so a lane with more that stays than another gives its new strands to that one.
 * Strands that end in their first activation never make a difference: the thieves share those out.
 */
static bool
hand_over(struct pyl_lane *lane, struct pyl_strand *strand)
{
    struct pyl_lane *other =
        strand->is_bound ? NULL : pyl_runtime_lighter_than(lane->runtime, lane);
    if (other == NULL) {
        return false;
    }
    pyl_counter_add(&lane->stats.handed_over, 1);
    pyl_lane_place(other, strand);
    return true;
}

static void
run_queue(struct pyl_job *job)
{
    struct pyl_lane *lane = PYL_CONTAINER_OF(job, struct pyl_lane, queue_job);
    lane->is_queue_job_ready = false;
    struct pyl_run_entry entry;
    uint32_t left =
        pyl_lane_queue_count(&lane->queue); /* what these add belongs to the next turn */
    bool has_run = false;
    while (left > 0 && !lane->worker.is_interrupted && pyl_lane_queue_pop(&lane->queue, &entry)) {
        left--;
        if (has_run && lane->worker.sample.is_open) { /* each for itself; the last is this job's */
            pyl_sample_note_callback(&lane->worker.sample, lane_now_ns(lane));
        }
        if (pyl_lane_queue_count(&lane->queue) > 0) {
            pyl_runtime_offer(lane->runtime, false); /* this one may take long */
        }
        struct pyl_strand *strand = entry.item;
        has_run = !hand_over(lane, strand);
        if (has_run) {
            choose_home(lane, strand);
            move_in(lane, strand);
            run_strand(lane, strand);
        }
    }
    if (pyl_lane_queue_count(&lane->queue) > 0) {
        pyl_lane_ready_queue(lane);
    }
}

/* ---- modes ---- */

static void
leave_search(struct pyl_lane *lane)
{
    lane->mode = PYL_LANE_AWAKE;
    lane->may_linger = false;
    if (pyl_idle_end_search(&lane->runtime->idle)) {
        pyl_runtime_offer(lane->runtime, false); /* who found something wakes one more */
    }
}

void
pyl_lane_settle(struct pyl_lane *lane)
{
    struct pyl_idle *idle = &lane->runtime->idle;
    if (lane->mode == PYL_LANE_SLEEPING) {
        bool is_claimed = pyl_idle_leave(idle, lane->index);
        lane->mode = is_claimed ? PYL_LANE_SEARCHING : PYL_LANE_AWAKE;
        lane->may_linger = is_claimed;
    } else if (lane->mode == PYL_LANE_WATCHING) {
        pyl_idle_unwatch(idle, lane->index);
        pyl_timer_stop(&lane->worker, &lane->watch);
        lane->mode = PYL_LANE_SEARCHING;
    }
}

/* Work has come: whoever was told that this lane searches must not rely on it any longer. */
static void
become_busy(struct pyl_lane *lane)
{
    pyl_lane_settle(lane);
    if (lane->mode == PYL_LANE_SEARCHING) {
        leave_search(lane);
    }
}

/* Returns false when there is no memory for the timer, or something urgent has come. */
static bool
begin_watch(struct pyl_lane *lane, int64_t until_ns)
{
    if (until_ns <= lane->worker.now_ns ||
        pyl_timer_start(&lane->worker, &lane->watch, until_ns) < 0) {
        return false;
    }
    lane->mode = PYL_LANE_WATCHING;
    pyl_idle_watch(&lane->runtime->idle, lane->index);
    if (pyl_injector_depth(&lane->runtime->injector) > 0) {
        pyl_lane_settle(lane);
        return false;
    }
    pyl_counter_add(&lane->stats.watches, 1);
    return true;
}

/* Is there anything that nobody else may have seen? */
static bool
has_missed_work(struct pyl_lane *lane)
{
    struct pyl_runtime *runtime = lane->runtime;
    if (pyl_injector_depth(&runtime->injector) > 0) {
        return true;
    }
    for (uint32_t i = 0; i < runtime->lane_count && pyl_steal_is_on(runtime); i++) {
        if (i != lane->index && pyl_lane_queue_oldest_ns(&runtime->lanes[i].queue) != INT64_MAX) {
            return true;
        }
    }
    return false;
}

/* Returns false if the lane has to look again instead. */
static bool
begin_sleep(struct pyl_lane *lane)
{
    bool was_searching = lane->mode == PYL_LANE_SEARCHING;
    lane->mode = PYL_LANE_SLEEPING;
    if (pyl_idle_enter(&lane->runtime->idle, lane->index, was_searching) && has_missed_work(lane)) {
        pyl_lane_settle(lane);
        return false;
    }
    return true;
}

static bool
has_own_work(struct pyl_lane *lane)
{
    struct pyl_worker *worker = &lane->worker;
    return worker->ready.count > 0 || worker->deferred.count > 0 ||
           pyl_reactor_has_events(&worker->reactor) || !pyl_inbox_is_empty(&worker->inbox);
}

bool
pyl_lane_look(struct pyl_lane *lane)
{
    pay_injector(lane);
    if (has_own_work(lane) || pyl_steal_injected(lane, UINT32_MAX) > 0) {
        become_busy(lane);
        return false;
    }
    if (lane->mode == PYL_LANE_AWAKE && pyl_idle_begin_search(&lane->runtime->idle)) {
        lane->mode = PYL_LANE_SEARCHING;
    }
    if (lane->mode == PYL_LANE_SEARCHING) {
        int64_t mature_ns;
        if (pyl_steal(lane, &mature_ns)) {
            leave_search(lane);
            return false;
        }
        if (mature_ns == INT64_MAX && lane->may_linger && pyl_steal_is_on(lane->runtime)) {
            mature_ns = lane_now_ns(lane) + lane->runtime->steal_delay_ns;
        }
        lane->may_linger = false;
        if (mature_ns != INT64_MAX) {
            return begin_watch(lane, mature_ns);
        }
    }
    return begin_sleep(lane);
}

int
pyl_lane_turn(struct pyl_lane *lane)
{
    bool may_block = pyl_lane_look(lane);
    int rc = pyl_worker_turn(&lane->worker, may_block);
    pyl_lane_settle(lane);
    pyl_runtime_advance(lane->runtime, lane);
    return rc;
}

/* ---- life ---- */

static void
end_watch(struct pyl_job *job)
{
    /* That the wait has ended is all. */
}

int
pyl_lane_init(struct pyl_lane *lane, struct pyl_runtime *runtime, uint32_t index, uint64_t seed,
              const struct pyl_reactor_options *options, char *cause, size_t cause_size)
{
    memset(lane, 0, sizeof(*lane));
    int rc = pyl_worker_init(&lane->worker, options, &runtime->embedder.wait, cause, cause_size);
    if (rc < 0) {
        return rc;
    }
    lane->worker.jobs_budget_ns = PYL_LANE_JOBS_NS;
    lane->runtime = runtime;
    lane->index = index;
    lane->random_state = seed * UINT64_C(0x9E3779B97F4A7C15) + index + 1;
    pyl_list_init(&lane->strands);
    lane->queue_job.run = run_queue;
    lane->watch.job.run = end_watch;
    pyl_lane_queue_init(&lane->queue);
    return 0;
}

void
pyl_lane_fini(struct pyl_lane *lane)
{
    pyl_worker_fini(&lane->worker);
}

void
pyl_lane_tell_stop(struct pyl_lane *lane)
{
    lane->is_stop_told = true;
    struct pyl_list told;
    pyl_list_init(&told);
    while (!pyl_list_is_empty(&lane->strands)) {
        struct pyl_strand *strand = PYL_CONTAINER_OF(lane->strands.next, struct pyl_strand, live);
        pyl_list_remove(&strand->live);
        pyl_list_append(&told, &strand->live);
        tell_stop(strand);
    }
    pyl_list_move_all(&lane->strands, &told);
}
