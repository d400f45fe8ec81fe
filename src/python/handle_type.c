/*
 * handle_type.c - what Python sees of Handle, TimerHandle and _ThreadSafeHandle: asyncio's methods,
 * private attributes, repr and comparisons.
 *
 * isinstance(handle, asyncio.Handle) is true through a `__class__` getter.
 */
#include "python/handle.h"

static struct pyl_handle *
handle_of(PyObject *self)
{
    return (struct pyl_handle *)self;
}

static struct pyl_timer_handle *
timer_handle_of(PyObject *self)
{
    return (struct pyl_timer_handle *)self;
}

static bool
is_timer(PyObject *self)
{
    return Py_IS_TYPE(self, handle_of(self)->loop->state->timer_handle_type);
}

/* Methods. */

static PyObject *
handle_cancel(PyObject *self, PyObject *unused)
{
    pyl_handle_cancel(handle_of(self));
    Py_RETURN_NONE;
}

static PyObject *
handle_cancelled(PyObject *self, PyObject *unused)
{
    struct pyl_handle *handle = handle_of(self);
    if (!pyl_handle_is_threadsafe(handle)) {
        return PyBool_FromLong(handle->is_cancelled);
    }
    pyl_handle_lock_running(handle);
    bool is_cancelled = handle->is_cancelled;
    pthread_mutex_unlock(&handle->loop->running_lock);
    return PyBool_FromLong(is_cancelled);
}

static PyObject *
handle_get_context(PyObject *self, PyObject *unused)
{
    return Py_XNewRef(pyl_handle_need_context(handle_of(self)));
}

