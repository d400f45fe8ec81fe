/*
 * runtime.c - threads, spawning, the phases of the end.
 *
 * Invariant: a strand that was admitted is counted before it is queued and counted again after it
 * ended, so equal sums mean that none is left (see is_drained()).
 */
#include "sched/runtime.h"

#include "base/alloc.h"
#include "base/check.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

/* ---- life ---- */

static uint32_t
default_workers(void)
{
    long count = sysconf(_SC_NPROCESSORS_ONLN);
    count = count > 0 ? count : 1;
    return count < PYL_IDLE_WORKERS_MAX ? (uint32_t)count : PYL_IDLE_WORKERS_MAX;
}

static int
init_sync(struct pyl_runtime *runtime)
{
    int rc = -pthread_mutex_init(&runtime->lock, NULL);
    if (rc < 0) {
        return rc;
    }
    rc = -pthread_cond_init(&runtime->is_changed, NULL);
    if (rc < 0) {
        goto fail_changed;
    }
    rc = -pthread_rwlock_init(&runtime->outsiders, NULL);
    if (rc == 0) {
        return 0;
    }
    (void)pthread_cond_destroy(&runtime->is_changed);
fail_changed:
    (void)pthread_mutex_destroy(&runtime->lock);
    return rc;
}

static void
fini_sync(struct pyl_runtime *runtime)
{
    (void)pthread_rwlock_destroy(&runtime->outsiders);
    (void)pthread_cond_destroy(&runtime->is_changed);
    (void)pthread_mutex_destroy(&runtime->lock);
}

static int
init_shared(struct pyl_runtime *runtime, const struct pyl_runtime_options *options,
            uint32_t workers)
{
    int rc = init_sync(runtime);
    if (rc < 0) {
        return rc;
    }
    rc = pyl_idle_init(&runtime->idle, workers);
    if (rc < 0) {
        goto fail_idle;
    }
    rc = pyl_injector_init(&runtime->injector);
    if (rc < 0) {
        goto fail_injector;
    }
    rc = pyl_blocking_init(&runtime->blocking, &options->blocking);
    if (rc == 0) {
        return 0;
    }
    pyl_injector_fini(&runtime->injector);
fail_injector:
    pyl_idle_fini(&runtime->idle);
fail_idle:
    fini_sync(runtime);
    return rc;
}

static void
fini_shared(struct pyl_runtime *runtime)
{
    pyl_blocking_close(&runtime->blocking);
    pyl_injector_fini(&runtime->injector);
    pyl_idle_fini(&runtime->idle);
    fini_sync(runtime);
}

