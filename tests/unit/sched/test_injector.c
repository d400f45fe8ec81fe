/*
 * test_injector.c - order, batches, admission.
 */
#include "sched/injector.h"

#include <criterion/criterion.h>

enum { JOBS = 5 };

static struct pyl_injector injector;
static struct pyl_job jobs[JOBS];

static void
open_injector(void)
{
    cr_assert_eq(pyl_injector_init(&injector), 0);
}

static void
close_injector(void)
{
    pyl_injector_fini(&injector);
}

TestSuite(injector, .init = open_injector, .fini = close_injector);

static void
push_jobs(int first, int end)
{
    struct pyl_job_queue chain = {0};
    for (int i = first; i < end; i++) {
        pyl_job_queue_push(&chain, &jobs[i]);
    }
    pyl_injector_push(&injector, &chain);
    cr_assert_eq(chain.count, 0);
}

/* Goal: chains keep their order, and a batch is the oldest ones. */
Test(injector, batches_in_order)
{
    push_jobs(0, 2);
    push_jobs(2, JOBS);
    cr_assert_eq(pyl_injector_depth(&injector), JOBS);
    struct pyl_job_queue taken = {0};
    cr_assert_eq(pyl_injector_take(&injector, 3, &taken), 3);
    cr_assert_eq(pyl_injector_depth(&injector), 2);
    cr_assert_eq(pyl_injector_take(&injector, 100, &taken), 2);
    for (int i = 0; i < JOBS; i++) {
        cr_assert_eq(pyl_job_queue_pop(&taken), &jobs[i]);
    }
    cr_assert_eq(pyl_injector_take(&injector, 1, &taken), 0);
}

/* Goal: what comes from outside is counted until the injector is closed, and refused after that. */
Test(injector, closed_injector_admits_nothing)
{
    cr_assert(pyl_injector_admit(&injector));
    cr_assert(pyl_injector_admit(&injector));
    pyl_injector_close(&injector);
    cr_assert(!pyl_injector_admit(&injector));
    cr_assert_eq(pyl_injector_admitted(&injector), 2);
}
