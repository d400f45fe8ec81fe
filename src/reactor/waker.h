/*
 * waker.h - ends a wait from another thread or a signal handler, with at most one system call per
 * wait.
 *
 * A latch in front of the signal: only the call that changes `is_pending` from 0 to 1 signals. The
 * owner clears the latch when its wait has seen the signal, after which it looks at everything
 * that wakers may have published. A wake between the signal and the clearing is not lost: that
 * wait is already on its way out.
 */
#ifndef PYL_REACTOR_WAKER_H
#define PYL_REACTOR_WAKER_H

#include "base/platform.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef void pyl_waker_signal_fn(int fd);

struct pyl_waker {
    _Atomic uint32_t is_pending; /* any thread sets (acq_rel), the owner clears (acq_rel) */
    int fd;                      /* constant after init; -1 when none */
    pyl_waker_signal_fn *signal; /* constant after init; async-signal-safe, keeps errno */
};

/* A waker that signals nothing until a backend gives it an fd. */
static inline void
pyl_waker_init(struct pyl_waker *waker)
{
    atomic_init(&waker->is_pending, 0);
    waker->fd = -1;
    waker->signal = NULL;
}

/* Linux: opens a non-blocking eventfd. It is watched edge-triggered and never read, which saves a
 * read(2) per wake-up; its counter would take 2^64 wake-ups to fill. 0 or -errno. */
PYL_NODISCARD int pyl_waker_open(struct pyl_waker *waker);

/* Closes the fd. Accepts a waker that was never opened. */
void pyl_waker_close(struct pyl_waker *waker);

/* Any thread, any signal handler. Publishes what the caller wrote before. */
static inline void
pyl_waker_wake(struct pyl_waker *waker)
{
    /* Release publishes the caller's writes, acquire pairs with the clear below: whoever finds
     * 1 here is ordered before the owner's next clear, which then sees those writes. */
    if (atomic_exchange_explicit(&waker->is_pending, 1, memory_order_acq_rel) == 0 &&
        waker->signal != NULL) {
        waker->signal(waker->fd);
    }
}

/* Owner, after its wait has seen the signal. Returns true if there was a wake. */
static inline bool
pyl_waker_clear(struct pyl_waker *waker)
{
    return atomic_exchange_explicit(&waker->is_pending, 0, memory_order_acq_rel) != 0;
}

#endif
