/*
 * future_state.c - the outcome of a future: the one place where its status changes.
 *
 * Invariant: a future that is not pending has no callbacks; finishing hands them all to the loop.
 */
#include "python/future.h"

#include "base/check.h"

/* 3.11.8 and 3.12.2 began to wrap StopIteration; before, it was refused with TypeError. */
static bool
wraps_stop_iteration(void)
{
    if (Py_Version >= 0x030C0000) {
        return Py_Version >= 0x030C0200;
    }
    return Py_Version >= 0x030B0800;
}

static int
raise_invalid_state(struct pyl_future *future, const char *text)
{
    PyErr_SetString(future->state->invalid_state_error, text);
    return -1;
}

static int
finish(struct pyl_future *future, enum pyl_future_status status)
{
    PYL_DCHECK(future->status == PYL_FUTURE_PENDING);
    atomic_store_explicit(&future->status, (uint8_t)status, memory_order_release);
    if (future->is_task) {
        pyl_task_unregister((struct pyl_task *)future);
    }
    if (future->done != NULL) {
        pyl_future_done_fn *done = future->done;
        future->done = NULL;
        done((PyObject *)future, future->done_user);
    }
    return pyl_future_schedule_callbacks(future);
}

int
pyl_future_finish_result(struct pyl_future *future, PyObject *result)
{
    int rc;
    Py_BEGIN_CRITICAL_SECTION(future);
    if (PYL_UNLIKELY(future->status != PYL_FUTURE_PENDING)) {
        rc = raise_invalid_state(future, "invalid state");
    } else {
        Py_XSETREF(future->result, Py_NewRef(result));
        rc = finish(future, PYL_FUTURE_FINISHED);
    }
    Py_END_CRITICAL_SECTION();
    return rc;
}

/* RuntimeError caused by the StopIteration. New reference or NULL. */
static PyObject *
wrap_stop_iteration(PyObject *exception)
{
    static const char text[] =
        "StopIteration interacts badly with generators and cannot be raised into a Future";
    if (!wraps_stop_iteration()) {
        PyErr_SetString(PyExc_TypeError, text);
        return NULL;
    }
    PyObject *wrapped = PyObject_CallFunction(PyExc_RuntimeError, "s", text);
    if (wrapped == NULL) {
        return NULL;
    }
    PyException_SetCause(wrapped, Py_NewRef(exception));
    PyException_SetContext(wrapped, Py_NewRef(exception));
    return wrapped;
}

/* The exception to store for what set_exception() got. New reference or NULL. */
static PyObject *
normalize_exception(PyObject *exception)
{
    PyObject *value =
        PyExceptionClass_Check(exception) ? PyObject_CallNoArgs(exception) : Py_NewRef(exception);
    if (value == NULL) {
        return NULL;
    }
    if (!PyExceptionInstance_Check(value)) {
        Py_DECREF(value);
        PyErr_SetString(PyExc_TypeError, "invalid exception object");
        return NULL;
    }
    bool is_stop = wraps_stop_iteration() ? PyErr_GivenExceptionMatches(value, PyExc_StopIteration)
                                          : Py_IS_TYPE(value, (PyTypeObject *)PyExc_StopIteration);
    if (PYL_UNLIKELY(is_stop)) {
        Py_SETREF(value, wrap_stop_iteration(value));
    }
    return value;
}

static int
finish_exception_locked(struct pyl_future *future, PyObject *exception)
{
    if (future->status != PYL_FUTURE_PENDING) {
        return raise_invalid_state(future, "invalid state");
    }
    PyObject *value = normalize_exception(exception);
    if (value == NULL) {
        return -1;
    }
    /* The class just called may have finished us. */
    if (future->status != PYL_FUTURE_PENDING) {
        Py_DECREF(value);
        return raise_invalid_state(future, "invalid state");
    }
    Py_XSETREF(future->exception, value);
    /* Without memory for it the exception is raised without where it came from. */
    if (pyl_future_set_rare(future, PYL_FUTURE_EXCEPTION_TB, PyException_GetTraceback(value)) < 0) {
        PyErr_Clear();
    }
    future->log_traceback = true; /* before the hook, which may retrieve it */
    return finish(future, PYL_FUTURE_FINISHED);
}

int
pyl_future_finish_exception(struct pyl_future *future, PyObject *exception)
{
    int rc;
    Py_BEGIN_CRITICAL_SECTION(future);
    rc = finish_exception_locked(future, exception);
    Py_END_CRITICAL_SECTION();
    return rc;
}

int
pyl_future_set_cancel_message(struct pyl_future *future, PyObject *message)
{
    bool is_some = message != NULL && !Py_IsNone(message);
    return pyl_future_set_rare(future, PYL_FUTURE_CANCEL_MESSAGE,
                               is_some ? Py_NewRef(message) : NULL);
}

