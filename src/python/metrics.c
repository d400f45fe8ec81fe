/*
 * metrics.c - a loop's counters as Python objects.
 */
#include "python/metrics.h"

#include "python/loop.h"
#include "python/views.h"

/* Callbacks of descriptors and operations are events, all others jobs. */
static uint64_t
callbacks_run(struct pyl_worker *worker)
{
    return pyl_counter_read(&worker->stats.jobs) + pyl_counter_read(&worker->reactor.stats.events);
}

/* dict[name] = value; steals the value, which may be NULL. 0 or -1. */
static int
put(PyObject *dict, const char *name, PyObject *value)
{
    int status = value == NULL ? -1 : PyDict_SetItemString(dict, name, value);
    Py_XDECREF(value);
    return status;
}

struct counter_row {
    const char *name;
    const _Atomic uint64_t *counter;
};

static int
put_counters(PyObject *dict, const struct counter_row *rows, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        PyObject *value = PyLong_FromUnsignedLongLong(pyl_counter_read(rows[i].counter));
        if (put(dict, rows[i].name, value) < 0) {
            return -1;
        }
    }
    return 0;
}

/* A wait gives the GIL (or the thread state) away and takes it back, unless the worker lingered. */
static PyObject *
gil_acquisitions(const struct pyl_worker *worker)
{
    uint64_t lingered =
        pyl_counter_read(&worker->stats.lingered); /* first: never more than parks */
    return PyLong_FromUnsignedLongLong(pyl_counter_read(&worker->stats.parks) - lingered);
}

/* dict[name] = a tuple of counts, see base/counter.h, dict[name_ns] = the sum. 0 or -1. */
static int
put_histogram(PyObject *dict, const char *name, const struct pyl_duration_histogram *source)
{
    PyObject *tuple = PyTuple_New(PYL_DURATION_BUCKETS);
    for (Py_ssize_t i = 0; tuple != NULL && i < PYL_DURATION_BUCKETS; i++) {
        PyObject *value = PyLong_FromUnsignedLongLong(pyl_counter_read(&source->buckets[i]));
        if (value == NULL) {
            Py_CLEAR(tuple);
            break;
        }
        PyTuple_SET_ITEM(tuple, i, value);
    }
    if (put(dict, name, tuple) < 0) {
        return -1;
    }
    char sum_name[64];
    snprintf(sum_name, sizeof(sum_name), "%s_ns", name);
    return put(dict, sum_name, PyLong_FromUnsignedLongLong(pyl_counter_read(&source->sum_ns)));
}

static int
put_worker(PyObject *dict, struct pyl_loop *loop)
{
    struct pyl_worker *worker = loop->worker;
    const struct counter_row rows[] = {
        {"turns", &worker->stats.turns},
        {"callbacks", &worker->stats.jobs},
        {"parks", &worker->stats.parks},
        {"lingered", &worker->stats.lingered},
        {"wakes_written", &worker->stats.wakes_written},
        {"wakes_suppressed", &worker->stats.wakes_suppressed},
        {"waits", &worker->reactor.stats.waits},
        {"events", &worker->reactor.stats.events},
        {"submissions", &worker->reactor.stats.submissions},
        {"enters", &worker->reactor.stats.enters},
        {"rearms", &worker->reactor.stats.rearms},
        {"starvations", &worker->reactor.stats.starvations},
        {"holdouts", &worker->reactor.stats.holdouts},
    };
    if (put_counters(dict, rows, sizeof(rows) / sizeof(rows[0])) < 0) {
        return -1;
    }
    return put(dict, "gil_acquisitions", gil_acquisitions(worker)) < 0 ||
                   put_histogram(dict, "turn_durations", &worker->sample.turns) < 0 ||
                   put_histogram(dict, "callback_durations", &worker->sample.callbacks) < 0 ||
                   put_histogram(dict, "ready_delays", &worker->sample.delays) < 0 ||
                   put_histogram(dict, "gil_waits", &loop->metrics.gil_waits) < 0
               ? -1
               : 0;
}

/* What only parallel mode has. */
static int
put_lane(PyObject *dict, struct pyl_loop *loop)
{
    struct pyl_runtime *runtime = &loop->views->runtime;
    struct pyl_lane *lane = PYL_CONTAINER_OF(loop->worker, struct pyl_lane, worker);
    const struct counter_row rows[] = {
        {"strands_spawned", &lane->stats.spawned},
        {"strands_ended", &lane->stats.ended},
        {"searches", &lane->stats.searches},
        {"steals", &lane->stats.steals},
        {"strands_stolen", &lane->stats.stolen},
        {"strands_injected", &lane->stats.injected},
        {"strands_handed_over", &lane->stats.handed_over},
        {"strands_overflowed", &lane->stats.overflowed},
        {"turns_cut", &loop->worker->stats.turns_cut},
        {"baton_timeouts", &loop->metrics.baton_timeouts},
        {"requests_queued", &loop->metrics.requests_queued},
    };
    if (put_counters(dict, rows, sizeof(rows) / sizeof(rows[0])) < 0) {
        return -1;
    }
    uint32_t depth = atomic_load_explicit(&runtime->injector.depth, memory_order_relaxed);
    return put(dict, "injector_depth", PyLong_FromUnsignedLong(depth)) < 0 ||
                   put_histogram(dict, "queue_delays", &lane->stats.queue_delay) < 0
               ? -1
               : 0;
}

PyObject *
pyl_loop_py_progress(PyObject *self, PyObject *unused)
{
    struct pyl_loop *loop = (struct pyl_loop *)(void *)self;
    if (pyl_loop_check_usable(loop) < 0) {
        return NULL;
    }
    struct pyl_worker *worker = loop->worker;
    if (atomic_load_explicit(&worker->busy_since_ns, memory_order_relaxed) == INT64_MAX) {
        Py_RETURN_NONE;
    }
    uint64_t progress = pyl_counter_read(&worker->stats.turns) + callbacks_run(worker);
    if (loop->views != NULL) {
        struct pyl_lane *lane = PYL_CONTAINER_OF(worker, struct pyl_lane, worker);
        progress += pyl_counter_read(&lane->stats.activations);
    }
    return PyLong_FromUnsignedLongLong(progress);
}

PyObject *
pyl_loop_py_metrics(PyObject *self, PyObject *unused)
{
    struct pyl_loop *loop = (struct pyl_loop *)(void *)self;
    if (pyl_loop_check_usable(loop) < 0) {
        return NULL;
    }
    PyObject *dict = PyDict_New();
    if (dict == NULL || put_worker(dict, loop) < 0 ||
        (loop->views != NULL && put_lane(dict, loop) < 0)) {
        Py_XDECREF(dict);
        return NULL;
    }
    return dict;
}
