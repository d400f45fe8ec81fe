/*
 * loop_call.c - scheduling: call_soon, call_soon_threadsafe, call_later, call_at, create_future,
 * create_task.
 *
 * Error texts and checks are asyncio's; in debug mode the checks themselves are BaseEventLoop's.
 */
#include "python/loop_internal.h"

#include "base/clock.h"
#include "python/task.h"

#include <math.h>

static struct pyl_loop *
loop_of(PyObject *self)
{
    return (struct pyl_loop *)self;
}

static bool
is_debug(struct pyl_loop *loop)
{
    return PYL_UNLIKELY(atomic_load_explicit(&loop->is_debug, memory_order_relaxed));
}

/* Arguments: (callback, *args, context=None), the callback after `leading` others. */
struct call {
    PyObject *callback;
    PyObject *const *args;
    Py_ssize_t count;
    PyObject *context; /* NULL: none given */
};

static int
parse_call(struct pyl_loop *loop, const char *method, Py_ssize_t leading, PyObject *const *args,
           Py_ssize_t count, PyObject *names, struct call *ret_call)
{
    if (count < leading + 1) {
        PyErr_Format(PyExc_TypeError, "%s() missing 1 required positional argument: 'callback'",
                     method);
        return -1;
    }
    ret_call->callback = args[leading];
    ret_call->args = args + leading + 1;
    ret_call->count = count - leading - 1;
    ret_call->context = NULL;
    Py_ssize_t name_count = names != NULL ? PyTuple_GET_SIZE(names) : 0;
    for (Py_ssize_t i = 0; i < name_count; i++) {
        PyObject *name = PyTuple_GET_ITEM(names, i);
        if (name != loop->state->str.context &&
            PyUnicode_Compare(name, loop->state->str.context) != 0) {
            PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'", method,
                         name);
            return -1;
        }
        if (args[count + i] != Py_None) {
            ret_call->context = args[count + i];
        }
    }
    return 0;
}

static int
check_callback(struct pyl_loop *loop, PyObject *callback, const char *method)
{
    PyObject *text = PyUnicode_FromString(method);
    if (text == NULL) {
        return -1;
    }
    PyObject *call[] = {(PyObject *)loop, callback, text};
    PyObject *result = PyObject_VectorcallMethod(loop->state->str._check_callback, call, 3, NULL);
    Py_DECREF(text);
    Py_XDECREF(result);
    return result != NULL ? 0 : -1;
}

int
pyl_loop_check_thread(struct pyl_loop *loop)
{
    unsigned long thread_id = atomic_load_explicit(&loop->thread_id, memory_order_relaxed);
    if (is_debug(loop) && thread_id != 0 && thread_id != PyThread_get_thread_ident()) {
        PyErr_SetString(PyExc_RuntimeError, "Non-thread-safe operation invoked on an event loop "
                                            "other than the current one");
        return -1;
    }
    return 0;
}

static int
check_call(struct pyl_loop *loop, PyObject *callback, const char *method)
{
    if (pyl_loop_check_usable(loop) < 0) {
        return -1;
    }
    if (is_debug(loop)) {
        if (pyl_loop_check_thread(loop) < 0 || check_callback(loop, callback, method) < 0) {
            return -1;
        }
    }
    return 0;
}

/* The way into the ready queue from any thread that may run Python. Steals one reference of the
 * handle. 0, or -1 with an exception when the loop is closed. */
static int
post_any_thread(struct pyl_loop *loop, struct pyl_handle *handle)
{
    handle->is_queued = true; /* before it is anybody else's */
    if (pyl_loop_post(loop, &handle->job)) {
        return 0;
    }
    handle->is_queued = false;
    Py_DECREF(handle);
    return pyl_loop_check_usable(loop);
}

PyObject *
pyl_loop_call_soon(struct pyl_loop *loop, PyObject *callback, PyObject *const *args,
                   Py_ssize_t count, PyObject *context)
{
    if (pyl_loop_check_usable(loop) < 0) {
        return NULL;
    }
    struct pyl_handle *handle =
        pyl_handle_new(loop, loop->state->handle_type, callback, args, count, context);
    if (handle == NULL) {
        return NULL;
    }
    Py_INCREF(handle);
    if (!PYL_FREE_THREADED && PYL_LIKELY(loop->views == NULL)) {
        pyl_handle_post(handle);
    } else if (post_any_thread(loop, handle) < 0) {
        Py_CLEAR(handle);
    }
    return (PyObject *)handle;
}

/* loop.call_soon(callback, *args, context=None) */
PyObject *
pyl_loop_py_call_soon(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    struct pyl_loop *loop = loop_of(self);
    struct call call;
    if (parse_call(loop, "call_soon", 0, args, count, names, &call) < 0 ||
        check_call(loop, call.callback, "call_soon") < 0) {
        return NULL;
    }
    return pyl_loop_call_soon(loop, call.callback, call.args, call.count, call.context);
}

