/*
 * worker_fixture.h - a worker on the backend that PYLOOP_BACKEND names (meson runs each suite once
 * per backend), and turning it until something has happened.
 */
#ifndef PYL_TESTS_SUPPORT_WORKER_FIXTURE_H
#define PYL_TESTS_SUPPORT_WORKER_FIXTURE_H

#include "base/clock.h"
#include "sched/worker.h"

#include <criterion/criterion.h>
#include <stdbool.h>
#include <stdio.h>

/* A test that waits longer than this has failed. */
#define FIXTURE_PATIENCE_NS (10 * PYL_NS_PER_S)

static inline void
fixture_open_with_hooks(struct pyl_worker *worker, const struct pyl_worker_hooks *hooks)
{
    char cause[PYL_REACTOR_CAUSE_SIZE] = "";
    int rc = pyl_worker_init(worker, NULL, hooks, cause, sizeof(cause));
    if (rc < 0) {
        fprintf(stderr, "SKIPPED: this backend is not available: %s\n", cause);
        cr_skip_test("%s", cause);
    }
}

static inline void
fixture_open(struct pyl_worker *worker)
{
    fixture_open_with_hooks(worker, NULL);
}

static void
fixture_run_alarm(struct pyl_job *job)
{
    cr_assert_fail("nothing happened for too long");
}

/* Turns until *flag is set. A timer ends the wait of a test that has failed. */
static inline void
fixture_turn_until(struct pyl_worker *worker, const bool *flag)
{
    struct pyl_timer alarm = {.job = {.run = fixture_run_alarm}};
    int64_t now_ns = pyl_reactor_now_ns(&worker->reactor);
    cr_assert_eq(pyl_timer_start(worker, &alarm, now_ns + FIXTURE_PATIENCE_NS), 0);
    while (!*flag) {
        cr_assert_eq(pyl_worker_turn(worker, true), 0);
    }
    pyl_timer_stop(worker, &alarm);
}

/* Turns without waiting: enough for whatever is already on its way inside this process. */
static inline void
fixture_turn_times(struct pyl_worker *worker, int count)
{
    for (int i = 0; i < count; i++) {
        cr_assert_eq(pyl_worker_turn(worker, false), 0);
    }
}

#endif
