/*
 * test_counter.c - sums, and the edges of the duration buckets.
 */
#include "base/counter.h"

#include <criterion/criterion.h>

/* Goal: a counter adds up. */
Test(counter, adds_up)
{
    _Atomic uint64_t counter = 0;
    pyl_counter_add(&counter, 3);
    pyl_counter_add(&counter, 4);
    cr_assert_eq(pyl_counter_read(&counter), 7);
}

/* Goal: each power of two begins a bucket; too short and too long have one each. */
Test(counter, bucket_edges)
{
    cr_assert_eq(pyl_duration_bucket(-5), 0);
    cr_assert_eq(pyl_duration_bucket(1023), 0);
    for (unsigned i = 1; i < PYL_DURATION_BUCKETS; i++) {
        int64_t begin_ns = INT64_C(1) << (i + 9);
        cr_assert_eq(pyl_duration_bucket(begin_ns), i);
        cr_assert_eq(pyl_duration_bucket(begin_ns - 1), i - 1);
    }
    cr_assert_eq(pyl_duration_bucket(INT64_MAX), PYL_DURATION_BUCKETS - 1);
}

/* Goal: a note counts in its bucket and in no other. */
Test(counter, note_counts_once)
{
    struct pyl_duration_histogram histogram = {0};
    pyl_duration_note(&histogram, 2048);
    for (unsigned i = 0; i < PYL_DURATION_BUCKETS; i++) {
        cr_assert_eq(pyl_counter_read(&histogram.buckets[i]), i == 2);
    }
    cr_assert_eq(pyl_counter_read(&histogram.sum_ns), 2048);
}

/* Goal: many of a kind count in one bucket and add up; a negative duration adds nothing. */
Test(counter, notes_add_up)
{
    struct pyl_duration_histogram histogram = {0};
    pyl_duration_note_many(&histogram, 5000, 3);
    pyl_duration_note(&histogram, -1);
    cr_assert_eq(pyl_counter_read(&histogram.buckets[3]), 3);
    cr_assert_eq(pyl_counter_read(&histogram.buckets[0]), 1);
    cr_assert_eq(pyl_counter_read(&histogram.sum_ns), 15000);
}
