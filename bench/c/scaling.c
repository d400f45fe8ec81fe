/*
 * scaling.c - how the scheduler's throughput grows from 1 to 64 workers, by simulation: the real
 * scheduler on backend sim, in one thread. Each lane has a clock of its own; the lane whose clock
 * is furthest behind does the next turn, and pays for what its counters say it did.
 *
 *   bench_scaling [HANDLER_NS ...]     default: 3000 20000 100000
 *
 * What a strand and a step cost is measured at the start. What one thread cannot measure is assumed
 * in favour of nobody: the constants below. A turn is one step of the simulation, so what a lane
 * does reaches the others up to 50 us late: the curves are lower than life.
 *
 * Loads: `stay`: strands that live long and are always ready, 16 for each worker, each placed on
 * the lighter of two as connections are; `spread`: one strand spawns all others, each of one step;
 * `tree`: each strand spawns two until there are enough.
 */
#include "base/alloc.h"
#include "base/clock.h"
#include "reactor/sim.h"
#include "sched/runtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    LANES_MAX = 64,
    VISIT_NS = 60,       /* a line that another core wrote last */
    MOVE_NS = 2 * 60,    /* a stolen strand: its entry and its own line */
    SEND_NS = 2 * 60,    /* a strand or job for another lane: inbox and park word */
    WRITE_NS = 1200,     /* a wake-up: write(2) to an eventfd */
    LATENCY_NS = 20000,  /* until who sleeps in the kernel runs */
    TURN_NS = 600,       /* one look at a real reactor: epoll_wait(2) that waits for nothing */
    STAY_STRANDS = 16,   /* for each lane */
    STAY_STEPS = 200,    /* of each */
    OTHERS = 1500,       /* strands for each lane: spread, tree */
    SPREAD_AT_ONCE = 16, /* spawned by one step */
    MEASURED = 200000,
};

enum load { STAY, SPREAD, TREE, LOADS };

struct actor {
    struct pyl_strand strand;
    struct pyl_job job;
    uint32_t steps_left;
    bool is_producer;
};

struct lane_state {
    bool is_asleep;
    int64_t wakes_ns; /* when it runs again; PYL_NEVER_NS until somebody wakes it */
    uint64_t activations, spawned, searches, stolen, sent;
};

/* tidy: global because one run is one process-wide world, and jobs carry no user pointer. */
static struct {
    struct pyl_runtime runtime;
    struct lane_state lanes[LANES_MAX];
    struct actor *actors;
    uint32_t actor_count, spawned, ended;
    enum load load;
    int64_t handler_ns;
    int64_t spawn_ns; /* measured, as the next one */
    int64_t run_ns;   /* an activation with a strand's begin and end, though not all have those */
} world;

static int64_t
lane_time(uint32_t index)
{
    return pyl_reactor_now_ns(&world.runtime.lanes[index].worker.reactor);
}

static void
pass(uint32_t index, int64_t duration_ns)
{
    pyl_sim_advance(&world.runtime.lanes[index].worker.reactor, duration_ns);
}

/* ---- what is run ---- */

static void
on_ended(struct pyl_strand *strand)
{
    world.ended++;
}

static const struct pyl_strand_ops ops = {NULL, on_ended};

static void run_step(struct pyl_job *job);

static bool
spawn(uint32_t steps, bool is_producer)
{
    if (world.spawned == world.actor_count) {
        return false;
    }
    struct actor *actor = &world.actors[world.spawned++];
    *actor =
        (struct actor){.job = {.run = run_step}, .steps_left = steps, .is_producer = is_producer};
    pyl_strand_init(&actor->strand, &ops);
    struct pyl_runtime *runtime = &world.runtime;
    int rc = pyl_lane_current() != NULL
                 ? pyl_runtime_spawn(runtime, &actor->strand, &actor->job)
                 : pyl_runtime_spawn_on(runtime, pyl_runtime_lighter(runtime, world.spawned),
                                        &actor->strand, &actor->job);
    if (rc < 0) {
        abort(); /* nothing stops it */
    }
    return true;
}

