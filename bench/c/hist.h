/*
 * hist.h - a fixed-size latency histogram: 64 linear steps per power of two (error below 1.6 %).
 *
 * No allocation, one add is a shift and an increment. Single thread.
 */
#ifndef BENCH_HIST_H
#define BENCH_HIST_H

#include <stdint.h>
#include <string.h>

#define HIST_SUB_BITS 6
#define HIST_SUB_COUNT (1u << HIST_SUB_BITS)
#define HIST_BUCKET_COUNT (64u * HIST_SUB_COUNT)

struct hist {
    uint64_t count;
    uint64_t max;
    uint64_t buckets[HIST_BUCKET_COUNT];
};

static inline void
hist_reset(struct hist *hist)
{
    memset(hist, 0, sizeof(*hist));
}

static inline uint32_t
hist_index(uint64_t value)
{
    if (value < HIST_SUB_COUNT) {
        return (uint32_t)value;
    }
    uint32_t shift = 63u - (uint32_t)__builtin_clzll(value) - HIST_SUB_BITS;
    return (shift + 1) * HIST_SUB_COUNT + (uint32_t)((value >> shift) - HIST_SUB_COUNT);
}

/* The middle of the bucket, so that the error is symmetric. */
static inline uint64_t
hist_value(uint32_t index)
{
    if (index < HIST_SUB_COUNT) {
        return index;
    }
    uint32_t shift = index / HIST_SUB_COUNT - 1;
    uint64_t low = (uint64_t)(index % HIST_SUB_COUNT + HIST_SUB_COUNT) << shift;
    return low + ((1ull << shift) >> 1);
}

static inline void
hist_add(struct hist *hist, uint64_t value)
{
    hist->count++;
    hist->buckets[hist_index(value)]++;
    if (value > hist->max) {
        hist->max = value;
    }
}

/* The smallest recorded value that at least `fraction` of all values do not exceed. */
static inline uint64_t
hist_percentile(const struct hist *hist, double fraction)
{
    uint64_t wanted = (uint64_t)(fraction * (double)hist->count + 0.5);
    if (wanted == 0) {
        wanted = 1;
    }
    uint64_t seen = 0;
    for (uint32_t i = 0; i < HIST_BUCKET_COUNT; i++) {
        seen += hist->buckets[i];
        if (seen >= wanted) {
            uint64_t value = hist_value(i);
            return value < hist->max ? value : hist->max;
        }
    }
    return hist->max;
}

#endif
