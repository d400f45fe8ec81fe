/*
 * crossing.h - futures and tasks of one view used in another: the future that stands for one of
 * another view.
 *
 * A coroutine that awaits a future of another view waits for a proxy of its own view instead, so
 * that no other thread touches what belongs to its step. The proxy is an entry among the future's
 * callbacks, and is finished in its own view when the future is done.
 *
 * Attached thread state.
 */
#ifndef PYL_PYTHON_CROSSING_H
#define PYL_PYTHON_CROSSING_H

#include "python/future.h"

static inline bool
pyl_proxy_check(struct pyl_state *state, PyObject *object)
{
    return Py_IS_TYPE(object, state->proxy_type);
}

/* One of our final types whose is_blocking and result may be used without asking its methods. */
static inline bool
pyl_future_is_final(struct pyl_state *state, PyObject *object)
{
    return pyl_future_is_exact(state, object) || Py_IS_TYPE(object, state->proxy_type) ||
           Py_IS_TYPE(object, state->spawned_type) || Py_IS_TYPE(object, state->http_remote_type);
}

/* What am_send of a pending future gives in the view `here`, which is not its own. */
PySendResult pyl_proxy_send(struct pyl_future *future, struct pyl_loop *here, PyObject **ret);

/* The future that the proxy stands for is done: tells its view. Steals the reference. */
void pyl_proxy_deliver(PyObject *proxy);

/* loop.call_soon(callback, future) for a view that may be closed: then nothing happens. 0 or -1. */
int pyl_crossing_call(struct pyl_loop *loop, PyObject *callback, struct pyl_future *future,
                      PyObject *context);

/* task.cancel(message) in the task's own view. 1, 0 (it is closed) or -1. */
int pyl_crossing_cancel(struct pyl_task *task, PyObject *message);

#endif
