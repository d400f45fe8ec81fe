/*
 * loop_post.h - the wake-up of a sleeping loop by a thread that holds the GIL: with it or without.
 */
#ifndef PYL_PYTHON_LOOP_POST_H
#define PYL_PYTHON_LOOP_POST_H

#include "base/platform.h"

#include <pthread.h>
#include <stdint.h>

/* Part of struct pyl_loop. The counters are guarded by the GIL; builds without one use neither. */
struct pyl_loop_wakes {
    /* Held while a wake-up is written without the GIL; never while acquiring the GIL. Whoever is
     * about to close the worker takes it once. */
    pthread_mutex_t writing;
    uint32_t followers; /* posts of other threads that came after the last wake-up */
    uint8_t to_keep;    /* so many wake-ups keep the GIL */
    uint8_t given;      /* wake-ups without the GIL, modulo the size */
};

struct pyl_loop;

/* Also in the child of a fork, where whoever held the lock is gone. */
void pyl_loop_wakes_init(struct pyl_loop_wakes *wakes);
void pyl_loop_wakes_fini(struct pyl_loop_wakes *wakes);

/* Holding the GIL, after the loop was marked closed: afterwards nobody writes any more. */
void pyl_loop_wakes_settle(struct pyl_loop_wakes *wakes);

#endif
