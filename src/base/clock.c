/*
 * clock.c - reads the monotonic clock.
 */
#include "base/clock.h"

#include <time.h>

int64_t
pyl_clock_now_ns(void)
{
    struct timespec now;
    /* Cannot fail: the clock exists everywhere and the pointer is valid. */
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * PYL_NS_PER_S + now.tv_nsec;
}
