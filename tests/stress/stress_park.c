/*
 * stress_park.c - posts against a worker that parks whenever it can.
 *
 * 1. A burst: 100,000 posts while the worker is kept from taking them cost at most one wake-up.
 * 2. A storm: four threads post as fast as they can; no post is lost (the worker would sleep for
 * ever, and the program would be killed by its time limit), and wake-ups are bounded by the sleeps.
 *    Once more with a worker that awaits posts: how many sleeps that saves depends on the machine.
 * 3. Ping-pong: each post is answered before the next, so that nearly every one meets a sleeper or
 *    the moment of falling asleep, where a lost wake-up would hide.
 */
#include "stress.h"

#include <pthread.h>
#include <sched.h>

enum { BURST = 100000, STORM_THREADS = 4, STORM = 25000, PING_PONGS = 20000 };

static struct pyl_worker worker;
static struct pyl_job jobs[BURST];
static int run_count;

static void
count_run(struct pyl_job *job)
{
    run_count++;
}

static uint64_t
written(void)
{
    return atomic_load(&worker.stats.wakes_written);
}

static uint64_t
parks(void)
{
    return atomic_load(&worker.stats.parks);
}

static void
turn_until(int count)
{
    while (run_count < count) {
        STRESS_CHECK(pyl_worker_turn(&worker, true) == 0);
    }
    STRESS_CHECK(run_count == count);
}

/* ---- burst ---- */

static _Atomic bool is_gate_open;

static void
hold_gate(struct pyl_job *job)
{
    while (!atomic_load(&is_gate_open)) {
        sched_yield();
    }
    run_count++;
}

static void *
post_burst(void *argument)
{
    struct pyl_job *gate = argument;
    pyl_worker_post_remote(&worker, gate);
    for (int i = 0; i < BURST; i++) {
        pyl_worker_post_remote(&worker, &jobs[i]);
    }
    atomic_store(&is_gate_open, true);
    return NULL;
}

static void
check_burst(void)
{
    struct pyl_job gate = {.run = hold_gate};
    pthread_t thread;
    uint64_t before = written();
    run_count = 0;
    STRESS_CHECK(pthread_create(&thread, NULL, post_burst, &gate) == 0);
    turn_until(BURST + 1);
    STRESS_CHECK(pthread_join(thread, NULL) == 0);
    uint64_t wakes = written() - before;
    printf("burst: %d posts, %llu wake-up writes\n", BURST, (unsigned long long)wakes);
    STRESS_CHECK(wakes <= 1);
}

/* ---- storm ---- */

static void *
post_storm(void *argument)
{
    struct pyl_job *own = argument;
    for (int i = 0; i < STORM; i++) {
        pyl_worker_post_remote(&worker, &own[i]);
    }
    return NULL;
}

static void
check_storm(bool awaits_posts)
{
    worker.hooks.awaits_posts = awaits_posts;
    pthread_t threads[STORM_THREADS];
    uint64_t writes_before = written();
    uint64_t parks_before = parks();
    run_count = 0;
    for (int i = 0; i < STORM_THREADS; i++) {
        struct pyl_job *own = &jobs[(size_t)i * STORM];
        STRESS_CHECK(pthread_create(&threads[i], NULL, post_storm, own) == 0);
    }
    turn_until(STORM_THREADS * STORM);
    for (int i = 0; i < STORM_THREADS; i++) {
        STRESS_CHECK(pthread_join(threads[i], NULL) == 0);
    }
    uint64_t writes = written() - writes_before;
    uint64_t sleeps = parks() - parks_before;
    printf("storm%s: %d posts of %d threads, %llu sleeps, %llu wake-up writes\n",
           awaits_posts ? ", awaiting posts" : "", STORM_THREADS * STORM, STORM_THREADS,
           (unsigned long long)sleeps, (unsigned long long)writes);
    STRESS_CHECK(writes <= sleeps);
}

/* ---- ping-pong ---- */

static _Atomic int answered;

static void
answer(struct pyl_job *job)
{
    run_count++;
    atomic_store(&answered, run_count);
}

static void *
post_one_by_one(void *argument)
{
    struct pyl_job *job = argument;
    for (int i = 0; i < PING_PONGS; i++) {
        pyl_worker_post_remote(&worker, job);
        while (atomic_load(&answered) <= i) {
            sched_yield();
        }
        for (int spin = 0; spin < i % 50; spin++) { /* meet the worker at different moments */
            (void)atomic_load(&answered);
        }
    }
    return NULL;
}

static void
check_ping_pong(void)
{
    struct pyl_job job = {.run = answer};
    pthread_t thread;
    uint64_t writes_before = written();
    uint64_t parks_before = parks();
    run_count = 0;
    STRESS_CHECK(pthread_create(&thread, NULL, post_one_by_one, &job) == 0);
    turn_until(PING_PONGS);
    STRESS_CHECK(pthread_join(thread, NULL) == 0);
    uint64_t writes = written() - writes_before;
    uint64_t sleeps = parks() - parks_before;
    printf("ping-pong: %d posts, %llu sleeps, %llu wake-up writes\n", PING_PONGS,
           (unsigned long long)sleeps, (unsigned long long)writes);
    STRESS_CHECK(writes <= sleeps);
}

int
main(void)
{
    for (int i = 0; i < BURST; i++) {
        jobs[i].run = count_run;
    }
    stress_open(&worker);
    check_burst();
    check_storm(false);
    check_storm(true);
    check_ping_pong();
    pyl_worker_fini(&worker);
    return 0;
}