/* loop.call_soon_threadsafe(callback, *args, context=None). Any thread, and signal handlers of
 * Python. */
PyObject *
pyl_loop_py_call_soon_threadsafe(PyObject *self, PyObject *const *args, Py_ssize_t count,
                                 PyObject *names)
{
    struct pyl_loop *loop = loop_of(self);
    struct pyl_state *state = loop->state;
    struct call call;
    if (parse_call(loop, "call_soon_threadsafe", 0, args, count, names, &call) < 0 ||
        pyl_loop_check_usable(loop) < 0) {
        return NULL;
    }
    if (is_debug(loop) && check_callback(loop, call.callback, "call_soon_threadsafe") < 0) {
        return NULL;
    }
    PyTypeObject *type =
        loop->has_blocking_cancel ? state->threadsafe_handle_type : state->handle_type;
    struct pyl_handle *handle =
        pyl_handle_new(loop, type, call.callback, call.args, call.count, call.context);
    if (handle == NULL) {
        return NULL;
    }
    Py_INCREF(handle);
    if (post_any_thread(loop, handle) < 0) {
        Py_CLEAR(handle);
    }
    return (PyObject *)handle;
}

/* Timers. */

/* asyncio's loops tell the time when they are closed, too. */
static int64_t
loop_now_ns(struct pyl_loop *loop)
{
    return PYL_LIKELY(pyl_loop_is_open(loop)) ? pyl_reactor_now_ns(&loop->worker->reactor)
                                              : pyl_clock_now_ns();
}

double
pyl_loop_now(struct pyl_loop *loop)
{
    if (PYL_LIKELY(!loop->has_own_clock)) {
        return (double)loop_now_ns(loop) / 1e9;
    }
    PyObject *call[] = {(PyObject *)loop};
    PyObject *now = PyObject_VectorcallMethod(loop->state->str.time, call, 1, NULL);
    if (now == NULL) {
        return -1.0;
    }
    double seconds = PyFloat_AsDouble(now);
    Py_DECREF(now);
    return seconds;
}

/* loop.time() */
PyObject *
pyl_loop_py_time(PyObject *self, PyObject *unused)
{
    struct pyl_loop *loop = loop_of(self);
    /* Not loop->has_own_clock: this may be the override's super().time(). */
    return PyFloat_FromDouble((double)loop_now_ns(loop) / 1e9);
}