static int
init_lanes(struct pyl_runtime *runtime, const struct pyl_runtime_options *options, uint32_t workers,
           char *cause, size_t cause_size)
{
    runtime->lanes = pyl_alloc_array(workers, sizeof(*runtime->lanes));
    runtime->threads = pyl_alloc_array(workers, sizeof(*runtime->threads));
    if (runtime->lanes == NULL || runtime->threads == NULL) {
        return -ENOMEM;
    }
    for (; runtime->lane_count < workers; runtime->lane_count++) {
        struct pyl_reactor_options reactor = options->reactor;
        reactor.sim_seed = options->seed + runtime->lane_count;
        int rc = pyl_lane_init(&runtime->lanes[runtime->lane_count], runtime, runtime->lane_count,
                               options->seed, &reactor, cause, cause_size);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

int
pyl_runtime_init(struct pyl_runtime *runtime, const struct pyl_runtime_options *options,
                 char *cause, size_t cause_size)
{
    static const struct pyl_runtime_options defaults;
    memset(runtime, 0, sizeof(*runtime));
    if (options == NULL) {
        options = &defaults;
    }
    if (options->workers > PYL_IDLE_WORKERS_MAX) {
        return -EINVAL;
    }
    uint32_t workers = options->workers > 0 ? options->workers : default_workers();
    runtime->embedder = options->embedder;
    runtime->is_first_external = options->is_first_external;
    runtime->steal_delay_ns =
        options->steal_delay_ns != 0 ? options->steal_delay_ns : PYL_RUNTIME_STEAL_DELAY_NS;
    int rc = init_shared(runtime, options, workers);
    if (rc < 0) {
        memset(runtime, 0, sizeof(*runtime));
        return rc;
    }
    rc = init_lanes(runtime, options, workers, cause, cause_size);
    if (rc < 0) {
        pyl_runtime_fini(runtime);
    }
    return rc;
}

void
pyl_runtime_fini(struct pyl_runtime *runtime)
{
    if (runtime->idle.worker_count == 0) {
        return;
    }
    PYL_CHECK(runtime->thread_count == 0);
    for (uint32_t i = 0; i < runtime->lane_count; i++) {
        pyl_lane_fini(&runtime->lanes[i]);
    }
    fini_shared(runtime);
    pyl_free(runtime->threads);
    pyl_free(runtime->lanes);
    memset(runtime, 0, sizeof(*runtime));
}

/* ---- phases ---- */

/* Does nothing if the runtime is there already. */
static void
raise_phase(struct pyl_runtime *runtime, enum pyl_runtime_phase phase)
{
    (void)pthread_mutex_lock(&runtime->lock);
    if (pyl_runtime_phase_of(runtime) < phase) {
        atomic_store_explicit(&runtime->phase, phase, memory_order_seq_cst);
        (void)pthread_cond_broadcast(&runtime->is_changed);
    }
    (void)pthread_mutex_unlock(&runtime->lock);
}

static void
wake_all(struct pyl_runtime *runtime)
{
    for (uint32_t i = 0; i < runtime->lane_count; i++) {
        pyl_worker_wake(&runtime->lanes[i].worker);
    }
}

void
pyl_runtime_stop(struct pyl_runtime *runtime)
{
    pyl_injector_close(&runtime->injector);
    raise_phase(runtime, PYL_RUNTIME_STOPPING);
    wake_all(runtime);
}

/*
 * Has every strand ended? Asked when the runtime stops. Ended ones are counted first: a strand
 * spawned in between was spawned by one that had not ended at the first count (who else spawns is
 * refused by then, see admit()), so the sums differ. Sequentially consistent, so that of two lanes
 * that end the last two strands at once, one sees both.
 */
static bool
is_drained(struct pyl_runtime *runtime)
{
    uint64_t ended = 0;
    for (uint32_t i = 0; i < runtime->lane_count; i++) {
        ended += atomic_load_explicit(&runtime->lanes[i].stats.ended, memory_order_seq_cst);
    }
    uint64_t spawned = pyl_injector_admitted(&runtime->injector);
    for (uint32_t i = 0; i < runtime->lane_count; i++) {
        spawned += atomic_load_explicit(&runtime->lanes[i].stats.spawned, memory_order_seq_cst);
    }
    return ended == spawned;
}

void
pyl_runtime_advance(struct pyl_runtime *runtime, struct pyl_lane *lane)
{
    if (PYL_LIKELY(pyl_runtime_phase_of(runtime) == PYL_RUNTIME_RUNNING)) {
        return;
    }
    if (!lane->is_stop_told) {
        pyl_lane_tell_stop(lane);
    }
    if (pyl_runtime_phase_of(runtime) == PYL_RUNTIME_STOPPING && is_drained(runtime)) {
        raise_phase(runtime, PYL_RUNTIME_DRAINED);
        wake_all(runtime); /* an external first lane waits for it */
    }
}

/* ---- threads ---- */

static void
note_error(struct pyl_runtime *runtime, int error)
{
    int expected = 0;
    (void)atomic_compare_exchange_strong(&runtime->error, &expected, error);
    pyl_injector_close(&runtime->injector);
    raise_phase(runtime, PYL_RUNTIME_DRAINED); /* its strands will never end */
    wake_all(runtime);
}

/* Turns the lane until the runtime is in `phase`, or *is_done. */
static int
turn_until(struct pyl_lane *lane, enum pyl_runtime_phase phase, const bool *is_done)
{
    struct pyl_runtime *runtime = lane->runtime;
    int rc = 0;
    while (rc == 0 && pyl_runtime_phase_of(runtime) < phase && !*is_done) {
        rc = pyl_lane_turn(lane);
        if (runtime->embedder.after_turn != NULL) {
            runtime->embedder.after_turn(lane, runtime->embedder.user);
        }
    }
    if (rc < 0) {
        note_error(runtime, rc);
    }
    return rc;
}

/* After an error there is nothing to drain any more: pyl_runtime_fini() drops it. */
static void
end_lane(struct pyl_lane *lane, int rc)
{
    const struct pyl_runtime_embedder *embedder = &lane->runtime->embedder;
    if (embedder->on_drain != NULL) {
        embedder->on_drain(lane, embedder->user);
    }
    if (rc == 0) {
        pyl_worker_drain(&lane->worker);
    }
}

static void *
run_lane(void *argument)
{
    static const bool never = false;
    struct pyl_lane *lane = argument;
    const struct pyl_runtime_embedder *embedder = &lane->runtime->embedder;
    pyl_lane_set_current(lane);
    if (embedder->on_start != NULL) {
        embedder->on_start(lane, embedder->user);
    }
    end_lane(lane, turn_until(lane, PYL_RUNTIME_ENDED, &never));
    if (embedder->on_end != NULL) {
        embedder->on_end(lane, embedder->user);
    }
    pyl_lane_set_current(NULL);
    return NULL;
}

int
pyl_runtime_run_first(struct pyl_runtime *runtime, const bool *is_done)
{
    PYL_DCHECK(runtime->is_first_external && pyl_lane_current() == NULL);
    pyl_lane_set_current(&runtime->lanes[0]);
    int rc = turn_until(&runtime->lanes[0], PYL_RUNTIME_DRAINED, is_done);
    pyl_lane_set_current(NULL);
    return rc;
}

int
pyl_runtime_start(struct pyl_runtime *runtime)
{
    sigset_t all;
    sigset_t before;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before); /* the new threads inherit it */
    int rc = 0;
    uint32_t first = runtime->is_first_external ? 1 : 0;
    while (rc == 0 && runtime->thread_count < runtime->lane_count - first) {
        struct pyl_lane *lane = &runtime->lanes[first + runtime->thread_count];
        rc = pthread_create(&runtime->threads[runtime->thread_count], NULL, run_lane, lane);
        runtime->thread_count += rc == 0;
    }
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0) {
        pyl_runtime_stop(runtime);
        raise_phase(runtime, PYL_RUNTIME_DRAINED); /* nothing was spawned yet */
        rc = pyl_runtime_join(runtime);
        return rc < 0 ? rc : -EAGAIN;
    }
    return 0;
}

