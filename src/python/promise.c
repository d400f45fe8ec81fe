/*
 * promise.c - the outcome of a future, made in its loop's thread out of what another thread gave.
 *
 * The promise is held by its port with the future until it is completed; completing posts it.
 */
#include "python/promise.h"

#include <errno.h>

#include "base/alloc.h"
#include "python/future.h"

struct pyloop_promise {
    struct pyl_port_item item; /* object: the future */
    pyloop_make *make;         /* NULL: the future is to be cancelled */
    pyloop_drop *drop;         /* NULL: nothing to do */
    void *argument;
};

static struct pyloop_promise *
promise_of(struct pyl_port_item *item)
{
    return PYL_CONTAINER_OF(item, struct pyloop_promise, item);
}

static void
promise_free(struct pyl_port_item *item)
{
    pyl_port_unref(item->port);
    pyl_free(promise_of(item));
}

/* The exception that `make` left, or one that says that it left none. New reference or NULL. */
static PyObject *
take_exception(void)
{
    if (!PyErr_Occurred()) {
        PyErr_SetString(PyExc_SystemError, "a native function made no result and no exception");
    }
    return PyErr_GetRaisedException();
}

void
pyl_future_complete_by(struct pyl_loop *loop, PyObject *future, pyloop_make *make, void *argument)
{
    PyObject *value = make != NULL ? make(argument) : Py_NewRef(Py_None);
    int status;
    if (value != NULL) {
        status = pyl_future_set_result(future, value);
    } else {
        value = take_exception();
        status = pyl_future_set_exception(future, value);
    }
    if (status < 0) {
        pyl_loop_report(loop, "Exception in the completion of a native future", "future", future);
    }
    Py_XDECREF(value);
}

static void
promise_run(struct pyl_port_item *item, struct pyl_loop *loop)
{
    struct pyloop_promise *promise = promise_of(item);
    PyObject *future = pyl_port_take(item);
    bool is_open = loop != NULL && future != NULL && !pyl_future_is_done(future);
    if (is_open && promise->make != NULL) {
        pyl_future_complete_by(loop, future, promise->make, promise->argument);
    } else if (promise->drop != NULL) {
        promise->drop(promise->argument);
    } else if (is_open && pyl_future_finish_cancelled(pyl_future_cast(future), NULL) < 0) {
        pyl_loop_report(loop, "Exception in the cancellation of a native future", "future", future);
    }
    Py_XDECREF(future);
    promise_free(item);
}

PyObject *
pyl_promise_new(PyObject *core, struct pyloop_promise **ret_promise)
{
    struct pyl_loop *loop;
    struct pyloop_port *port = pyl_port_running(core, &loop);
    if (port == NULL) {
        return NULL;
    }
    PyObject *future = pyl_future_new(loop);
    Py_DECREF(loop);
    struct pyloop_promise *promise = future != NULL ? pyl_alloc_zero(sizeof(*promise)) : NULL;
    if (promise == NULL) {
        Py_XDECREF(future);
        return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    }
    pyl_port_item_init(&promise->item, port);
    promise->item.run = promise_run;
    promise->item.free = promise_free;
    pyl_port_hold(&promise->item, Py_NewRef(future));
    *ret_promise = promise;
    return future;
}

int
pyl_promise_complete(struct pyloop_promise *promise, pyloop_make *make, pyloop_drop *drop,
                     void *argument)
{
    promise->make = make;
    promise->drop = drop;
    promise->argument = argument;
    int rc = pyl_port_post(&promise->item);
    if (rc < 0 && pyl_port_give_up(&promise->item)) {
        promise_free(&promise->item);
    }
    return rc;
}

int
pyl_promise_is_wanted(struct pyloop_promise *promise)
{
    return pyl_port_is_pending(&promise->item);
}