static void
run_step(struct pyl_job *job)
{
    struct actor *actor = PYL_CONTAINER_OF(job, struct actor, job);
    if (actor->is_producer) {
        bool has_more = true;
        for (uint32_t i = 0; i < SPREAD_AT_ONCE && has_more; i++) {
            has_more = spawn(1, false);
        }
        if (has_more) {
            pyl_strand_post(&actor->strand, job);
            return;
        }
    } else {
        pass(pyl_lane_current()->index, world.handler_ns);
        if (world.load == TREE) {
            (void)(spawn(1, false) && spawn(1, false));
        }
        if (--actor->steps_left > 0) {
            pyl_strand_post(&actor->strand, job);
            return;
        }
    }
    pyl_strand_end(&actor->strand);
}

/* ---- the lanes ---- */

static uint64_t
grown(uint64_t *seen, const _Atomic uint64_t *counter)
{
    uint64_t before = *seen;
    *seen = pyl_counter_read(counter);
    return *seen - before;
}

/* The lane's clock goes on by what its last turn cost. */
static void
pay(uint32_t index)
{
    struct lane_state *state = &world.lanes[index];
    struct pyl_lane *lane = &world.runtime.lanes[index];
    int64_t cost_ns = TURN_NS;
    cost_ns += (int64_t)grown(&state->activations, &lane->stats.activations) * world.run_ns;
    cost_ns += (int64_t)grown(&state->spawned, &lane->stats.spawned) * world.spawn_ns;
    cost_ns += (int64_t)grown(&state->searches, &lane->stats.searches) *
               (world.runtime.lane_count - 1) * VISIT_NS;
    cost_ns += (int64_t)grown(&state->stolen, &lane->stats.stolen) * MOVE_NS;
    cost_ns += (int64_t)grown(&state->sent, &lane->stats.handed_over) * SEND_NS;
    pass(index, cost_ns);
}

/* Sleepers that the lane has woken in its turn. */
static void
wake_sleepers(uint32_t waker)
{
    for (uint32_t i = 0; i < world.runtime.lane_count; i++) {
        struct lane_state *state = &world.lanes[i];
        struct pyl_worker *worker = &world.runtime.lanes[i].worker;
        if (state->is_asleep && atomic_load(&worker->park) == PYL_WORKER_NOTIFIED) {
            pass(waker, WRITE_NS);
            int64_t wakes_ns = lane_time(waker) + LATENCY_NS;
            state->wakes_ns = wakes_ns < state->wakes_ns ? wakes_ns : state->wakes_ns;
            state->is_asleep = false;
        }
    }
}

/* As pyl_worker_turn() parks, but the wait is the simulation's. */
static void
fall_asleep(struct pyl_lane *lane, struct lane_state *state)
{
    uint32_t expected = PYL_WORKER_RUNNING;
    if (atomic_compare_exchange_strong(&lane->worker.park, &expected, PYL_WORKER_SLEEPING)) {
        const struct pyl_heap_entry *first = pyl_heap_first(&lane->worker.timers);
        state->is_asleep = true;
        state->wakes_ns = first != NULL ? first->deadline_ns : PYL_NEVER_NS;
    }
}

/* Half a turn: the look, or the rest of it. */
static void
turn(uint32_t index)
{
    struct pyl_lane *lane = &world.runtime.lanes[index];
    struct lane_state *state = &world.lanes[index];
    bool was_asleep = state->wakes_ns != 0;
    if (state->wakes_ns > lane_time(index)) {
        pass(index, state->wakes_ns - lane_time(index));
    }
    state->wakes_ns = 0;
    state->is_asleep = false;
    pyl_lane_set_current(lane);
    if (!was_asleep && pyl_lane_look(lane)) {
        fall_asleep(lane, state);
    }
    if (!state->is_asleep) {
        atomic_store(&lane->worker.park, PYL_WORKER_RUNNING);
        if (pyl_worker_turn(&lane->worker, false) < 0) {
            abort();
        }
        pyl_lane_settle(lane);
    }
    pyl_lane_set_current(NULL);
    pay(index);
    wake_sleepers(index);
}

/* When the lane goes on: its clock, or when it wakes. */
static int64_t
next_time(uint32_t index)
{
    int64_t now_ns = lane_time(index);
    return world.lanes[index].wakes_ns > now_ns ? world.lanes[index].wakes_ns : now_ns;
}

