/*
 * stress_steal.c - one owner pushes and pops, thieves steal from it and from each other. Every
 * entry comes out exactly once, and the owner gets its own in order. With tiny limits the ring has
 * 4 slots, so that it wraps, fills and runs dry all the time.
 */
#include "stress.h"

#include "sched/run_queue.h"

#include <pthread.h>
#include <sched.h>
#include <stdbool.h>

enum { ENTRIES = 200000, THIEVES = 3 };

static struct pyl_run_queue queues[THIEVES + 1]; /* 0: the owner's */
static _Atomic uint8_t seen[ENTRIES];
static _Atomic uint32_t seen_count;

static void
see(struct pyl_run_entry entry)
{
    /* The item is its number + 1; the time is written beside it and must belong to it. */
    uintptr_t number = (uintptr_t)entry.item - 1;
    STRESS_CHECK(number < ENTRIES && entry.since_ns == (int64_t)number);
    STRESS_CHECK(atomic_fetch_add(&seen[number], 1) == 0);
    atomic_fetch_add(&seen_count, 1);
}

static uint32_t
drain(struct pyl_run_queue *queue)
{
    struct pyl_run_entry entry;
    int64_t last = -1;
    uint32_t count = 0;
    while (pyl_run_queue_pop(queue, &entry)) {
        STRESS_CHECK(entry.since_ns > last);
        last = entry.since_ns;
        see(entry);
        count++;
    }
    return count;
}

static void *
run_thief(void *argument)
{
    struct pyl_run_queue *own = argument;
    uint32_t turn = 0;
    uint64_t stolen = 0;
    while (atomic_load(&seen_count) < ENTRIES) {
        struct pyl_run_queue *victim = &queues[turn++ % (THIEVES + 1)];
        uint32_t most = turn % 3 == 0 ? UINT32_MAX : (pyl_run_queue_count(victim) + 1) / 2;
        if (victim != own && pyl_run_queue_steal(victim, own, most, INT64_MAX) > 0) {
            if (turn % 4 == 0) {
                sched_yield(); /* leave it for the other thieves */
            }
            stolen += drain(own);
        } else if (turn % 64 == 0) {
            sched_yield();
        }
    }
    printf("thief: %llu\n", (unsigned long long)stolen);
    return NULL;
}

static void
run_owner(void)
{
    struct pyl_run_queue *own = &queues[0];
    uint64_t popped = 0;
    for (uintptr_t i = 0; i < ENTRIES; i++) {
        struct pyl_run_entry entry = {.item = (void *)(i + 1), .since_ns = (int64_t)i};
        while (!pyl_run_queue_push(own, entry)) {
            struct pyl_run_entry oldest;
            if (pyl_run_queue_pop(own, &oldest)) {
                see(oldest);
                popped++;
            } else {
                sched_yield(); /* all slots are a thief's */
            }
        }
        if (i % 7 == 0) {
            popped += drain(own);
        }
        if (i % 16 == 5) {
            sched_yield(); /* with something in the queue */
        }
    }
    popped += drain(own);
    printf("owner: %llu\n", (unsigned long long)popped);
    STRESS_CHECK(popped < ENTRIES);
}

int
main(void)
{
    pthread_t threads[THIEVES];
    for (int i = 0; i <= THIEVES; i++) {
        pyl_run_queue_init(&queues[i]);
    }
    for (int i = 0; i < THIEVES; i++) {
        STRESS_CHECK(pthread_create(&threads[i], NULL, run_thief, &queues[i + 1]) == 0);
    }
    run_owner();
    for (int i = 0; i < THIEVES; i++) {
        STRESS_CHECK(pthread_join(threads[i], NULL) == 0);
    }
    STRESS_CHECK(atomic_load(&seen_count) == ENTRIES);
    return 0;
}
