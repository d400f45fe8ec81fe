/*
 * loop_run.c - run_forever's inner loop: turns, the GIL around waits, signals.
 *
 * The GIL is held for the whole of a turn and given away only around a wait that may block. A loop
 * that never blocks still looks at signals after every turn, and lets other threads have the GIL
 * every GIL_SHARE_NS.
 */
#include "python/loop_internal.h"
#include "python/views.h"

enum { GIL_SHARE_NS = 5 * 1000 * 1000 }; /* sys.getswitchinterval()'s default */

static void
before_wait(struct pyl_worker *worker, void *user)
{
    struct pyl_loop *loop = user;
    loop->parked_tstate = PyEval_SaveThread();
}

static void
after_wait(struct pyl_worker *worker, void *user)
{
    struct pyl_loop *loop = user;
    int64_t started_ns = pyl_metrics_gil_begin(worker);
    PyEval_RestoreThread(loop->parked_tstate);
    pyl_metrics_gil_end(&loop->metrics, started_ns);
    loop->parked_tstate = NULL;
    loop->did_park = true;
    if (PyErr_CheckSignals() < 0) {
        pyl_loop_raise(loop);
    }
}

struct pyl_worker_hooks
pyl_loop_hooks(struct pyl_loop *loop)
{
    return (struct pyl_worker_hooks){
        .before_wait = before_wait, .after_wait = after_wait, .user = loop};
}

/* After a turn that kept the GIL all the time. 0, or -1 with an exception. */
static int
share_gil(struct pyl_loop *loop, int64_t *shared_ns)
{
    if (loop->worker->now_ns - *shared_ns >= GIL_SHARE_NS) {
        *shared_ns = loop->worker->now_ns;
        pyl_worker_pause(loop->worker);
        PyThreadState *tstate = PyEval_SaveThread();
        PyEval_RestoreThread(tstate);
        pyl_worker_resume(loop->worker);
    }
    return PyErr_CheckSignals();
}

static int
run_turns(struct pyl_loop *loop)
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
        pyl_metrics_turn(&loop->metrics, loop->worker);
        if (loop->did_park) {
            shared_ns = loop->worker->now_ns;
        } else if (share_gil(loop, &shared_ns) < 0) {
            return -1;
        }
    } while (!loop->is_stopping);
    return 0;
}

/* _run(): turns until stop(). The caller has set up and checked everything that Python knows of. */
PyObject *
pyl_loop_run(PyObject *self, PyObject *unused)
{
    struct pyl_loop *loop = (struct pyl_loop *)self;
    if (pyl_loop_check_usable(loop) < 0) {
        return NULL;
    }
    loop->owner_thread_id = PyThread_get_thread_ident();
    pyl_loop_choose_types(loop);
    if (loop->views != NULL && pyl_views_begin_run(loop) < 0) {
        return NULL;
    }
    Py_INCREF(self);
    int status = run_turns(loop);
    if (loop->views != NULL) {
        pyl_views_end_run(loop);
    }
    Py_DECREF(self);
    if (status < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}
