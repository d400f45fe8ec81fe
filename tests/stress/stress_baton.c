/*
 * stress_baton.c - threads that take turns with a lock by way of the baton.
 *
 * 1. Short turns: nobody that comes by way of the baton meets another one before the lock, and
 *    nobody stays in the line (the program would be killed by its time limit).
 * 2. With turns in which the lock is given away: for longer than the others wait, and until another
 *    one has had a turn, so that the baton must be taken over. What was taken over is passed late.
 */
#include "sched/baton.h"

#include "stress.h"

#include <pthread.h>
#include <sched.h>

enum { THREADS = 4, TURNS = 20000, BLOCKING_TURNS = 3000, BLOCKING_PART = 7 };
enum { WAIT_NS = 50 * 1000 };

static struct pyl_baton baton;
static pthread_mutex_t gil = PTHREAD_MUTEX_INITIALIZER;
static int asking;          /* who waits for the GIL; guarded by the baton, if it is one */
static uint64_t turns;      /* guarded by the GIL */
static uint64_t taken_over; /* guarded by the GIL */
static _Atomic uint64_t ended[THREADS]; /* turns; written by the thread, read by any relaxed */
static _Atomic bool is_over;

static uint64_t
ended_by_others(int self)
{
    uint64_t sum = 0;
    for (int i = 0; i < THREADS; i++) {
        sum += i == self ? 0 : atomic_load_explicit(&ended[i], memory_order_relaxed);
    }
    return sum;
}

/* A callback that waits: the first thread for a turn of another one, the others for a time. */
static void
block(int self)
{
    (void)pthread_mutex_unlock(&gil);
    uint64_t before = ended_by_others(self);
    int64_t end_ns = pyl_clock_now_ns() + 2 * WAIT_NS;
    while (self == 0 ? ended_by_others(self) == before : pyl_clock_now_ns() < end_ns) {
        sched_yield();
    }
    (void)pthread_mutex_lock(&gil);
}

static void
take_turn(int self, bool is_blocking)
{
    bool is_taken_over;
    uint64_t ticket = pyl_baton_take(&baton, &is_taken_over);
    STRESS_CHECK(asking++ == 0);
    (void)pthread_mutex_lock(&gil);
    STRESS_CHECK(--asking == 0);
    pyl_baton_note_attached(&baton);
    turns++;
    taken_over += is_taken_over;
    if (is_blocking) {
        block(self);
    }
    (void)pthread_mutex_unlock(&gil);
    pyl_baton_pass(&baton, ticket);
    atomic_fetch_add_explicit(&ended[self], 1, memory_order_relaxed);
}

static void *
take_short_turns(void *argument)
{
    for (int i = 0; i < TURNS; i++) {
        take_turn((int)(intptr_t)argument, false);
    }
    return NULL;
}

/* Until the first thread, which needs turns of the others, has had its turns. */
static void *
take_blocking_turns(void *argument)
{
    int self = (int)(intptr_t)argument;
    for (int i = 0; self == 0 ? i < BLOCKING_TURNS : !atomic_load(&is_over); i++) {
        take_turn(self, i % (BLOCKING_PART + self) == 0);
    }
    if (self == 0) {
        atomic_store(&is_over, true);
    }
    return NULL;
}

static uint64_t
run(void *(*take_turns)(void *), int64_t wait_ns)
{
    pthread_t threads[THREADS];
    turns = taken_over = 0;
    uint64_t before = ended_by_others(-1);
    STRESS_CHECK(pyl_baton_init(&baton, wait_ns) == 0);
    for (int i = 0; i < THREADS; i++) {
        STRESS_CHECK(pthread_create(&threads[i], NULL, take_turns, (void *)(intptr_t)i) == 0);
    }
    for (int i = 0; i < THREADS; i++) {
        STRESS_CHECK(pthread_join(threads[i], NULL) == 0);
    }
    printf("%llu turns, %llu times taken over\n", (unsigned long long)turns,
           (unsigned long long)taken_over);
    STRESS_CHECK(turns == ended_by_others(-1) - before);
    STRESS_CHECK(!pyl_baton_is_wanted(&baton));
    pyl_baton_fini(&baton);
    return taken_over;
}

int
main(void)
{
    STRESS_CHECK(run(take_short_turns, 100 * PYL_NS_PER_S) == 0);
    (void)run(take_short_turns, WAIT_NS);
    STRESS_CHECK(run(take_blocking_turns, WAIT_NS) > 0);
    return 0;
}