int
pyl_future_finish_cancelled(struct pyl_future *future, PyObject *message)
{
    int rc;
    Py_BEGIN_CRITICAL_SECTION(future);
    future->log_traceback = false;
    if (future->status != PYL_FUTURE_PENDING) {
        rc = 0;
    } else if (pyl_future_set_cancel_message(future, message) < 0) {
        rc = -1;
    } else {
        rc = finish(future, PYL_FUTURE_CANCELLED) < 0 ? -1 : 1;
    }
    Py_END_CRITICAL_SECTION();
    return rc;
}

void
pyl_future_keep_cancelled(struct pyl_future *future, PyObject *error)
{
    Py_BEGIN_CRITICAL_SECTION(future);
    if (pyl_future_set_rare(future, PYL_FUTURE_CANCELLED_ERROR, error) < 0) {
        PyErr_Clear(); /* whoever asks gets another one */
    }
    Py_END_CRITICAL_SECTION();
}

PyObject *
pyl_future_make_cancelled(struct pyl_future *future)
{
    PyObject *error;
    Py_BEGIN_CRITICAL_SECTION(future);
    error = pyl_future_rare(future, PYL_FUTURE_CANCELLED_ERROR);
    if (error != NULL) {
        future->rare[PYL_FUTURE_CANCELLED_ERROR] = NULL;
    } else {
        PyObject *message = pyl_future_rare(future, PYL_FUTURE_CANCEL_MESSAGE);
        if (message == NULL) {
            error = PyObject_CallNoArgs(future->state->cancelled_error);
        } else {
            error = PyObject_CallOneArg(future->state->cancelled_error, message);
        }
    }
    Py_END_CRITICAL_SECTION();
    return error;
}

static int
raise_cancelled(struct pyl_future *future)
{
    PyObject *error = pyl_future_make_cancelled(future);
    if (error != NULL) {
        PyErr_SetObject(future->state->cancelled_error, error);
        Py_DECREF(error);
    }
    return -1;
}

static int
get_result_locked(struct pyl_future *future, PyObject **ret)
{
    if (future->status == PYL_FUTURE_CANCELLED) {
        return raise_cancelled(future);
    }
    if (future->status != PYL_FUTURE_FINISHED) {
        return raise_invalid_state(future, "Result is not set.");
    }
    future->log_traceback = false;
    if (future->exception == NULL) {
        *ret = Py_NewRef(future->result);
        return 0;
    }
    /* Raised a second time it would otherwise drag the frames of the first time along. */
    PyObject *traceback = pyl_future_rare(future, PYL_FUTURE_EXCEPTION_TB);
    if (PyException_SetTraceback(future->exception, traceback != NULL ? traceback : Py_None) < 0) {
        return -1;
    }
    *ret = Py_NewRef(future->exception);
    (void)pyl_future_set_rare(future, PYL_FUTURE_EXCEPTION_TB, NULL);
    return 1;
}

int
pyl_future_get_result(struct pyl_future *future, PyObject **ret)
{
    int rc;
    Py_BEGIN_CRITICAL_SECTION(future);
    rc = get_result_locked(future, ret);
    Py_END_CRITICAL_SECTION();
    return rc;
}

/* ---- task.h */

PyObject *
pyl_future_new(struct pyl_loop *loop)
{
    struct pyl_future *future = pyl_future_alloc(loop->state, loop->state->future_type);
    if (future == NULL) {
        return NULL;
    }
    if (pyl_future_init_native(future, loop) < 0) {
        Py_DECREF(future);
        return NULL;
    }
    return (PyObject *)future;
}

int
pyl_future_set_result(PyObject *object, PyObject *result)
{
    struct pyl_future *future = pyl_future_cast(object);
    return future->status != PYL_FUTURE_PENDING ? 0 : pyl_future_finish_result(future, result);
}

int
pyl_future_set_exception(PyObject *object, PyObject *exception)
{
    struct pyl_future *future = pyl_future_cast(object);
    return future->status != PYL_FUTURE_PENDING ? 0
                                                : pyl_future_finish_exception(future, exception);
}

bool
pyl_future_is_done(PyObject *object)
{
    return pyl_future_cast(object)->status != PYL_FUTURE_PENDING;
}

void
pyl_future_set_done_hook(PyObject *object, pyl_future_done_fn *done, void *user)
{
    struct pyl_future *future = pyl_future_cast(object);
    PYL_DCHECK(future->done == NULL);
    if (future->status != PYL_FUTURE_PENDING) {
        done(object, user);
        return;
    }
    future->done = done;
    future->done_user = user;
}

void
pyl_future_clear_done_hook(PyObject *object)
{
    pyl_future_cast(object)->done = NULL;
}

int
pyl_future_outcome(PyObject *object, bool is_retrieved, PyObject **ret)
{
    struct pyl_future *future = pyl_future_cast(object);
    PYL_DCHECK(future->status != PYL_FUTURE_PENDING);
    *ret = NULL;
    if (future->status == PYL_FUTURE_CANCELLED) {
        return 2;
    }
    if (future->exception == NULL) {
        *ret = Py_NewRef(future->result);
        return 0;
    }
    if (is_retrieved) {
        future->log_traceback = false;
    }
    *ret = Py_NewRef(future->exception);
    return 1;
}
