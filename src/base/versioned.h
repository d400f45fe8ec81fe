/*
 * versioned.h - structs that grow from version to version at their end, between a caller and a
 * library that were compiled at different times.
 */
#ifndef PYL_BASE_VERSIONED_H
#define PYL_BASE_VERSIONED_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* A size above this is no struct of ours, and its memory is not looked at. */
enum { PYL_VERSIONED_SIZE_MAX = 4096 };

/* The size of a struct whose last member is `member`: of the first version, when others follow. */
#define PYL_SIZE_UP_TO(type, member) (offsetof(type, member) + sizeof(((type *)0)->member))

static inline bool
pyl_is_zero(const void *data, size_t size)
{
    const uint8_t *bytes = data;
    for (size_t i = 0; i < size; i++) {
        if (bytes[i] != 0) {
            return false;
        }
    }
    return true;
}

/*
 * Reads a struct of the caller's version into ours, of `size` bytes; what an older one lacks is
 * zero.
 *
 * Returns: 0; -EINVAL if it is smaller than the first version, or larger than ours with anything
 *          but zeros in what we do not know.
 */
static inline int
pyl_versioned_read(void *ret_ours, size_t size, size_t first_size, const void *given,
                   size_t given_size)
{
    size_t known = given_size < size ? given_size : size;
    if (given_size < first_size || given_size > PYL_VERSIONED_SIZE_MAX ||
        !pyl_is_zero((const uint8_t *)given + known, given_size - known)) {
        return -EINVAL;
    }
    memset(ret_ours, 0, size);
    memcpy(ret_ours, given, known);
    return 0;
}

/*
 * Writes ours into a struct of the caller's version: an older one gets its part, and in a newer one
 * what we do not know is zero.
 *
 * Returns: 0; -EINVAL if it is smaller than the first version.
 */
static inline int
pyl_versioned_write(void *ret_theirs, size_t their_size, size_t first_size, const void *ours,
                    size_t size)
{
    if (their_size < first_size || their_size > PYL_VERSIONED_SIZE_MAX) {
        return -EINVAL;
    }
    memset(ret_theirs, 0, their_size);
    memcpy(ret_theirs, ours, their_size < size ? their_size : size);
    return 0;
}

#endif
