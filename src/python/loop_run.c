/*
 * loop_run.c - run_forever's inner loop: turns, the GIL around waits, signals.
 *
 * The GIL is held for the whole of a turn and given away only around a wait that may block. A loop
 * that does not block looks at signals after every turn, and every GIL_SHARE_NS whether another
 * thread has asked for the GIL.
 */
#include "python/loop_internal.h"
#include "python/views.h"

#include <math.h>

enum {
    GIL_SHARE_NS = 1000 * 1000,
    GIL_SLOW_MIN_NS = 100 * 1000,  /* more than a thread takes that does not compute */
    GIL_LINGER_MIN_NS = 50 * 1000, /* less than a client needs to ask again would buy nothing */
    GIL_SLOW_PART = 5,             /* of the switch interval: 1 ms of 5 */
    GIL_LINGER_PART = 20,          /* what the other may lose of an interval: 250 us of 5 ms */
    GIL_INTERVAL_MAX_S = 60,       /* of longer ones we say the same */
    GIL_CONTESTED_WAITS = 16,      /* one wait that found the GIL free proves nothing */
};

/* Giving the GIL away beside a thread that computes costs a switch interval. Whoever was just
 * answered may ask again long before that; so wait a little with the GIL. */
static int64_t
linger(struct pyl_worker *worker, void *user)
{
    struct pyl_loop *loop = user;
    return loop->gil_contested > 0 ? loop->gil_linger_ns : 0;
}

/* The interval may be changed while the loop runs; that counts from the next run on. */
static int
choose_linger(struct pyl_loop *loop)
{
    PyObject *function = PySys_GetObject("getswitchinterval"); /* borrowed */
    PyObject *interval = function == NULL ? NULL : PyObject_CallNoArgs(function);
    double seconds = interval == NULL ? -1.0 : PyFloat_AsDouble(interval);
    Py_XDECREF(interval);
    if (PyErr_Occurred()) {
        return -1;
    }
    double interval_ns = fmin(seconds, GIL_INTERVAL_MAX_S) * 1e9;
    loop->gil_slow_ns = (int64_t)fmax(interval_ns / GIL_SLOW_PART, GIL_SLOW_MIN_NS);
    loop->gil_linger_ns = (int64_t)fmax(interval_ns / GIL_LINGER_PART, GIL_LINGER_MIN_NS);
    return 0;
}

static void
before_wait(struct pyl_worker *worker, void *user)
{
    struct pyl_loop *loop = user;
    loop->parked_tstate = PyEval_SaveThread();
}

static void
note_gil_wait(struct pyl_loop *loop, int64_t gil_wait_ns, bool is_sampled)
{
    if (gil_wait_ns >= loop->gil_slow_ns) {
        loop->gil_contested = GIL_CONTESTED_WAITS;
    } else if (loop->gil_contested > 0) {
        loop->gil_contested--;
    }
    if (is_sampled) {
        pyl_duration_note(&loop->metrics.gil_waits, gil_wait_ns);
    }
}

static void
after_wait(struct pyl_worker *worker, void *user)
{
    struct pyl_loop *loop = user;
    bool is_sampled = pyl_metrics_is_sampled_wait(worker);
    bool is_timed = is_sampled || loop->gil_contested > 0;
    int64_t started_ns = is_timed ? pyl_clock_now_ns() : 0;
    PyEval_RestoreThread(loop->parked_tstate);
    if (PYL_UNLIKELY(is_timed)) {
        note_gil_wait(loop, pyl_clock_now_ns() - started_ns, is_sampled);
    }
    loop->parked_tstate = NULL;
    loop->did_park = true;
    if (PyErr_CheckSignals() < 0) {
        pyl_loop_raise(loop);
    }
}

struct pyl_worker_hooks
pyl_loop_hooks(struct pyl_loop *loop)
{
    return (struct pyl_worker_hooks){.linger = linger,
                                     .before_wait = before_wait,
                                     .after_wait = after_wait,
                                     .user = loop,
                                     .awaits_posts = PYL_FREE_THREADED};
}

/* After a turn that did not wait: it may have run no Python code, which would look for itself. The
 * interpreter looks when it enters a function, and then waits until the other has the GIL.
 * Detaching and attaching would not do: without a request the GIL is back before the other is
 * awake, and its switch interval begins anew. 0, or -1 with an exception. */
static int
share_gil(struct pyl_loop *loop, PyObject *checkpoint, int64_t *shared_ns)
{
    if (loop->worker->now_ns - *shared_ns >= GIL_SHARE_NS) {
        *shared_ns = loop->worker->now_ns;
        pyl_worker_pause(loop->worker);
        PyObject *result = PyObject_CallNoArgs(checkpoint);
        pyl_worker_resume(loop->worker);
        if (result == NULL) {
            return -1;
        }
        Py_DECREF(result);
    }
    return PyErr_CheckSignals();
}

static int
run_turns(struct pyl_loop *loop, PyObject *checkpoint)
{
    int64_t shared_ns = 0;
    do {
        loop->did_park = false;
        if (PYL_UNLIKELY(loop->has_own_clock) && pyl_timer_handles_check_clock(loop) < 0) {
            return -1;
        }
        int error = PYL_LIKELY(loop->views == NULL)
                        ? pyl_worker_turn(loop->worker, !loop->is_stopping)
                        : pyl_views_turn(loop);
        if (PYL_UNLIKELY(loop->raised != NULL)) {
            PyErr_SetRaisedException(loop->raised);
            loop->raised = NULL;
            return -1;
        }
        if (PYL_UNLIKELY(loop->is_forked_child)) {
            return pyl_loop_check_usable(loop);
        }
        if (PYL_UNLIKELY(error < 0)) {
            pyl_raise_errno(error);
            return -1;
        }
        if (loop->did_park) {
            shared_ns = loop->worker->now_ns;
        } else if (share_gil(loop, checkpoint, &shared_ns) < 0) {
            return -1;
        }
    } while (!loop->is_stopping);
    return 0;
}

/* _run(checkpoint): turns until stop(). The caller has set up and checked everything that Python
 * knows of. checkpoint: a function in Python that does nothing. */
PyObject *
pyl_loop_run(PyObject *self, PyObject *checkpoint)
{
    struct pyl_loop *loop = (struct pyl_loop *)self;
    if (pyl_loop_check_usable(loop) < 0 || choose_linger(loop) < 0) {
        return NULL;
    }
    loop->owner_thread_id = PyThread_get_thread_ident();
    pyl_sample_reset(&loop->worker->sample); /* what waited between two runs waited for nobody */
    pyl_loop_choose_types(loop);
    if (loop->views != NULL && pyl_views_begin_run(loop) < 0) {
        return NULL;
    }
    Py_INCREF(self);
    struct pyl_freelists *outer = pyl_freelists_enter(&loop->freelists, loop->state);
    int status = run_turns(loop, checkpoint);
    pyl_freelists_leave(outer);
    if (loop->views != NULL) {
        pyl_views_end_run(loop);
    }
    Py_DECREF(self);
    if (status < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}
