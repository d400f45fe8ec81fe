/*
 * stress_spawn.c - callbacks of lanes, outside of any strand, spawn while the runtime is stopped
 * and joined. What was admitted runs and ends before the join returns; what was refused does not
 * run.
 */
#include "stress.h"

#include "base/alloc.h"
#include "sched/runtime.h"

#include <sched.h>

enum { WORKERS = 3, ROUNDS = 100 };

static _Atomic int64_t alive;
static _Atomic uint32_t admitted;
static _Atomic uint32_t refused;

struct late {
    struct pyl_strand strand;
    struct pyl_job job;
};

static void
run_late(struct pyl_job *job)
{
    pyl_strand_end(&PYL_CONTAINER_OF(job, struct late, job)->strand);
}

static void
on_ended(struct pyl_strand *strand)
{
    pyl_free(PYL_CONTAINER_OF(strand, struct late, strand));
    atomic_fetch_sub(&alive, 1);
}

static const struct pyl_strand_ops late_ops = {NULL, on_ended};

/* Between two turns, as a callback would inside one. The next turn does not block. */
static void
spawn_late(struct pyl_lane *lane, void *user)
{
    struct late *late = pyl_alloc_zero(sizeof(*late));
    STRESS_CHECK(late != NULL);
    pyl_strand_init(&late->strand, &late_ops);
    late->job.run = run_late;
    atomic_fetch_add(&alive, 1);
    if (pyl_runtime_spawn(lane->runtime, &late->strand, &late->job) == 0) {
        atomic_fetch_add(&admitted, 1);
    } else {
        on_ended(&late->strand);
        atomic_fetch_add(&refused, 1);
    }
}

int
main(void)
{
    for (uint32_t i = 0; i < ROUNDS; i++) {
        struct pyl_runtime runtime;
        struct pyl_runtime_options options = {
            .workers = 1 + i % WORKERS,
            .embedder = {.after_turn = spawn_late},
        };
        char cause[PYL_REACTOR_CAUSE_SIZE] = "";
        if (pyl_runtime_init(&runtime, &options, cause, sizeof(cause)) < 0) {
            fprintf(stderr, "SKIPPED: %s\n", cause);
            return 77;
        }
        STRESS_CHECK(pyl_runtime_start(&runtime) == 0);
        for (uint32_t j = 0; j < runtime.lane_count; j++) {
            pyl_worker_wake(&runtime.lanes[j].worker);
        }
        for (uint32_t spin = 0; spin < i % 5; spin++) {
            sched_yield();
        }
        pyl_runtime_stop(&runtime);
        STRESS_CHECK(pyl_runtime_join(&runtime) == 0);
        pyl_runtime_fini(&runtime);
        STRESS_CHECK(atomic_load(&alive) == 0);
    }
    printf("%d runtimes, %u strands admitted, %u refused\n", ROUNDS, atomic_load(&admitted),
           atomic_load(&refused));
    return 0;
}
