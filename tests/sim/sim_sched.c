/*
 * sim_sched.c - a runtime of 2 to 5 workers in one thread: a seed decides which worker does its
 * next step, how long jobs take, what they post and spawn, what comes from outside and when.
 * Between a worker's last look for work and its sleep any other may go on, which is where wake-ups
 * get lost.
 *
 *   sim_sched [FIRST [COUNT]]
 *
 * Checked in every run: no job is lost, doubled or out of order; a strand stays on the worker of
 * its first step; nobody sleeps while there is work (all asleep with work left is a lost wake-up);
 * each timer fires once and not early; only what waited is stolen; everything ends, and ends once;
 * no memory is left.
 */
#include "base/alloc.h"
#include "base/clock.h"
#include "reactor/sim.h"
#include "sched/runtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LANES_MAX = 5, ACTORS_MAX = 64, JOBS_MAX = 24, OUTSIDE_MAX = 12, STEPS_MAX = 200000 };

static uint64_t seed;

#define SIM_CHECK(condition)                                                              \
    do {                                                                                  \
        if (!(condition)) {                                                               \
            fprintf(stderr, "seed %llu: %s:%d: %s\n", (unsigned long long)seed, __FILE__, \
                    __LINE__, #condition);                                                \
            exit(1);                                                                      \
        }                                                                                 \
    } while (0)

struct actor;

/* One job of an actor; `order` is when it was posted, by whom: posts of one poster keep their
 * order. */
struct errand {
    struct pyl_job job;
    struct actor *actor;
    uint32_t poster; /* index of the lane, or LANES_MAX: outside */
    uint32_t order;
    bool is_used;
};

/* A strand of the simulation. */
struct actor {
    struct pyl_strand strand;
    struct errand errands[JOBS_MAX];
    uint32_t posted;
    uint32_t run;
    uint32_t last_order[LANES_MAX + 1];
    struct pyl_timer timer;
    int64_t timer_deadline_ns;
    struct errand *timer_errand;
    uint32_t lane;      /* of the first step */
    uint32_t spawner;   /* index of the lane, or LANES_MAX: outside */
    int64_t spawned_ns; /* on the spawner's clock */
    bool is_placed;     /* it was seen with a home, or may have been in the injector */
    bool is_begun;
    bool is_stopping;
    bool is_closing; /* ends: nothing is posted to it any more */
    bool has_ended;
};

struct sleeper {
    bool is_asleep;
    int64_t deadline_ns; /* of its first timer */
};

/* tidy: global because one run is one process-wide world, and jobs carry no user pointer. */
static struct {
    struct pyl_runtime runtime;
    uint64_t random_state;
    int64_t now_ns;
    struct sleeper lanes[LANES_MAX];
    struct actor *actors[ACTORS_MAX];
    uint32_t actor_count;
    uint32_t ended;
    uint32_t outside_left; /* things that still come from outside */
    int64_t outside_ns;    /* when the next one does */
    uint32_t next_order;
    struct actor *waiting[ACTORS_MAX]; /* those that had not begun at the last look */
    uint32_t waiting_count;
    uint64_t overflowed; /* of all lanes, at the last look */
    uint64_t thefts;
} world;

static uint32_t
roll(uint32_t bound)
{
    uint64_t x = world.random_state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    world.random_state = x;
    return (uint32_t)((x * UINT64_C(0x2545F4914F6CDD1D)) >> 33) % bound;
}

static int64_t
lane_time(uint32_t index)
{
    return pyl_reactor_now_ns(&world.runtime.lanes[index].worker.reactor);
}

/* The lanes' clocks are one clock: it never goes back. */
static void
sync_clock(uint32_t index)
{
    int64_t lane_ns = lane_time(index);
    if (lane_ns < world.now_ns) {
        pyl_sim_advance(&world.runtime.lanes[index].worker.reactor, world.now_ns - lane_ns);
    } else {
        world.now_ns = lane_ns;
    }
}

/* ---- actors ---- */

static void run_errand(struct pyl_job *job);

static struct errand *
new_errand(struct actor *actor)
{
    if (actor->posted == JOBS_MAX || actor->is_closing) {
        return NULL;
    }
    struct errand *errand = &actor->errands[actor->posted++];
    const struct pyl_lane *lane = pyl_lane_current();
    *errand = (struct errand){
        .job = {.run = run_errand},
        .actor = actor,
        .poster = lane != NULL ? lane->index : LANES_MAX,
        .order = ++world.next_order,
        .is_used = true,
    };
    return errand;
}

static void
actor_on_stop(struct pyl_strand *strand)
{
    struct actor *actor = PYL_CONTAINER_OF(strand, struct actor, strand);
    SIM_CHECK(!actor->is_stopping && !actor->has_ended);
    actor->is_stopping = true;
    /* Wakes it, so that it ends; with nothing free it has work anyway. */
    struct errand *errand = actor->is_begun ? new_errand(actor) : NULL;
    if (errand != NULL) {
        pyl_strand_post(strand, &errand->job);
    }
}

static void
actor_on_ended(struct pyl_strand *strand)
{
    struct actor *actor = PYL_CONTAINER_OF(strand, struct actor, strand);
    SIM_CHECK(!actor->has_ended && actor->run == actor->posted && !actor->timer.is_armed);
    SIM_CHECK(pyl_lane_current()->index == actor->lane);
    actor->has_ended = true;
    world.ended++;
    memset(&actor->strand, 0xA5, sizeof(actor->strand)); /* whoever still looks at it shall fall */
}

static const struct pyl_strand_ops actor_ops = {actor_on_stop, actor_on_ended};

static void
spawn_actor(void)
{
    if (world.actor_count == ACTORS_MAX) {
        return;
    }
    struct actor *actor = pyl_alloc_zero(sizeof(*actor));
    SIM_CHECK(actor != NULL);
    pyl_strand_init(&actor->strand, &actor_ops);
    struct pyl_job *job = &new_errand(actor)->job;
    const struct pyl_lane *lane = pyl_lane_current();
    actor->spawner = lane != NULL ? lane->index : LANES_MAX;
    actor->spawned_ns = lane != NULL ? lane_time(lane->index) : 0;
    int rc = roll(4) > 0 ? pyl_runtime_spawn(&world.runtime, &actor->strand, job)
                         : pyl_runtime_spawn_on(&world.runtime, roll(world.runtime.lane_count),
                                                &actor->strand, job);
    if (rc == 0) {
        world.actors[world.actor_count++] = actor;
        world.waiting[world.waiting_count++] = actor;
    } else {
        SIM_CHECK(pyl_lane_current() == NULL &&
                  pyl_runtime_phase_of(&world.runtime) != PYL_RUNTIME_RUNNING);
        pyl_free(actor);
    }
}

static void
post_to_somebody(void)
{
    if (world.actor_count == 0) {
        return;
    }
    struct actor *actor = world.actors[roll(world.actor_count)];
    struct errand *errand = new_errand(actor);
    if (errand != NULL) {
        pyl_strand_post(&actor->strand, &errand->job);
    }
}

static void
run_timer(struct pyl_job *job)
{
    struct actor *actor = PYL_CONTAINER_OF(job, struct actor, timer.job);
    SIM_CHECK(actor->timer_errand != NULL && lane_time(actor->lane) >= actor->timer_deadline_ns);
    struct errand *errand = actor->timer_errand;
    actor->timer_errand = NULL;
    errand->poster = actor->lane;
    errand->order = ++world.next_order;
    pyl_strand_post(&actor->strand, &errand->job);
}

static void
start_timer(struct actor *actor)
{
    struct errand *errand = actor->timer_errand == NULL ? new_errand(actor) : NULL;
    if (errand == NULL) {
        return;
    }
    struct pyl_worker *worker = &world.runtime.lanes[actor->lane].worker;
    actor->timer_errand = errand;
    actor->timer.job.run = run_timer;
    actor->timer_deadline_ns = lane_time(actor->lane) + roll(300000);
    SIM_CHECK(pyl_timer_start(worker, &actor->timer, actor->timer_deadline_ns) == 0);
}

static void
act(struct actor *actor)
{
    uint32_t choice = roll(12);
    if (choice < 3) {
        spawn_actor();
    } else if (choice < 7) {
        post_to_somebody();
    } else if (choice < 9) {
        start_timer(actor);
    } else if (choice < 11) {
        int64_t duration_ns = roll(8) == 0 ? roll(400000) : roll(15000);
        pyl_sim_advance(&world.runtime.lanes[actor->lane].worker.reactor, duration_ns);
    }
}

/* Before its first step: a strand that began elsewhere, and was neither placed nor handed over nor
 * in the injector, was stolen. */
static void
check_theft(const struct actor *actor, const struct pyl_lane *lane)
{
    if (actor->spawner == LANES_MAX || actor->spawner == lane->index || actor->is_placed) {
        return;
    }
    SIM_CHECK(pyl_steal_is_on(&world.runtime));
    SIM_CHECK(lane_time(lane->index) - actor->spawned_ns >= world.runtime.steal_delay_ns);
    world.thefts++;
}

/* Between two steps of lanes. Whoever steals a strand begins it, which gives it its home, in one
 * step; one that has a home before it has begun came another way. What overflows goes to the
 * injector with older ones: then it is not known which of those that wait are there. */
static void
look_at_waiting(void)
{
    uint64_t overflowed = 0;
    for (uint32_t i = 0; i < world.runtime.lane_count; i++) {
        overflowed += pyl_counter_read(&world.runtime.lanes[i].stats.overflowed);
    }
    uint32_t count = 0;
    for (uint32_t i = 0; i < world.waiting_count; i++) {
        struct actor *actor = world.waiting[i];
        if (!actor->is_begun) {
            actor->is_placed |= actor->strand.home != NULL || overflowed != world.overflowed;
            world.waiting[count++] = actor;
        }
    }
    world.waiting_count = count;
    world.overflowed = overflowed;
}

static void
run_errand(struct pyl_job *job)
{
    struct errand *errand = PYL_CONTAINER_OF(job, struct errand, job);
    struct actor *actor = errand->actor;
    const struct pyl_lane *lane = pyl_lane_current();
    SIM_CHECK(errand->is_used && lane->current == &actor->strand);
    errand->is_used = false;
    if (!actor->is_begun) {
        check_theft(actor, lane);
        actor->is_begun = true;
        actor->lane = lane->index;
    }
    SIM_CHECK(actor->lane == lane->index && actor->strand.home == lane);
    SIM_CHECK(errand->order > actor->last_order[errand->poster]);
    actor->last_order[errand->poster] = errand->order;
    actor->run++;
    for (uint32_t count = roll(4); count > 0; count--) {
        act(actor);
    }
    bool wants_end = actor->is_stopping || roll(3) == 0;
    if (wants_end && actor->run == actor->posted) {
        actor->is_closing = true;
        pyl_strand_end(&actor->strand);
    }
}

/* ---- the lanes ---- */

/* Returns true if it slept until now and may go on. */
static bool
is_runnable(uint32_t index)
{
    struct sleeper *sleeper = &world.lanes[index];
    return !sleeper->is_asleep || sleeper->deadline_ns <= world.now_ns ||
           atomic_load(&world.runtime.lanes[index].worker.park) == PYL_WORKER_NOTIFIED;
}

/* Half a turn: the look, or the rest of it. */
static void
step_lane(uint32_t index)
{
    struct pyl_lane *lane = &world.runtime.lanes[index];
    struct sleeper *sleeper = &world.lanes[index];
    pyl_lane_set_current(lane);
    sync_clock(index);
    bool was_asleep = sleeper->is_asleep;
    sleeper->is_asleep = false;
    if (!was_asleep && pyl_lane_look(lane)) {
        const struct pyl_heap_entry *first = pyl_heap_first(&lane->worker.timers);
        sleeper->is_asleep = true;
        sleeper->deadline_ns = first != NULL ? first->deadline_ns : PYL_NEVER_NS;
    } else {
        SIM_CHECK(pyl_worker_turn(&lane->worker, false) == 0);
        pyl_lane_settle(lane);
        pyl_runtime_advance(&world.runtime, lane);
    }
    pyl_lane_set_current(NULL);
    sync_clock(index);
    look_at_waiting();
}

static void
step_outside(void)
{
    world.outside_left--;
    world.outside_ns = world.now_ns + roll(200000);
    if (world.outside_left == 0) {
        pyl_runtime_stop(&world.runtime);
    } else if (roll(3) > 0) {
        spawn_actor();
    } else {
        post_to_somebody();
    }
}

/* Everybody sleeps: time goes on to whatever comes next. Nothing coming is a lost wake-up. */
static void
skip_time(void)
{
    int64_t next_ns = world.outside_left > 0 ? world.outside_ns : PYL_NEVER_NS;
    for (uint32_t i = 0; i < world.runtime.lane_count; i++) {
        SIM_CHECK(pyl_lane_queue_count(&world.runtime.lanes[i].queue) == 0);
        next_ns = world.lanes[i].deadline_ns < next_ns ? world.lanes[i].deadline_ns : next_ns;
    }
    SIM_CHECK(pyl_injector_depth(&world.runtime.injector) == 0);
    SIM_CHECK(next_ns != PYL_NEVER_NS);
    world.now_ns = next_ns > world.now_ns ? next_ns : world.now_ns;
}

static void
step_world(void)
{
    uint32_t runnable[LANES_MAX];
    uint32_t count = 0;
    for (uint32_t i = 0; i < world.runtime.lane_count; i++) {
        if (is_runnable(i)) {
            runnable[count++] = i;
        }
    }
    bool is_outside_due = world.outside_left > 0 && world.outside_ns <= world.now_ns;
    if (is_outside_due && (count == 0 || roll(2) == 0)) {
        step_outside();
    } else if (count > 0) {
        step_lane(runnable[roll(count)]);
    } else if (roll(8) == 0 && world.runtime.lane_count > 0) {
        step_lane(roll(world.runtime.lane_count)); /* a wait may end without a cause */
    } else {
        skip_time();
    }
}

static void
run_seed(void)
{
    memset(&world, 0, sizeof(world));
    world.random_state = seed * UINT64_C(0x9E3779B97F4A7C15) + 1;
    struct pyl_runtime_options options = {
        .workers = 2 + roll(LANES_MAX - 1),
        .steal_delay_ns = roll(8) == 0 ? -1 : 0,
        .seed = seed,
        .reactor = {.backend = "sim", .events_max = 16},
    };
    world.outside_left = 1 + roll(OUTSIDE_MAX);
    SIM_CHECK(pyl_runtime_init(&world.runtime, &options, NULL, 0) == 0);
    for (uint32_t steps = 0; pyl_runtime_phase_of(&world.runtime) < PYL_RUNTIME_DRAINED; steps++) {
        SIM_CHECK(steps < STEPS_MAX);
        step_world();
    }
    SIM_CHECK(world.ended == world.actor_count);
    for (uint32_t i = 0; i < world.runtime.lane_count; i++) {
        struct pyl_lane *lane = &world.runtime.lanes[i];
        SIM_CHECK(lane->worker.timers.count == lane->watch.is_armed);
        SIM_CHECK(pyl_list_is_empty(&lane->strands));
    }
    for (uint32_t i = 0; i < world.actor_count; i++) {
        SIM_CHECK(world.actors[i]->has_ended);
        pyl_free(world.actors[i]);
    }
    pyl_runtime_fini(&world.runtime);
}

int
main(int argument_count, char **arguments)
{
    uint64_t first = argument_count > 1 ? strtoull(arguments[1], NULL, 10) : 1;
    uint64_t count = argument_count > 2 ? strtoull(arguments[2], NULL, 10) : 1;
    uint64_t actors = 0;
    uint64_t thefts = 0;
    for (seed = first; seed < first + count; seed++) {
        uint64_t blocks = pyl_alloc_live_blocks();
        run_seed();
        SIM_CHECK(pyl_alloc_live_blocks() == blocks);
        actors += world.actor_count;
        thefts += world.thefts;
    }
    printf("%llu seeds, %llu strands, %llu stolen\n", (unsigned long long)count,
           (unsigned long long)actors, (unsigned long long)thefts);
    return 0;
}
