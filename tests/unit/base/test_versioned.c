/*
 * test_versioned.c - structs of callers that are older or newer than the library.
 */
#include "base/versioned.h"

#include <criterion/criterion.h>

struct first {
    size_t size;
    int number;
};

/* Ours: the second version. */
struct second {
    size_t size;
    int number;
    int reserved; /* where the first one has padding */
    void *added;
};

struct third {
    struct second base;
    uint64_t later;
};

enum { FIRST_SIZE = sizeof(struct first), SIZE = sizeof(struct second) };

static struct second ours;

static int
read_struct(const void *given, size_t given_size)
{
    memset(&ours, 0xff, sizeof(ours));
    return pyl_versioned_read(&ours, SIZE, FIRST_SIZE, given, given_size);
}

/* Goal: what an older caller's struct lacks is zero. */
Test(versioned, older_struct_is_read)
{
    struct first given = {.size = sizeof(given), .number = 5};
    cr_assert_eq(read_struct(&given, sizeof(given)), 0);
    cr_assert_eq(ours.size, sizeof(given));
    cr_assert_eq(ours.number, 5);
    cr_assert_null(ours.added);
}

/* Goal: our own version is read as it is. */
Test(versioned, same_struct_is_read)
{
    struct second given = {.size = sizeof(given), .number = 5, .added = &given};
    cr_assert_eq(read_struct(&given, sizeof(given)), 0);
    cr_assert_eq(memcmp(&ours, &given, sizeof(given)), 0);
}

/* Goal: a newer caller's struct is taken as long as it asks for nothing that we do not know. */
Test(versioned, newer_struct_is_read_if_the_rest_is_zero)
{
    struct third given = {.base = {.number = 5, .added = &given}};
    cr_assert_eq(read_struct(&given, sizeof(given)), 0);
    cr_assert_eq(ours.number, 5);
    cr_assert_eq(ours.added, &given);
    given.later = UINT64_C(1) << 63;
    cr_assert_eq(read_struct(&given, sizeof(given)), -EINVAL);
}

/* Goal: a size that no version has is refused without looking at the memory behind. */
Test(versioned, wrong_sizes_are_refused)
{
    struct first given = {0};
    cr_assert_eq(read_struct(&given, FIRST_SIZE - 1), -EINVAL);
    cr_assert_eq(read_struct(&given, 0), -EINVAL);
    cr_assert_eq(read_struct(&given, SIZE_MAX), -EINVAL);
    cr_assert_eq(pyl_versioned_write(&given, FIRST_SIZE - 1, FIRST_SIZE, &ours, SIZE), -EINVAL);
    cr_assert_eq(pyl_versioned_write(&given, SIZE_MAX, FIRST_SIZE, &ours, SIZE), -EINVAL);
}

/* Goal: an older caller gets its part and nothing behind it; a newer one zeros at the end. */
Test(versioned, structs_are_written)
{
    ours = (struct second){.number = 7, .added = &ours};
    struct first older[2] = {{0}, {.number = 9}};
    cr_assert_eq(pyl_versioned_write(older, FIRST_SIZE, FIRST_SIZE, &ours, SIZE), 0);
    cr_assert_eq(older[0].number, 7);
    cr_assert_eq(older[1].number, 9);
    struct third newer = {.later = 3};
    cr_assert_eq(pyl_versioned_write(&newer, sizeof(newer), FIRST_SIZE, &ours, SIZE), 0);
    cr_assert_eq(newer.base.number, 7);
    cr_assert_eq(newer.base.added, &ours);
    cr_assert_eq(newer.later, 0);
}
