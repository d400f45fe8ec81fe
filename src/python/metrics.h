/*
 * metrics.h - what a loop counts about itself, beside the counters of its worker and reactor.
 *
 * One turn in PYL_METRICS_SAMPLE is timed: that is one more reading of the clock a turn, and two
 * more around a wait, which cost an eighth of a reading each on average.
 */
#ifndef PYL_PYTHON_METRICS_H
#define PYL_PYTHON_METRICS_H

#include "python/compat.h"

#include <stdint.h>

#include "base/clock.h"
#include "base/counter.h"
#include "sched/worker.h"

struct pyl_loop;

enum { PYL_METRICS_SAMPLE = 8 }; /* a power of two */

/* Written by the loop's thread, read by any. */
struct pyl_loop_metrics {
    struct pyl_duration_histogram turns;     /* sampled: from the end of the wait to the next */
    struct pyl_duration_histogram callbacks; /* sampled: each counts with its turn's mean */
    struct pyl_duration_histogram gil_waits; /* sampled: to attach after a wait */
    uint64_t run_before;                     /* owner: callbacks run before the sampled turn */
    /* Parallel mode with a GIL: how often it took the baton over, see sched/baton.h. */
    _Atomic uint64_t baton_timeouts;
};

/* Out of line: of a sampled turn and the one before it. */
void pyl_metrics_note_turn(struct pyl_loop_metrics *metrics, struct pyl_worker *worker,
                           uint64_t turns);

/* After every turn; worker->now_ns is still that turn's. */
static inline void
pyl_metrics_turn(struct pyl_loop_metrics *metrics, struct pyl_worker *worker)
{
    uint64_t turns = pyl_counter_read(&worker->stats.turns);
    if (((turns + 1) & (PYL_METRICS_SAMPLE - 1)) <= 1) {
        pyl_metrics_note_turn(metrics, worker, turns);
    }
}

/* Whether to time the attaching after this wait. */
static inline bool
pyl_metrics_is_sampled_wait(const struct pyl_worker *worker)
{
    uint64_t parks = pyl_counter_read(&worker->stats.parks);
    return (parks & (PYL_METRICS_SAMPLE - 1)) == 0;
}

/* Before attaching after a wait; to be handed to the other. */
static inline int64_t
pyl_metrics_gil_begin(const struct pyl_worker *worker)
{
    return pyl_metrics_is_sampled_wait(worker) ? pyl_clock_now_ns() : 0;
}

static inline void
pyl_metrics_gil_end(struct pyl_loop_metrics *metrics, int64_t started_ns)
{
    if (started_ns != 0) {
        pyl_duration_note(&metrics->gil_waits, pyl_clock_now_ns() - started_ns);
    }
}

/* _progress(): None while the worker waits, else a number that grows with each callback.
 * Any thread. */
PyObject *pyl_loop_py_progress(PyObject *loop, PyObject *unused);

/* _metrics(): a dict of the worker's counters. Any thread. */
PyObject *pyl_loop_py_metrics(PyObject *loop, PyObject *unused);

#endif