/* What KeyboardInterrupt and SystemExit do is the caller's matter here, as in asyncio. */
static PyObject *
handle_run(PyObject *self, PyObject *unused)
{
    struct pyl_loop *loop = handle_of(self)->loop;
    PyObject *earlier = loop->raised;
    loop->raised = NULL;
    pyl_handle_run(handle_of(self));
    PyObject *raised = loop->raised;
    loop->raised = earlier;
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
timer_handle_when(PyObject *self, PyObject *unused)
{
    return PyFloat_FromDouble(timer_handle_of(self)->when);
}

/* repr() */

/* text = format(text, part), where both are consumed and either may be NULL with an exception set.
 */
static PyObject *
join(PyObject *text, PyObject *part)
{
    PyObject *joined = NULL;
    if (text != NULL && part != NULL) {
        joined = PyUnicode_FromFormat("%U %U", text, part);
    }
    Py_XDECREF(text);
    Py_XDECREF(part);
    return joined;
}

static PyObject *
describe_origin(struct pyl_handle *handle)
{
    Py_ssize_t size = PySequence_Size(handle->source_traceback);
    if (size <= 0) {
        return NULL;
    }
    PyObject *frame = PySequence_GetItem(handle->source_traceback, size - 1);
    if (frame == NULL) {
        return NULL;
    }
    PyObject *file = PySequence_GetItem(frame, 0);
    PyObject *line = PySequence_GetItem(frame, 1);
    PyObject *text = NULL;
    if (file != NULL && line != NULL) {
        text = PyUnicode_FromFormat("created at %S:%S", file, line);
    }
    Py_XDECREF(file);
    Py_XDECREF(line);
    Py_DECREF(frame);
    return text;
}

static PyObject *
handle_repr(PyObject *self)
{
    struct pyl_handle *handle = handle_of(self);
    if (handle->repr != NULL) {
        return Py_NewRef(handle->repr);
    }
    const char *name = is_timer(self)                     ? "TimerHandle"
                       : pyl_handle_is_threadsafe(handle) ? "_ThreadSafeHandle"
                                                          : "Handle";
    PyObject *text = PyUnicode_FromFormat("<%s", name);
    if (text != NULL && handle->is_cancelled) {
        text = join(text, PyUnicode_FromString("cancelled"));
    }
    if (text != NULL && is_timer(self)) {
        PyObject *when = PyFloat_FromDouble(timer_handle_of(self)->when);
        text = join(text, when != NULL ? PyUnicode_FromFormat("when=%S", when) : NULL);
        Py_XDECREF(when);
    }
    if (text != NULL && handle->callback != NULL) {
        text = join(text, pyl_handle_format_callback(handle));
    }
    if (text != NULL && handle->source_traceback != NULL) {
        text = join(text, describe_origin(handle));
    }
    if (text == NULL) {
        return NULL;
    }
    PyObject *result = PyUnicode_FromFormat("%U>", text);
    Py_DECREF(text);
    return result;
}

/* asyncio's private attributes, which debuggers and the standard library's own helpers read. */

static PyObject *
handle_get_class(PyObject *self, void *unused)
{
    struct pyl_handle *handle = handle_of(self);
    struct pyl_state *state = handle->loop->state;
    if (is_timer(self)) {
        return Py_NewRef(state->asyncio_timer_handle);
    }
    if (pyl_handle_is_threadsafe(handle) && state->asyncio_threadsafe_handle != NULL) {
        return Py_NewRef(state->asyncio_threadsafe_handle);
    }
    return Py_NewRef(state->asyncio_handle);
}

static PyObject *
new_ref_or_none(PyObject *object)
{
    return Py_NewRef(object != NULL ? object : Py_None);
}

static PyObject *
handle_get_callback(PyObject *self, void *unused)
{
    return new_ref_or_none(handle_of(self)->callback);
}

static PyObject *
handle_get_args(PyObject *self, void *unused)
{
    struct pyl_handle *handle = handle_of(self);
    return handle->callback != NULL ? pyl_handle_args(handle) : Py_NewRef(Py_None);
}

static PyObject *
handle_get_cancelled(PyObject *self, void *unused)
{
    return PyBool_FromLong(handle_of(self)->is_cancelled);
}

static PyObject *
handle_get_loop(PyObject *self, void *unused)
{
    return Py_NewRef((PyObject *)handle_of(self)->loop);
}

static PyObject *
handle_get_context_attribute(PyObject *self, void *unused)
{
    return Py_XNewRef(pyl_handle_need_context(handle_of(self)));
}

static PyObject *
handle_get_repr(PyObject *self, void *unused)
{
    return new_ref_or_none(handle_of(self)->repr);
}

static PyObject *
handle_get_source_traceback(PyObject *self, void *unused)
{
    return new_ref_or_none(handle_of(self)->source_traceback);
}

static PyObject *
timer_handle_get_scheduled(PyObject *self, void *unused)
{
    struct pyl_timer_handle *timer_handle = timer_handle_of(self);
    struct pyl_handle *handle = &timer_handle->handle;
    /* Queued: on its way to the heap from another thread, on a free-threaded build. */
    return PyBool_FromLong(!handle->is_cancelled &&
                           (timer_handle->timer.is_armed || handle->is_queued));
}

static PyObject *
timer_handle_get_when(PyObject *self, void *unused)
{
    return PyFloat_FromDouble(timer_handle_of(self)->when);
}

/* Comparison of TimerHandles, also with asyncio's own. */

/* 0 equal, 1 not, -1 with an exception. */
static int
differ(PyObject *self, PyObject *other, PyObject *name)
{
    PyObject *a = PyObject_GetAttr(self, name);
    PyObject *b = a != NULL ? PyObject_GetAttr(other, name) : NULL;
    int is_equal = b != NULL ? PyObject_RichCompareBool(a, b, Py_EQ) : -1;
    Py_XDECREF(a);
    Py_XDECREF(b);
    return is_equal < 0 ? -1 : !is_equal;
}

static int
timer_handles_equal(PyObject *self, PyObject *other)
{
    struct pyl_strings *str = &handle_of(self)->loop->state->str;
    PyObject *const names[] = {str->_when, str->_callback, str->_args, str->_cancelled};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        int status = differ(self, other, names[i]);
        if (status != 0) {
            return status < 0 ? -1 : 0;
        }
    }
    return 1;
}

static PyObject *
timer_handle_compare(PyObject *self, PyObject *other, int operation)
{
    struct pyl_state *state = handle_of(self)->loop->state;
    int is_timer_handle = PyObject_IsInstance(other, state->asyncio_timer_handle);
    if (is_timer_handle < 0) {
        return NULL;
    }
    if (!is_timer_handle) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    if (operation == Py_EQ || operation == Py_NE) {
        int is_equal = timer_handles_equal(self, other);
        return is_equal < 0 ? NULL : PyBool_FromLong(is_equal == (operation == Py_EQ));
    }
    PyObject *other_when = PyObject_GetAttr(other, state->str._when);
    PyObject *when = timer_handle_when(self, NULL);
    PyObject *result = NULL;
    if (when != NULL && other_when != NULL) {
        int strict = operation == Py_LE ? Py_LT : operation == Py_GE ? Py_GT : operation;
        int is_true = PyObject_RichCompareBool(when, other_when, strict);
        if (is_true == 0 && strict != operation) {
            is_true = timer_handles_equal(self, other);
        }
        result = is_true < 0 ? NULL : PyBool_FromLong(is_true);
    }
    Py_XDECREF(when);
    Py_XDECREF(other_when);
    return result;
}

