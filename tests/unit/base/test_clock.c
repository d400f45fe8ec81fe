/*
 * test_clock.c - the clock moves forward and its arithmetic saturates.
 */
#include "base/clock.h"

#include <criterion/criterion.h>
#include <time.h>

/* Goal: time never runs backwards and is the monotonic clock's. */
Test(clock, is_monotonic)
{
    struct timespec before;
    clock_gettime(CLOCK_MONOTONIC, &before);
    int64_t last = before.tv_sec * PYL_NS_PER_S + before.tv_nsec;
    for (int i = 0; i < 1000; i++) {
        int64_t now = pyl_clock_now_ns();
        cr_assert_geq(now, last);
        last = now;
    }
}

/* Goal: a far deadline saturates instead of wrapping into the past. */
Test(clock, after_saturates)
{
    cr_assert_eq(pyl_clock_after(5, 6), 11);
    cr_assert_eq(pyl_clock_after(5, -6), 5);
    cr_assert_eq(pyl_clock_after(PYL_NEVER_NS - 1, 2), PYL_NEVER_NS);
    cr_assert_eq(pyl_clock_after(1, PYL_NEVER_NS), PYL_NEVER_NS);
}
