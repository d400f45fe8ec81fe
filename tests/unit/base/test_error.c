/*
 * test_error.c - errno names.
 */
#include "base/error.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

/* Goal: every errno that this system names is either named the same or unknown to us. */
Test(error, names_agree_with_the_system)
{
    int known = 0;
    for (int error = 1; error < 200; error++) {
        const char *name = pyl_error_name(-error);
        cr_assert_eq(name, pyl_error_name(error));
        if (strcmp(name, "UNKNOWN") != 0) {
            cr_assert_str_eq(name, strerrorname_np(error));
            known++;
        }
    }
    cr_assert_gt(known, 75);
}

/* Goal: zero and nonsense are named, not dereferenced. */
Test(error, zero_and_unknown)
{
    cr_assert_str_eq(pyl_error_name(0), "OK");
    cr_assert_str_eq(pyl_error_name(-ECONNRESET), "ECONNRESET");
    cr_assert_str_eq(pyl_error_name(-99999), "UNKNOWN");
}
