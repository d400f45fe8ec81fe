/*
 * check.h - assertions. PYL_CHECK stays in release builds and guards what would corrupt memory;
 * PYL_DCHECK is for debug builds (b_ndebug off) and may stand on hot paths.
 */
#ifndef PYL_BASE_CHECK_H
#define PYL_BASE_CHECK_H

#include "base/platform.h"

#include <stdio.h>
#include <stdlib.h>

#define PYL_CHECK(condition)                                                                      \
    do {                                                                                          \
        if (PYL_UNLIKELY(!(condition))) {                                                         \
            fprintf(stderr, "pyloop: %s:%d: check failed: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                              \
        }                                                                                         \
    } while (0)

/* The condition is compiled in every build, and evaluated in debug builds only. */
#define PYL_DCHECK(condition)     \
    do {                          \
        if (PYL_DEBUG) {          \
            PYL_CHECK(condition); \
        }                         \
    } while (0)

#define PYL_UNREACHABLE() PYL_CHECK(!"unreachable")

#endif
