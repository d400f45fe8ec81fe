/*
 * stress_runtime.c - a runtime of four workers under everything at once: strands spawned by threads
 * outside and by strands, posts to strands of other workers, strands that take long, workers that
 * sleep whenever they can. Each job runs exactly once; no strand is ever on two workers (its plain
 * counter would be a data race, and go wrong); afterwards every strand has ended and been freed.
 */
#include "stress.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "sched/runtime.h"

#include <pthread.h>
#include <sched.h>
#include <stdbool.h>

enum { WORKERS = 4, SPAWNERS = 3, ROUNDS = 3, FAMILIES = 400, CHILDREN = 20, POSTS = 5 };

static struct pyl_runtime runtime;
static _Atomic uint64_t jobs_run;
static _Atomic int64_t alive;

/* A strand that expects `expected` jobs and then ends. */
struct member {
    struct pyl_strand strand;
    struct pyl_job first;
    struct pyl_job posts[POSTS];
    uint32_t runs; /* plain on purpose: only the strand touches it */
    uint32_t expected;
    struct member *parent; /* gets one post when this one ends; NULL: none */
    uint32_t parent_slot;
    struct pyl_job *parent_jobs;
};

static void
member_count(struct member *member)
{
    atomic_fetch_add_explicit(&jobs_run, 1, memory_order_relaxed);
    member->runs++;
    STRESS_CHECK(member->runs <= member->expected);
    if (member->runs == member->expected) {
        pyl_strand_end(&member->strand);
    }
}

static void
member_on_ended(struct pyl_strand *strand)
{
    struct member *member = PYL_CONTAINER_OF(strand, struct member, strand);
    if (member->parent != NULL) {
        pyl_strand_post(&member->parent->strand, &member->parent_jobs[member->parent_slot]);
    }
    pyl_free(member->parent == NULL ? member->parent_jobs : NULL);
    pyl_free(member);
    atomic_fetch_sub(&alive, 1);
}

static const struct pyl_strand_ops member_ops = {NULL, member_on_ended};

static struct member *
member_new(uint32_t expected, pyl_job_fn *first)
{
    struct member *member = pyl_alloc_zero(sizeof(*member));
    STRESS_CHECK(member != NULL);
    pyl_strand_init(&member->strand, &member_ops);
    member->expected = expected;
    member->first.run = first;
    atomic_fetch_add(&alive, 1);
    return member;
}

static void
run_post(struct pyl_job *job)
{
    /* The strand that runs is that of the job's owner: the lane says which. */
    member_count(PYL_CONTAINER_OF(pyl_lane_current()->current, struct member, strand));
}

static void
run_child(struct pyl_job *job)
{
    struct member *member = PYL_CONTAINER_OF(job, struct member, first);
    if (member->parent_slot % 8 == 0) { /* long enough to be stolen from */
        int64_t until_ns = pyl_clock_now_ns() + 50 * PYL_NS_PER_US;
        while (pyl_clock_now_ns() < until_ns) {
        }
    }
    for (int i = 0; i < POSTS; i++) {
        member->posts[i].run = run_post;
        pyl_strand_post(&member->strand, &member->posts[i]);
    }
    member_count(member);
}

/* Its children may run anywhere; each posts to it when it ends. */
static void
run_parent(struct pyl_job *job)
{
    struct member *parent = PYL_CONTAINER_OF(job, struct member, first);
    parent->parent_jobs = pyl_alloc_array(CHILDREN, sizeof(*parent->parent_jobs));
    STRESS_CHECK(parent->parent_jobs != NULL);
    for (uint32_t i = 0; i < CHILDREN; i++) {
        struct member *child = member_new(POSTS + 1, run_child);
        parent->parent_jobs[i] = (struct pyl_job){.run = run_post};
        child->parent = parent;
        child->parent_slot = i;
        child->parent_jobs = parent->parent_jobs;
        STRESS_CHECK(pyl_runtime_spawn(&runtime, &child->strand, &child->first) == 0);
    }
    member_count(parent);
}

static void *
run_spawner(void *argument)
{
    for (int i = 0; i < FAMILIES; i++) {
        struct member *parent = member_new(CHILDREN + 1, run_parent);
        STRESS_CHECK(pyl_runtime_spawn(&runtime, &parent->strand, &parent->first) == 0);
        if (i % 16 == 0) {
            while (atomic_load(&alive) > 0) { /* let the workers fall asleep */
                sched_yield();
            }
        }
    }
    return NULL;
}

static void
print_stats(void)
{
    for (uint32_t i = 0; i < WORKERS; i++) {
        struct pyl_lane *lane = &runtime.lanes[i];
        printf(
            "lane %u: %llu activations, %llu stolen, %llu injected, %llu overflowed, %llu parks, "
            "%llu wakes\n",
            i, (unsigned long long)pyl_counter_read(&lane->stats.activations),
            (unsigned long long)pyl_counter_read(&lane->stats.stolen),
            (unsigned long long)pyl_counter_read(&lane->stats.injected),
            (unsigned long long)pyl_counter_read(&lane->stats.overflowed),
            (unsigned long long)pyl_counter_read(&lane->worker.stats.parks),
            (unsigned long long)pyl_counter_read(&lane->worker.stats.wakes_written));
    }
}

static void
one_round(void)
{
    struct pyl_runtime_options options = {.workers = WORKERS, .steal_delay_ns = 20000};
    char cause[PYL_REACTOR_CAUSE_SIZE] = "";
    if (pyl_runtime_init(&runtime, &options, cause, sizeof(cause)) < 0) {
        fprintf(stderr, "SKIPPED: %s\n", cause);
        exit(77);
    }
    STRESS_CHECK(pyl_runtime_start(&runtime) == 0);
    pthread_t threads[SPAWNERS];
    atomic_store(&jobs_run, 0);
    for (int i = 0; i < SPAWNERS; i++) {
        STRESS_CHECK(pthread_create(&threads[i], NULL, run_spawner, NULL) == 0);
    }
    for (int i = 0; i < SPAWNERS; i++) {
        STRESS_CHECK(pthread_join(threads[i], NULL) == 0);
    }
    pyl_runtime_stop(&runtime); /* with work still on its way */
    STRESS_CHECK(pyl_runtime_join(&runtime) == 0);
    print_stats();
    uint64_t families = (uint64_t)SPAWNERS * FAMILIES;
    STRESS_CHECK(atomic_load(&jobs_run) == families * (1 + CHILDREN + CHILDREN * (POSTS + 1)));
    STRESS_CHECK(atomic_load(&alive) == 0);
    pyl_runtime_fini(&runtime);
}

int
main(void)
{
    for (int i = 0; i < ROUNDS; i++) {
        one_round();
    }
    return 0;
}
