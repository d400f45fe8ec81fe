/*
 * callback.c - the way from C into a Python callback and back: context, exceptions, slow-callback
 * log.
 *
 * Invariant: nothing here returns with an exception set. What must leave run_forever() waits in
 * loop->raised.
 */
#include "python/handle.h"

static PyObject *
call_with_args(struct pyl_handle *handle)
{
    if (handle->args_tuple != NULL) {
        return PyObject_Call(handle->callback, handle->args_tuple, NULL);
    }
    return PyObject_Vectorcall(handle->callback, handle->slots + 1,
                               handle->arg_count | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
}

/* context.run(callback, *args), for a context that is not a contextvars.Context. */
static PyObject *
call_in_foreign_context(struct pyl_handle *handle)
{
    PyObject *run = PyObject_GetAttr(handle->context, handle->loop->state->str.run);
    if (run == NULL) {
        return NULL;
    }
    Py_ssize_t count =
        handle->args_tuple != NULL ? PyTuple_GET_SIZE(handle->args_tuple) : handle->arg_count;
    PyObject *args = PyTuple_New(1 + count);
    PyObject *result = NULL;
    if (args != NULL) {
        PyTuple_SET_ITEM(args, 0, Py_NewRef(handle->callback));
        for (Py_ssize_t i = 0; i < count; i++) {
            PyObject *arg = handle->args_tuple != NULL ? PyTuple_GET_ITEM(handle->args_tuple, i)
                                                       : handle->slots[1 + i];
            PyTuple_SET_ITEM(args, 1 + i, Py_NewRef(arg));
        }
        result = PyObject_Call(run, args, NULL);
        Py_DECREF(args);
    }
    Py_DECREF(run);
    return result;
}

static PyObject *
call_in_context(struct pyl_handle *handle)
{
    PyObject *context = pyl_handle_need_context(handle);
    if (PYL_UNLIKELY(context == NULL)) {
        return NULL;
    }
    if (PYL_UNLIKELY(!PyContext_CheckExact(context))) {
        return call_in_foreign_context(handle);
    }
    if (PyContext_Enter(context) < 0) {
        return NULL;
    }
    PyObject *result = call_with_args(handle);
    if (PyContext_Exit(context) < 0) {
        Py_CLEAR(result);
    }
    return result;
}

PyObject *
pyl_handle_args(struct pyl_handle *handle)
{
    if (handle->args_tuple != NULL) {
        return Py_NewRef(handle->args_tuple);
    }
    PyObject *args = PyTuple_New(handle->arg_count);
    if (args != NULL) {
        for (int i = 0; i < handle->arg_count; i++) {
            PyTuple_SET_ITEM(args, i, Py_NewRef(handle->slots[1 + i]));
        }
    }
    return args;
}

PyObject *
pyl_handle_format_callback(struct pyl_handle *handle)
{
    struct pyl_state *state = handle->loop->state;
    PyObject *args = pyl_handle_args(handle);
    if (args == NULL) {
        return NULL;
    }
    bool is_debug = atomic_load_explicit(&handle->loop->is_debug, memory_order_relaxed);
    PyObject *call[] = {handle->callback, args, is_debug ? Py_True : Py_False};
    PyObject *text =
        PyObject_Vectorcall(state->format_callback_source, call, 2, state->debug_names);
    if (text == NULL && PyErr_ExceptionMatches(PyExc_TypeError)) {
        /* Before 3.13 there is no `debug`, which decides whether arguments are shown. */
        PyErr_Clear();
        text = PyObject_Vectorcall(state->format_callback_source, call, 2, NULL);
    }
    Py_DECREF(args);
    return text;
}

void
pyl_loop_raise(struct pyl_loop *loop)
{
    PyObject *exception = PyErr_GetRaisedException();
    if (loop->raised == NULL) {
        loop->raised = exception;
    } else {
        /* Only one can leave; the later one is nobody's to catch. */
        PyErr_SetRaisedException(exception);
        PyErr_WriteUnraisable((PyObject *)loop);
    }
    pyl_worker_interrupt(loop->worker);
}

static bool
must_leave_the_loop(void)
{
    return PyErr_ExceptionMatches(PyExc_KeyboardInterrupt) ||
           PyErr_ExceptionMatches(PyExc_SystemExit);
}

/* dict[name] = value; a NULL value (with an exception) or an old failure is passed on. Steals
 * value. */
static int
report_add(PyObject *report, PyObject *name, PyObject *value)
{
    int status = value != NULL ? PyDict_SetItem(report, name, value) : -1;
    Py_XDECREF(value);
    return status;
}

/* Steals message and exception; message NULL with an exception set: that one is shown instead. */
static void
report_send(struct pyl_loop *loop, PyObject *message, PyObject *exception, const char *key,
            PyObject *object, PyObject *source_traceback)
{
    struct pyl_state *state = loop->state;
    PyObject *report = PyDict_New();
    int status = report == NULL ? -1 : report_add(report, state->str.message, message);
    if (status == 0) {
        status = PyDict_SetItem(report, state->str.exception, exception);
    }
    if (status == 0 && key != NULL && object != NULL) {
        status = PyDict_SetItemString(report, key, object);
    }
    if (status == 0 && source_traceback != NULL) {
        status = PyDict_SetItem(report, state->str.source_traceback, source_traceback);
    }
    if (status == 0) {
        PyObject *call[] = {(PyObject *)loop, report};
        PyObject *result =
            PyObject_VectorcallMethod(state->str.call_exception_handler, call, 2, NULL);
        status = result != NULL ? 0 : -1;
        Py_XDECREF(result);
    }
    Py_XDECREF(report);
    Py_DECREF(exception);
    if (status < 0) {
        if (must_leave_the_loop()) {
            pyl_loop_raise(loop);
        } else {
            PyErr_WriteUnraisable((PyObject *)loop);
        }
    }
}

void
pyl_loop_report(struct pyl_loop *loop, const char *message, const char *key, PyObject *object)
{
    if (must_leave_the_loop()) {
        pyl_loop_raise(loop);
        return;
    }
    PyObject *exception = PyErr_GetRaisedException();
    report_send(loop, PyUnicode_FromString(message), exception, key, object, NULL);
}

static void
report_callback(struct pyl_handle *handle)
{
    struct pyl_loop *loop = handle->loop;
    if (must_leave_the_loop()) {
        pyl_loop_raise(loop);
        return;
    }
    PyObject *exception = PyErr_GetRaisedException();
    PyObject *source = pyl_handle_format_callback(handle);
    PyObject *message = NULL;
    if (source != NULL) {
        message = PyUnicode_FromFormat("Exception in callback %U", source);
        Py_DECREF(source);
    }
    report_send(loop, message, exception, "handle", (PyObject *)handle, handle->source_traceback);
}

void
pyl_loop_slow_end(struct pyl_loop *loop, int64_t start, PyObject *what)
{
    if (PYL_LIKELY(start == 0)) {
        return;
    }
    double seconds = (double)(pyl_clock_now_ns() - start) / 1e9;
    if (seconds < loop->slow_callback_duration) {
        return;
    }
    struct pyl_state *state = loop->state;
    PyObject *raised = PyErr_GetRaisedException();
    PyObject *text = pyl_handle_check(state, what) ? PyObject_CallOneArg(state->format_handle, what)
                                                   : PyObject_Repr(what);
    if (text != NULL) {
        PyObject *result = PyObject_CallMethod(state->asyncio_logger, "warning", "sOd",
                                               "Executing %s took %.3f seconds", text, seconds);
        Py_XDECREF(result);
        Py_DECREF(text);
    }
    if (PyErr_Occurred()) {
        PyErr_WriteUnraisable((PyObject *)loop);
    }
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
}

static void
run_callback(struct pyl_handle *handle)
{
    struct pyl_loop *loop = handle->loop;
    int64_t start = pyl_loop_slow_start(loop);
    if (start != 0) {
        loop->current_handle = (PyObject *)handle;
    }
    PyObject *result = call_in_context(handle);
    if (PYL_LIKELY(result != NULL)) {
        Py_DECREF(result);
    } else {
        report_callback(handle);
    }
    if (start != 0) {
        pyl_loop_slow_end(loop, start, (PyObject *)handle);
        loop->current_handle = NULL;
    }
}

/* Claims the handle for a run; false if it was cancelled. */
static bool
begin_run(struct pyl_handle *handle)
{
    struct pyl_loop *loop = handle->loop;
    bool can_run;
    if (PYL_UNLIKELY(pyl_handle_is_threadsafe(handle))) {
        pthread_mutex_lock(&loop->running_lock);
        can_run = !handle->is_cancelled;
        if (can_run) {
            loop->running_handle = (PyObject *)handle;
        }
        pthread_mutex_unlock(&loop->running_lock);
        handle->is_running = can_run;
        return can_run;
    }
    Py_BEGIN_CRITICAL_SECTION(handle);
    can_run = !handle->is_cancelled;
    handle->is_running = can_run;
    Py_END_CRITICAL_SECTION();
    return can_run;
}

static void
end_run(struct pyl_handle *handle)
{
    struct pyl_loop *loop = handle->loop;
    bool is_cancelled;
    Py_BEGIN_CRITICAL_SECTION(handle);
    handle->is_running = false;
    is_cancelled = handle->is_cancelled;
    Py_END_CRITICAL_SECTION();
    if (PYL_UNLIKELY(pyl_handle_is_threadsafe(handle))) {
        pthread_mutex_lock(&loop->running_lock);
        loop->running_handle = NULL;
        pthread_cond_broadcast(&loop->running_done);
        pthread_mutex_unlock(&loop->running_lock);
    }
    if (is_cancelled) {
        pyl_handle_drop_callback(handle);
    }
}

void
pyl_handle_run(struct pyl_handle *handle)
{
    /* A callback may run the loop's handle by hand from within itself: only the outer run ends it.
     */
    bool is_nested = handle->is_running;
    if (is_nested || begin_run(handle)) {
        run_callback(handle);
        if (!is_nested) {
            end_run(handle);
        }
    }
}