/* delay is what the user passed: a number, or anything that can be added to a float. */
static int
seconds_after(struct pyl_loop *loop, PyObject *delay, double *ret_when)
{
    double now = pyl_loop_now(loop);
    if (now == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    if (PYL_LIKELY(PyFloat_CheckExact(delay))) {
        *ret_when = now + PyFloat_AS_DOUBLE(delay);
        return 0;
    }
    PyObject *now_object = PyFloat_FromDouble(now);
    PyObject *when = now_object != NULL ? PyNumber_Add(now_object, delay) : NULL;
    Py_XDECREF(now_object);
    if (when == NULL) {
        return -1;
    }
    *ret_when = PyFloat_AsDouble(when);
    Py_DECREF(when);
    return *ret_when == -1.0 && PyErr_Occurred() ? -1 : 0;
}

static PyObject *
start_timer(struct pyl_loop *loop, double when, const struct call *call)
{
    if (isnan(when)) {
        PyErr_SetString(PyExc_ValueError, "the time of a timer must not be NaN");
        return NULL;
    }
    struct pyl_handle *handle = pyl_handle_new(loop, loop->state->timer_handle_type, call->callback,
                                               call->args, call->count, call->context);
    if (handle == NULL) {
        return NULL;
    }
    struct pyl_timer_handle *timer_handle = (struct pyl_timer_handle *)handle;
    timer_handle->when = when;
    if (pyl_timer_handle_start(timer_handle) < 0) {
        Py_DECREF(handle);
        return NULL;
    }
    return (PyObject *)handle;
}

/* loop.call_later(delay, callback, *args, context=None) */
PyObject *
pyl_loop_py_call_later(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    struct pyl_loop *loop = loop_of(self);
    struct call call;
    double when;
    if (parse_call(loop, "call_later", 1, args, count, names, &call) < 0) {
        return NULL;
    }
    if (args[0] == Py_None) {
        PyErr_SetString(PyExc_TypeError, "delay must not be None");
        return NULL;
    }
    if (check_call(loop, call.callback, "call_later") < 0 ||
        seconds_after(loop, args[0], &when) < 0) {
        return NULL;
    }
    return start_timer(loop, when, &call);
}

/* loop.call_at(when, callback, *args, context=None) */
PyObject *
pyl_loop_py_call_at(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    struct pyl_loop *loop = loop_of(self);
    struct call call;
    if (parse_call(loop, "call_at", 1, args, count, names, &call) < 0) {
        return NULL;
    }
    if (args[0] == Py_None) {
        PyErr_SetString(PyExc_TypeError, "when cannot be None");
        return NULL;
    }
    if (check_call(loop, call.callback, "call_at") < 0) {
        return NULL;
    }
    double when = PyFloat_AsDouble(args[0]);
    if (when == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    return start_timer(loop, when, &call);
}

/* Futures and tasks. */

static PyObject *
with_keyword_loop(struct pyl_loop *loop, PyObject *callable)
{
    PyObject *names = PyTuple_Pack(1, loop->state->str.loop);
    if (names == NULL) {
        return NULL;
    }
    PyObject *call[] = {(PyObject *)loop};
    PyObject *result = PyObject_Vectorcall(callable, call, 0, names);
    Py_DECREF(names);
    return result;
}

static bool
is_in_place(PyObject *module, PyObject *name, PyObject *original, PyTypeObject *ours)
{
    PyObject *class = PyObject_GetAttr(module, name);
    if (class == NULL) {
        PyErr_Clear();
        return true;
    }
    bool is_known = class == original || class == (PyObject *)ours;
    Py_DECREF(class);
    return is_known;
}

/* asyncio's loops create whatever stands under asyncio.tasks.Task and asyncio.futures.Future. If
 * somebody has put another class there (nest_asyncio puts the one in Python there), so do we. */
void
pyl_loop_choose_types(struct pyl_loop *loop)
{
    struct pyl_state *state = loop->state;
    loop->makes_tasks =
        loop->has_native_tasks && is_in_place(state->asyncio_tasks_module, state->str.Task,
                                              state->asyncio_task, state->task_type);
    loop->makes_futures =
        loop->has_native_tasks && is_in_place(state->asyncio_futures_module, state->str.Future,
                                              state->asyncio_future, state->future_type);
}

/* Looking at asyncio for each task of a running loop would cost too much. */
static void
choose_types_unless_running(struct pyl_loop *loop)
{
    if (atomic_load_explicit(&loop->thread_id, memory_order_relaxed) == 0) {
        pyl_loop_choose_types(loop);
    }
}

/* loop.create_future() */
PyObject *
pyl_loop_py_create_future(PyObject *self, PyObject *unused)
{
    struct pyl_loop *loop = loop_of(self);
    choose_types_unless_running(loop);
    if (PYL_LIKELY(loop->makes_futures)) {
        return pyl_future_new(loop);
    }
    PyObject *class =
        PyObject_GetAttr(loop->state->asyncio_futures_module, loop->state->str.Future);
    PyObject *future = class != NULL ? with_keyword_loop(loop, class) : NULL;
    Py_XDECREF(class);
    return future;
}

struct task_call {
    PyObject *name;    /* NULL: none given */
    PyObject *context; /* NULL: none given */
    bool is_eager;
};

/* 1: understood; 0: something that only Python's Task can judge; -1 with an exception. */
static int
parse_task_call(struct pyl_loop *loop, PyObject *const *args, PyObject *names,
                struct task_call *ret_call)
{
    struct pyl_strings *str = &loop->state->str;
    Py_ssize_t count = names != NULL ? PyTuple_GET_SIZE(names) : 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *name = PyTuple_GET_ITEM(names, i);
        PyObject *value = args[i] != Py_None ? args[i] : NULL;
        if (name == str->name || PyUnicode_Compare(name, str->name) == 0) {
            ret_call->name = value;
        } else if (name == str->context || PyUnicode_Compare(name, str->context) == 0) {
            ret_call->context = value;
        } else if (PyUnicode_Compare(name, str->eager_start) == 0) {
            int is_true = PyObject_IsTrue(args[i]);
            if (is_true < 0) {
                return -1;
            }
            ret_call->is_eager = is_true;
        } else {
            return 0;
        }
    }
    return 1;
}

/* loop.create_task(coro, *, name=None, context=None, **kwargs): factories, asyncio's own tasks and
 * whatever is unusual are _create_task_slow()'s, in Python. */
PyObject *
pyl_loop_py_create_task(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    struct pyl_loop *loop = loop_of(self);
    if (pyl_loop_check_usable(loop) < 0) {
        return NULL;
    }
    choose_types_unless_running(loop);
    if (PYL_LIKELY(loop->makes_tasks && loop->task_factory == NULL && count == 1)) {
        struct task_call call = {0};
        int status = parse_task_call(loop, args + 1, names, &call);
        if (status < 0) {
            return NULL;
        }
        if (status > 0) {
            return pyl_task_create(loop, args[0], call.name, call.context, call.is_eager);
        }
    }
    PyObject *method = PyObject_GetAttr(self, loop->state->str._create_task_slow);
    if (method == NULL) {
        return NULL;
    }
    PyObject *task = PyObject_Vectorcall(method, args, (size_t)count, names);
    Py_DECREF(method);
    return task;
}