static int
await_drained(struct pyl_runtime *runtime)
{
    static const bool never = false;
    if (runtime->is_first_external) {
        return pyl_runtime_run_first(runtime, &never);
    }
    (void)pthread_mutex_lock(&runtime->lock);
    while (pyl_runtime_phase_of(runtime) < PYL_RUNTIME_DRAINED) {
        (void)pthread_cond_wait(&runtime->is_changed, &runtime->lock);
    }
    (void)pthread_mutex_unlock(&runtime->lock);
    return 0;
}

/* The strand that an outsider queued may have run and ended, with the runtime, while its poster has
 * still to wake the lane. */
static void
await_outsiders(struct pyl_runtime *runtime)
{
    (void)pthread_rwlock_wrlock(&runtime->outsiders);
    (void)pthread_rwlock_unlock(&runtime->outsiders);
}

int
pyl_runtime_join(struct pyl_runtime *runtime)
{
    int rc = await_drained(runtime);
    pyl_blocking_close(&runtime->blocking);
    raise_phase(runtime, PYL_RUNTIME_ENDED);
    wake_all(runtime);
    for (uint32_t i = 0; i < runtime->thread_count; i++) {
        (void)pthread_join(runtime->threads[i], NULL);
    }
    runtime->thread_count = 0;
    if (runtime->is_first_external) {
        end_lane(&runtime->lanes[0], rc);
    }
    await_outsiders(runtime);
    return atomic_load(&runtime->error);
}

/* ---- strands ---- */

void
pyl_runtime_offer(struct pyl_runtime *runtime, bool is_urgent)
{
    uint32_t index;
    if (pyl_idle_claim(&runtime->idle, is_urgent, &index)) {
        pyl_worker_wake(&runtime->lanes[index].worker);
    }
}

/* The caller's lane in this runtime, or NULL. */
static struct pyl_lane *
own_lane(const struct pyl_runtime *runtime)
{
    struct pyl_lane *lane = pyl_lane_current();
    return lane != NULL && lane->runtime == runtime ? lane : NULL;
}

void
pyl_runtime_queue_home(struct pyl_runtime *runtime, struct pyl_strand *strand)
{
    struct pyl_worker *worker = &strand->home->worker;
    bool is_outsider = own_lane(runtime) == NULL;
    if (is_outsider) {
        (void)pthread_rwlock_rdlock(&runtime->outsiders);
    }
    pyl_worker_post_remote(worker, &strand->job);
    if (is_outsider) {
        (void)pthread_rwlock_unlock(&runtime->outsiders);
    }
}

/* Outside of strands a lane is as good as any other thread: nothing there keeps the runtime from
 * being drained. */