/* Returns the time until the last strand has ended. */
static int64_t
simulate(enum load load, uint32_t lanes, int64_t handler_ns)
{
    struct pyl_runtime_options options = {
        .workers = lanes, .seed = 1, .reactor = {.backend = "sim", .events_max = 16}};
    if (pyl_runtime_init(&world.runtime, &options, NULL, 0) < 0) {
        abort();
    }
    memset(world.lanes, 0, sizeof(world.lanes));
    world.load = load;
    world.handler_ns = handler_ns;
    world.actor_count = load == STAY ? lanes * STAY_STRANDS : lanes * OTHERS;
    world.actors = pyl_alloc_zero(world.actor_count * sizeof(*world.actors));
    world.spawned = world.ended = 0;
    int64_t start_ns = lane_time(0);
    for (uint32_t i = 0; i < (load == STAY ? world.actor_count : 1); i++) {
        spawn(load == STAY ? STAY_STEPS : 1, load == SPREAD);
    }
    uint32_t index = 0;
    while (world.ended < world.actor_count) {
        index = 0;
        for (uint32_t i = 1; i < lanes; i++) {
            index = next_time(i) < next_time(index) ? i : index;
        }
        turn(index);
    }
    int64_t duration_ns = lane_time(index) - start_ns;
    pyl_runtime_stop(&world.runtime);
    pyl_runtime_fini(&world.runtime);
    pyl_free(world.actors);
    return duration_ns;
}

/* ---- main ---- */

/* What a strand of one empty step really takes, on one lane. */
static void
measure(void)
{
    struct pyl_runtime_options options = {
        .workers = 1, .seed = 1, .reactor = {.backend = "sim", .events_max = 16}};
    if (pyl_runtime_init(&world.runtime, &options, NULL, 0) < 0) {
        abort();
    }
    world.load = STAY;
    world.actor_count = MEASURED;
    world.actors = pyl_alloc_zero(MEASURED * sizeof(*world.actors));
    pyl_lane_set_current(&world.runtime.lanes[0]);
    int64_t spawn_ns = 0, run_ns = 0;
    while (world.ended < MEASURED) {
        int64_t start_ns = pyl_clock_now_ns();
        for (uint32_t i = 0; i < PYL_LANE_QUEUE_SLOTS / 2 && spawn(1, false); i++) {
        }
        int64_t spawned_ns = pyl_clock_now_ns();
        if (pyl_lane_turn(&world.runtime.lanes[0]) < 0) {
            abort();
        }
        spawn_ns += spawned_ns - start_ns;
        run_ns += pyl_clock_now_ns() - spawned_ns;
    }
    pyl_lane_set_current(NULL);
    pyl_runtime_stop(&world.runtime);
    pyl_runtime_fini(&world.runtime);
    pyl_free(world.actors);
    world.spawn_ns = spawn_ns / MEASURED;
    world.run_ns = run_ns / MEASURED;
}

static void
print_curve(int64_t handler_ns)
{
    static const char *const names[LOADS] = {"stay", "spread", "tree"};
    for (enum load load = STAY; load < LOADS; load++) {
        double one = 0;
        printf("%6s %8lld", names[load], (long long)handler_ns);
        for (uint32_t lanes = 1; lanes <= LANES_MAX; lanes *= 2) {
            double rate = (double)lanes / (double)simulate(load, lanes, handler_ns);
            one = lanes == 1 ? rate : one;
            printf(" %6.2f", rate / one);
        }
        printf("\n");
    }
}

int
main(int argument_count, char **arguments)
{
    measure();
    printf("measured: %lld ns to spawn a strand, %lld ns to run and end it\n",
           (long long)world.spawn_ns, (long long)world.run_ns);
    printf("%6s %8s", "load", "handler");
    for (uint32_t lanes = 1; lanes <= LANES_MAX; lanes *= 2) {
        printf(" %6u", lanes);
    }
    printf("\n");
    for (int i = 1; i < argument_count; i++) {
        print_curve(strtoll(arguments[i], NULL, 10));
    }
    if (argument_count == 1) {
        print_curve(3000);
        print_curve(20000);
        print_curve(100000);
    }
    return 0;
}
