/*
 * test_baton.c - one who waits for the lock, first come first served, and nobody waits for ever.
 */
#include "sched/baton.h"

#include "base/clock.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <sched.h>

enum { THREADS = 4, ROUNDS = 500 };

static struct pyl_baton baton;

static void
open_baton(void)
{
    cr_assert_eq(pyl_baton_init(&baton, 10 * PYL_NS_PER_S), 0);
}

static void
close_baton(void)
{
    pyl_baton_fini(&baton);
}

TestSuite(baton, .init = open_baton, .fini = close_baton);

/* It was free or passed on. */
static uint64_t
take(void)
{
    bool is_taken_over = true;
    uint64_t ticket = pyl_baton_take(&baton, &is_taken_over);
    cr_assert(!is_taken_over);
    return ticket;
}

static uint64_t
take_over(void)
{
    bool is_taken_over = false;
    uint64_t ticket = pyl_baton_take(&baton, &is_taken_over);
    cr_assert(is_taken_over);
    return ticket;
}

static void
await_waiters(uint32_t count)
{
    while (atomic_load(&baton.wanted) != count) {
        sched_yield();
    }
}

static void
start(pthread_t *thread, void *(*run)(void *), void *argument)
{
    cr_assert_eq(pthread_create(thread, NULL, run, argument), 0);
}

static void
join(pthread_t thread)
{
    cr_assert_eq(pthread_join(thread, NULL), 0);
}

/* Goal: it is free again after it was passed to nobody. */
Test(baton, take_and_pass)
{
    for (int i = 0; i < 3; i++) {
        uint64_t ticket = take();
        cr_assert(!pyl_baton_is_due(&baton, ticket));
        pyl_baton_note_attached(&baton);
        cr_assert(!pyl_baton_is_due(&baton, ticket));
        pyl_baton_pass(&baton, ticket);
    }
}

/* Goal: a holder that keeps the lock holds nobody up beyond the limit, and learns of it. */
Test(baton, is_taken_over)
{
    baton.wait_ns = PYL_NS_PER_MS;
    uint64_t first = take();
    pyl_baton_note_attached(&baton);
    int64_t start_ns = pyl_clock_now_ns();
    uint64_t second = take_over();
    cr_assert_geq(pyl_clock_now_ns() - start_ns, PYL_NS_PER_MS);
    cr_assert_neq(second, first);
    cr_assert_eq(atomic_load(&baton.wanted), 0, "who took it over does not stand in the line");
    cr_assert(pyl_baton_is_due(&baton, first), "it was taken over");
    cr_assert(!pyl_baton_is_due(&baton, second));
    pyl_baton_pass(&baton, second);
    pyl_baton_pass(&baton, take());
}

static int inside; /* guarded by the baton, if it is one */
static int rounds;

static void *
take_turns(void *unused)
{
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t ticket = take();
        cr_assert_eq(inside++, 0);
        rounds++;
        inside--;
        pyl_baton_note_attached(&baton);
        pyl_baton_pass(&baton, ticket);
    }
    return NULL;
}

/* Goal: never two holders, and no turn is lost. */
Test(baton, one_holder)
{
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        start(&threads[i], take_turns, NULL);
    }
    for (int i = 0; i < THREADS; i++) {
        join(threads[i]);
    }
    cr_assert_eq(rounds, THREADS * ROUNDS);
    cr_assert_eq(atomic_load(&baton.wanted), 0);
}

static void *
take_once(void *argument)
{
    bool is_taken_over;
    uint64_t ticket = pyl_baton_take(&baton, &is_taken_over);
    *(int *)argument = ++rounds;
    pyl_baton_note_attached(&baton);
    pyl_baton_pass(&baton, ticket);
    return NULL;
}

/* Two threads in the line, the one of places[0] first. */
static void
queue_two(pthread_t *threads, int *places)
{
    for (uint32_t i = 0; i < 2; i++) {
        start(&threads[i], take_once, &places[i]);
        await_waiters(i + 1);
    }
}

/* Goal: who waits longer goes first. */
Test(baton, first_come_first_served)
{
    int places[2] = {0};
    pthread_t threads[2];
    uint64_t ticket = take();
    pyl_baton_note_attached(&baton);
    queue_two(threads, places);
    cr_assert(pyl_baton_is_due(&baton, ticket), "somebody waits");
    pyl_baton_pass(&baton, ticket);
    join(threads[0]);
    join(threads[1]);
    cr_assert_eq(places[0], 1);
    cr_assert_eq(places[1], 2);
}

/* Goal: only the first takes it over, also where both have waited long enough; the others get it in
 * their turn. */
Test(baton, the_first_takes_it_over)
{
    baton.wait_ns = PYL_NS_PER_MS;
    for (int i = 0; i < 50; i++) {
        int places[2] = {0};
        pthread_t threads[2];
        rounds = 0;
        uint64_t ticket = take();
        queue_two(threads, places); /* nobody takes it over from who waits for the lock */
        pyl_baton_note_attached(&baton);
        join(threads[0]);
        join(threads[1]);
        cr_assert_eq(places[0], 1);
        cr_assert_eq(places[1], 2);
        cr_assert(pyl_baton_is_due(&baton, ticket));
        pyl_baton_pass(&baton, ticket);
    }
    pyl_baton_pass(&baton, take());
}

/* Goal: it is not taken over from a holder that waits for the lock, however long; the limit begins
 * when that one has it. */
Test(baton, waiting_for_the_lock_is_no_fault)
{
    int place = 0;
    pthread_t thread;
    baton.wait_ns = PYL_NS_PER_MS;
    uint64_t ticket = take();
    start(&thread, take_once, &place);
    await_waiters(1);
    int64_t end_ns = pyl_clock_now_ns() + 20 * baton.wait_ns;
    while (pyl_clock_now_ns() < end_ns) {
        cr_assert_eq(atomic_load(&baton.wanted), 1);
        sched_yield();
    }
    pyl_baton_note_attached(&baton);
    pyl_baton_pass(&baton, ticket);
    join(thread);
    cr_assert_eq(place, 1);
}

/* Goal: the pass of a holder that was taken over does nothing, with or without others waiting. */
Test(baton, a_late_pass_does_nothing)
{
    int place = 0;
    pthread_t thread;
    baton.wait_ns = PYL_NS_PER_MS;
    uint64_t late = take();
    pyl_baton_note_attached(&baton);
    uint64_t holder = take_over();
    pyl_baton_pass(&baton, late);
    cr_assert(!pyl_baton_is_due(&baton, holder), "it still has it");
    start(&thread, take_once, &place);
    await_waiters(1);
    pyl_baton_pass(&baton, late);
    pyl_baton_pass(&baton, late);
    cr_assert_eq(atomic_load(&baton.wanted), 1, "nobody was let in: the holder waits for the lock");
    pyl_baton_note_attached(&baton);
    pyl_baton_pass(&baton, holder);
    join(thread);
    cr_assert_eq(place, 1);
    pyl_baton_pass(&baton, late); /* of one that is free */
    pyl_baton_pass(&baton, take());
}
