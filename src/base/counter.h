/*
 * counter.h - statistics that one thread writes and any thread may read: no read-modify-write, so a
 * count costs what a plain addition costs.
 */
#ifndef PYL_BASE_COUNTER_H
#define PYL_BASE_COUNTER_H

#include <stdatomic.h>
#include <stdint.h>

/* The one writer adds; relaxed, because a counter orders nothing. */
static inline void
pyl_counter_add(_Atomic uint64_t *counter, uint64_t amount)
{
    uint64_t value = atomic_load_explicit(counter, memory_order_relaxed);
    atomic_store_explicit(counter, value + amount, memory_order_relaxed);
}

/* Any thread. */
static inline uint64_t
pyl_counter_read(const _Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

/* Durations by powers of two: bucket 0 holds what is below 1.024 us, bucket i what is in
 * [2^(i+9), 2^(i+10)) ns, the last one everything longer. */
enum { PYL_DURATION_BUCKETS = 24 };

struct pyl_duration_histogram {
    _Atomic uint64_t buckets[PYL_DURATION_BUCKETS];
    _Atomic uint64_t sum_ns;
};

/* The bucket of a duration; a negative one counts as 0. */
static inline unsigned
pyl_duration_bucket(int64_t duration_ns)
{
    uint64_t units = duration_ns > 0 ? (uint64_t)duration_ns >> 10 : 0;
    unsigned bucket = units == 0 ? 0 : 64 - (unsigned)__builtin_clzll(units);
    return bucket < PYL_DURATION_BUCKETS ? bucket : PYL_DURATION_BUCKETS - 1;
}

/* `count` things that took duration_ns each; the one writer only. */
static inline void
pyl_duration_note_many(struct pyl_duration_histogram *histogram, int64_t duration_ns,
                       uint64_t count)
{
    pyl_counter_add(&histogram->buckets[pyl_duration_bucket(duration_ns)], count);
    pyl_counter_add(&histogram->sum_ns, duration_ns > 0 ? (uint64_t)duration_ns * count : 0);
}

/* The one writer only. */
static inline void
pyl_duration_note(struct pyl_duration_histogram *histogram, int64_t duration_ns)
{
    pyl_duration_note_many(histogram, duration_ns, 1);
}

#endif