static Py_hash_t
timer_handle_hash(PyObject *self)
{
    PyObject *when = timer_handle_when(self, NULL);
    Py_hash_t hash = when != NULL ? PyObject_Hash(when) : -1;
    Py_XDECREF(when);
    return hash;
}

/* Types. */

#define HANDLE_METHODS                                                                          \
    {"cancel", handle_cancel, METH_NOARGS, PyDoc_STR("Do not call the callback.")},             \
        {"cancelled", handle_cancelled, METH_NOARGS, PyDoc_STR("Was cancel() called?")},        \
        {"get_context", handle_get_context, METH_NOARGS, PyDoc_STR("The callback's context.")}, \
    {                                                                                           \
        "_run", handle_run, METH_NOARGS, NULL                                                   \
    }

#define HANDLE_GETTERS                                                     \
    {"__class__", handle_get_class, NULL, NULL, NULL},                     \
        {"_callback", handle_get_callback, NULL, NULL, NULL},              \
        {"_args", handle_get_args, NULL, NULL, NULL},                      \
        {"_cancelled", handle_get_cancelled, NULL, NULL, NULL},            \
        {"_loop", handle_get_loop, NULL, NULL, NULL},                      \
        {"_context", handle_get_context_attribute, NULL, NULL, NULL},      \
        {"_repr", handle_get_repr, NULL, NULL, NULL},                      \
    {                                                                      \
        "_source_traceback", handle_get_source_traceback, NULL, NULL, NULL \
    }

static PyMethodDef handle_methods[] = {
    HANDLE_METHODS,
    {NULL},
};

static PyMethodDef timer_handle_methods[] = {
    HANDLE_METHODS,
    {"when", timer_handle_when, METH_NOARGS, PyDoc_STR("The time it is due, on loop.time().")},
    {NULL},
};

static PyGetSetDef handle_getters[] = {
    HANDLE_GETTERS,
    {NULL},
};

static PyGetSetDef timer_handle_getters[] = {
    HANDLE_GETTERS,
    {"_scheduled", timer_handle_get_scheduled, NULL, NULL, NULL},
    {"_when", timer_handle_get_when, NULL, NULL, NULL},
    {NULL},
};

static PyMemberDef handle_members[] = {
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(struct pyl_handle, weakrefs), Py_READONLY, NULL},
    {NULL},
};

#define HANDLE_SLOTS                                                            \
    {Py_tp_dealloc, pyl_handle_dealloc}, {Py_tp_traverse, pyl_handle_traverse}, \
        {Py_tp_clear, pyl_handle_clear}, {Py_tp_repr, handle_repr},             \
    {                                                                           \
        Py_tp_members, handle_members                                           \
    }

static PyType_Slot handle_slots[] = {
    HANDLE_SLOTS,
    {Py_tp_methods, handle_methods},
    {Py_tp_getset, handle_getters},
    {0, NULL},
};

static PyType_Slot timer_handle_slots[] = {
    HANDLE_SLOTS,
    {Py_tp_methods, timer_handle_methods},
    {Py_tp_getset, timer_handle_getters},
    {Py_tp_richcompare, timer_handle_compare},
    {Py_tp_hash, timer_handle_hash},
    {0, NULL},
};

enum {
    HANDLE_FLAGS = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
                   Py_TPFLAGS_DISALLOW_INSTANTIATION,
};

static PyType_Spec handle_spec = {
    .name = "pyloop._core.Handle",
    .basicsize = sizeof(struct pyl_handle),
    .flags = HANDLE_FLAGS,
    .slots = handle_slots,
};

static PyType_Spec timer_handle_spec = {
    .name = "pyloop._core.TimerHandle",
    .basicsize = sizeof(struct pyl_timer_handle),
    .flags = HANDLE_FLAGS,
    .slots = timer_handle_slots,
};

static PyType_Spec threadsafe_handle_spec = {
    .name = "pyloop._core.ThreadSafeHandle",
    .basicsize = sizeof(struct pyl_handle),
    .flags = HANDLE_FLAGS,
    .slots = handle_slots,
};

int
pyl_handle_types_add(PyObject *module, struct pyl_state *state)
{
    pyl_handle_add_job_kinds(state);
    if (pyl_add_type(module, &handle_spec, NULL, true, &state->handle_type) < 0 ||
        pyl_add_type(module, &timer_handle_spec, NULL, true, &state->timer_handle_type) < 0 ||
        pyl_add_type(module, &threadsafe_handle_spec, NULL, true, &state->threadsafe_handle_type) <
            0) {
        return -1;
    }
    return 0;
}
