/*
 * test_baton.c - one holder, first come first served, and nobody waits for ever.
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

/* Goal: it is free again after it was passed to nobody. */
Test(baton, take_and_pass)
{
    for (int i = 0; i < 3; i++) {
        cr_assert(pyl_baton_take(&baton));
        cr_assert(!pyl_baton_is_wanted(&baton));
        pyl_baton_pass(&baton);
    }
}

/* Goal: a holder that keeps it holds nobody up for longer than the limit. */
Test(baton, waiting_ends)
{
    baton.wait_ns = PYL_NS_PER_MS;
    cr_assert(pyl_baton_take(&baton));
    int64_t start_ns = pyl_clock_now_ns();
    cr_assert(!pyl_baton_take(&baton));
    cr_assert_geq(pyl_clock_now_ns() - start_ns, PYL_NS_PER_MS);
    cr_assert(!pyl_baton_is_wanted(&baton), "who gave up does not stand in the line");
    pyl_baton_pass(&baton);
    cr_assert(pyl_baton_take(&baton));
    pyl_baton_pass(&baton);
}

static int inside; /* guarded by the baton, if it is one */
static int rounds;

static void *
take_turns(void *unused)
{
    for (int i = 0; i < ROUNDS; i++) {
        cr_assert(pyl_baton_take(&baton));
        cr_assert_eq(inside++, 0);
        rounds++;
        inside--;
        pyl_baton_pass(&baton);
    }
    return NULL;
}

/* Goal: never two holders, and no turn is lost. */
Test(baton, one_holder)
{
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        cr_assert_eq(pthread_create(&threads[i], NULL, take_turns, NULL), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        cr_assert_eq(pthread_join(threads[i], NULL), 0);
    }
    cr_assert_eq(rounds, THREADS * ROUNDS);
    cr_assert(!pyl_baton_is_wanted(&baton));
}

static void *
take_once(void *argument)
{
    cr_assert(pyl_baton_take(&baton));
    *(int *)argument = ++rounds;
    pyl_baton_pass(&baton);
    return NULL;
}

/* Goal: who waits longer goes first. */
Test(baton, first_come_first_served)
{
    int places[2] = {0};
    pthread_t threads[2];
    cr_assert(pyl_baton_take(&baton));
    for (uint32_t i = 0; i < 2; i++) {
        cr_assert_eq(pthread_create(&threads[i], NULL, take_once, &places[i]), 0);
        while (atomic_load(&baton.wanted) != i + 1) {
            sched_yield();
        }
    }
    pyl_baton_pass(&baton);
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(pthread_join(threads[i], NULL), 0);
    }
    cr_assert_eq(places[0], 1);
    cr_assert_eq(places[1], 2);
}
