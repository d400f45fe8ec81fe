/*
 * clock.h - monotonic time in nanoseconds, and arithmetic on it that saturates.
 */
#ifndef PYL_BASE_CLOCK_H
#define PYL_BASE_CLOCK_H

#include "base/platform.h"

#include <stdint.h>

#define PYL_NS_PER_US INT64_C(1000)
#define PYL_NS_PER_MS INT64_C(1000000)
#define PYL_NS_PER_S INT64_C(1000000000)

/* A deadline that never comes. */
#define PYL_NEVER_NS INT64_MAX

/* CLOCK_MONOTONIC; the clock of time.monotonic() in Python. Any thread. */
int64_t pyl_clock_now_ns(void);

/* start_ns + delay_ns, at most PYL_NEVER_NS. A negative delay counts as 0. */
static inline int64_t
pyl_clock_after(int64_t start_ns, int64_t delay_ns)
{
    if (delay_ns <= 0) {
        return start_ns;
    }
    return start_ns > PYL_NEVER_NS - delay_ns ? PYL_NEVER_NS : start_ns + delay_ns;
}

#endif