static bool
is_too_late(const struct pyl_runtime *runtime, const struct pyl_lane *lane)
{
    return lane->current == NULL &&
           PYL_UNLIKELY(pyl_runtime_phase_of(runtime) != PYL_RUNTIME_RUNNING);
}

/* Counts a strand of this lane, and then looks: if the phase is still RUNNING, the count comes
 * before STOPPING in the one order of sequential consistency, and so before every is_drained(). */
static bool
count_spawned(struct pyl_runtime *runtime, struct pyl_lane *lane)
{
    if (is_too_late(runtime, lane)) {
        return false;
    }
    pyl_lane_count(&lane->stats.spawned);
    if (PYL_LIKELY(!is_too_late(runtime, lane))) {
        return true;
    }
    pyl_lane_uncount(&lane->stats.spawned);
    pyl_worker_wake(&lane->worker); /* somebody may have seen one too many: look again */
    return false;
}

/* Counts the strand before anybody can run it, and gives it its first job. */
static int
admit(struct pyl_runtime *runtime, struct pyl_lane *lane, struct pyl_strand *strand,
      struct pyl_job *job)
{
    bool is_admitted =
        lane != NULL ? count_spawned(runtime, lane) : pyl_injector_admit(&runtime->injector);
    if (!is_admitted) {
        return -ECANCELED;
    }
    pyl_job_queue_push(&strand->jobs, job);
    return 0;
}

int
pyl_runtime_spawn(struct pyl_runtime *runtime, struct pyl_strand *strand, struct pyl_job *job)
{
    struct pyl_lane *lane = own_lane(runtime);
    int rc = admit(runtime, lane, strand, job);
    if (rc < 0) {
        return rc;
    }
    if (lane != NULL) {
        pyl_lane_push(lane, strand);
        return 0;
    }
    strand->queued_ns = pyl_reactor_now_ns(&runtime->lanes[0].worker.reactor);
    struct pyl_job_queue chain = {0};
    pyl_job_queue_push(&chain, &strand->job);
    pyl_injector_push(&runtime->injector, &chain);
    pyl_runtime_offer(runtime, true);
    return 0;
}

int
pyl_runtime_spawn_on(struct pyl_runtime *runtime, uint32_t index, struct pyl_strand *strand,
                     struct pyl_job *job)
{
    PYL_DCHECK(index < runtime->lane_count);
    int rc = admit(runtime, own_lane(runtime), strand, job);
    if (rc == 0) {
        pyl_lane_place(&runtime->lanes[index], strand);
    }
    return rc;
}

static uint64_t
strands_of(const struct pyl_lane *lane)
{
    uint64_t ended = pyl_counter_read(&lane->stats.ended);
    uint64_t homes = pyl_counter_read(&lane->stats.homes);
    uint64_t guests = pyl_counter_read(&lane->stats.guests) + pyl_counter_read(&lane->stats.coming);
    return guests + (homes > ended ? homes - ended : 0); /* two loads, not one moment */
}

uint32_t
pyl_runtime_lighter(const struct pyl_runtime *runtime, uint32_t turn)
{
    uint32_t count = runtime->lane_count;
    uint32_t one = turn % count;
    /* Another one each time the first goes round: in the end each is compared with each. */
    uint32_t two = count > 1 ? (one + 1 + turn / count % (count - 1)) % count : one;
    return strands_of(&runtime->lanes[two]) < strands_of(&runtime->lanes[one]) ? two : one;
}

/* A strand handed to a lane in the middle of a long turn would wait for its end. */
static bool
keeps_up(const struct pyl_lane *lane, int64_t now_ns)
{
    int64_t since_ns = atomic_load_explicit(&lane->worker.busy_since_ns, memory_order_relaxed);
    return since_ns == INT64_MAX || now_ns - since_ns <= lane->runtime->steal_delay_ns;
}

struct pyl_lane *
pyl_runtime_lighter_than(struct pyl_runtime *runtime, struct pyl_lane *lane)
{
    uint64_t mine = strands_of(lane);
    if (mine == 0 || !pyl_steal_is_on(runtime)) {
        return NULL;
    }
    lane->next_compared = lane->next_compared % (runtime->lane_count - 1) + 1;
    uint32_t index = (lane->index + lane->next_compared) % runtime->lane_count;
    struct pyl_lane *other = &runtime->lanes[index];
    uint64_t theirs = strands_of(other);
    bool is_lighter = mine > theirs && (mine > 2 * theirs + PYL_LANE_LATE_SLACK ||
                                        keeps_up(other, pyl_reactor_now_ns(&lane->worker.reactor)));
    return is_lighter ? other : NULL;
}
