/*
 * test_idle.c - who may search, who is woken, who looks once more.
 */
#include "sched/idle.h"

#include <criterion/criterion.h>

enum { WORKERS = 4 };

static struct pyl_idle idle;
static uint32_t woken;

static void
open_idle(void)
{
    cr_assert_eq(pyl_idle_init(&idle, WORKERS), 0);
    woken = UINT32_MAX;
}

static void
close_idle(void)
{
    pyl_idle_fini(&idle);
}

TestSuite(idle, .init = open_idle, .fini = close_idle);

/* Goal: at most half of the workers search. */
Test(idle, half_may_search)
{
    cr_assert(pyl_idle_begin_search(&idle));
    cr_assert(pyl_idle_begin_search(&idle));
    cr_assert(!pyl_idle_begin_search(&idle));
    cr_assert(!pyl_idle_end_search(&idle));
    cr_assert(pyl_idle_begin_search(&idle));
    cr_assert(!pyl_idle_end_search(&idle));
    cr_assert(pyl_idle_end_search(&idle), "the last one is told");
}

/* Goal: a lone worker may search, too. */
Test(idle, one_of_one_may_search)
{
    struct pyl_idle lone;
    cr_assert_eq(pyl_idle_init(&lone, 1), 0);
    cr_assert(pyl_idle_begin_search(&lone));
    pyl_idle_fini(&lone);
}

/* Goal: only the last searcher looks once more before it sleeps. */
Test(idle, last_searcher_looks_once_more)
{
    cr_assert(pyl_idle_begin_search(&idle));
    cr_assert(pyl_idle_begin_search(&idle));
    cr_assert(!pyl_idle_enter(&idle, 0, true));
    cr_assert(!pyl_idle_enter(&idle, 1, false));
    cr_assert(pyl_idle_enter(&idle, 2, true));
}

/* Goal: a sleeper is claimed once, counts as searching, and nobody else is claimed meanwhile. */
Test(idle, sleeper_is_claimed_once)
{
    cr_assert(!pyl_idle_claim(&idle, true, &woken), "nobody sleeps");
    cr_assert(pyl_idle_enter(&idle, 1, false));
    cr_assert(pyl_idle_enter(&idle, 3, false));
    cr_assert(pyl_idle_claim(&idle, false, &woken));
    cr_assert_eq(woken, 1);
    cr_assert(!pyl_idle_claim(&idle, true, &woken), "one searches already");
    cr_assert(pyl_idle_leave(&idle, 1), "claimed");
    cr_assert(!pyl_idle_leave(&idle, 3), "not claimed");
    cr_assert(pyl_idle_end_search(&idle));
}

/* Goal: a watcher is woken for what is urgent, and for nothing else. */
Test(idle, watcher_is_woken_for_urgent_work)
{
    cr_assert(pyl_idle_begin_search(&idle));
    pyl_idle_watch(&idle, 2);
    cr_assert(pyl_idle_enter(&idle, 0, false) == false, "the watcher counts as searching");
    cr_assert(!pyl_idle_claim(&idle, false, &woken));
    cr_assert(pyl_idle_claim(&idle, true, &woken));
    cr_assert_eq(woken, 2);
    pyl_idle_unwatch(&idle, 2);
    cr_assert(!pyl_idle_claim(&idle, true, &woken));
}
