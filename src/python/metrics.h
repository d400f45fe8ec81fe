/*
 * metrics.h - what a loop counts about itself, beside the counters of its worker and reactor.
 *
 * One wait in PYL_SAMPLE_TURNS is timed: two readings of the clock around it.
 */
#ifndef PYL_PYTHON_METRICS_H
#define PYL_PYTHON_METRICS_H

#include "python/compat.h"

#include <stdint.h>

#include "base/clock.h"
#include "base/counter.h"
#include "sched/worker.h"

struct pyl_loop;

/* Written by the loop's thread, read by any. */
struct pyl_loop_metrics {
    struct pyl_duration_histogram gil_waits; /* sampled: to attach after a wait */
    /* Parallel mode with a GIL: how often it took the baton over, see sched/baton.h. */
    _Atomic uint64_t baton_timeouts;
    _Atomic uint64_t requests_queued; /* HTTP requests that became strands */
};

/* Whether to time the attaching after this wait. */
static inline bool
pyl_metrics_is_sampled_wait(const struct pyl_worker *worker)
{
    uint64_t parks = pyl_counter_read(&worker->stats.parks);
    return (parks & (PYL_SAMPLE_TURNS - 1)) == 0;
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
