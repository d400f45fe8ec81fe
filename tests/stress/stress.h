/*
 * stress.h - what the stress programs share: a check that ends the program, and a worker.
 */
#ifndef PYL_TESTS_STRESS_STRESS_H
#define PYL_TESTS_STRESS_STRESS_H

#include "sched/worker.h"

#include <stdio.h>
#include <stdlib.h>

#define STRESS_CHECK(condition)                                                     \
    do {                                                                            \
        if (!(condition)) {                                                         \
            fprintf(stderr, "FAILED: %s:%d: %s\n", __FILE__, __LINE__, #condition); \
            exit(1);                                                                \
        }                                                                           \
    } while (0)

static inline void
stress_open(struct pyl_worker *worker)
{
    char cause[PYL_REACTOR_CAUSE_SIZE] = "";
    if (pyl_worker_init(worker, NULL, NULL, cause, sizeof(cause)) < 0) {
        fprintf(stderr, "SKIPPED: %s\n", cause);
        exit(77);
    }
}

#endif
