/*
 * loop_post.h - the wake-up of a sleeping loop by a thread that may run Python: with the GIL or
 * without, and where there is none, outside of the lock that guards the queues.
 */
#ifndef PYL_PYTHON_LOOP_POST_H
#define PYL_PYTHON_LOOP_POST_H

#include "base/platform.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* Part of struct pyl_loop. The counters are guarded by the GIL; builds without one do not use them.
 */
struct pyl_loop_wakes {
    /* Read-locked while a wake-up is written without the GIL, remote_lock and the port's lock: from
     * before they are given away until the write(2) has returned; never while acquiring them. So a
     * writer that loses its core holds up nobody. Whoever is about to close the worker takes it for
     * writing, once: nobody begins to write any more when the loop is marked closed, and its port.
     */
    pthread_rwlock_t writing;
    uint32_t followers; /* posts of other threads that came after the last wake-up */
    uint8_t to_keep;    /* so many wake-ups keep the GIL */
    uint8_t given;      /* wake-ups without the GIL, modulo the size */
};

struct pyl_loop;
struct pyl_job;

/* Also in the child of a fork, where whoever held the lock is gone. */
void pyl_loop_wakes_init(struct pyl_loop_wakes *wakes);
void pyl_loop_wakes_fini(struct pyl_loop_wakes *wakes);

/* Attached, after the loop was marked closed, and its port: afterwards nobody writes any more. */
void pyl_loop_wakes_settle(struct pyl_loop_wakes *wakes);

/* Under remote_lock with the loop open, or (queue) under its port's lock with that open. True: the
 * loop is asleep, and pyl_loop_signal() is due as soon as the lock is given back. */
PYL_NODISCARD bool pyl_loop_queue_remote(struct pyl_loop *loop, struct pyl_job *job);
PYL_NODISCARD bool pyl_loop_notify(struct pyl_loop *loop);
void pyl_loop_signal(struct pyl_loop *loop);

#endif
