/*
 * test_uring_batch.c - what makes a crowd.
 */
#include "reactor/uring_batch.h"

#include <criterion/criterion.h>

static struct pyl_uring_batch batch = {.is_supported = true};

static void
note(uint32_t count, uint32_t gap)
{
    for (uint32_t i = 0; i < count; i++) {
        pyl_uring_batch_note(&batch, gap);
    }
}

/* Goal: a wait holds out after enough receives from connections that were quiet, once. */
Test(uring_batch, holds_out_once_after_a_crowd)
{
    note(PYL_URING_BATCH_RECEIVED, PYL_URING_BATCH_GAP);
    cr_assert(pyl_uring_batch_begin_sleep(&batch, -1));
    cr_assert_not(pyl_uring_batch_begin_sleep(&batch, -1));
    note(PYL_URING_BATCH_RECEIVED, UINT32_MAX);
    cr_assert(pyl_uring_batch_begin_sleep(&batch, PYL_URING_BATCH_TIMEOUT_MIN_NS));
}

/* Goal: too few, one who speaks often, a short wait, an old kernel: each is enough to say no. */
Test(uring_batch, does_not_hold_out)
{
    note(PYL_URING_BATCH_RECEIVED - 1, PYL_URING_BATCH_GAP);
    cr_assert_not(pyl_uring_batch_begin_sleep(&batch, -1));
    note(1, PYL_URING_BATCH_GAP - 1);
    note(100, PYL_URING_BATCH_GAP);
    cr_assert_not(pyl_uring_batch_begin_sleep(&batch, -1));
    note(100, PYL_URING_BATCH_GAP);
    note(1, PYL_URING_BATCH_GAP - 1);
    cr_assert_not(pyl_uring_batch_begin_sleep(&batch, -1));
    note(100, PYL_URING_BATCH_GAP);
    cr_assert_not(pyl_uring_batch_begin_sleep(&batch, PYL_URING_BATCH_TIMEOUT_MIN_NS - 1));
    note(100, PYL_URING_BATCH_GAP);
    batch.is_supported = false;
    cr_assert_not(pyl_uring_batch_begin_sleep(&batch, -1));
}
