/*
 * future_type.c - the type pyloop._core.Future: life, garbage collection, methods.
 *
 * Not here: what finishing means (future_state.c), the order of callbacks (future_callbacks.c), the
 * attributes (future_attributes.c), await (future_iter.c).
 */
#include "python/future.h"

#include "base/check.h"
#include "python/instance_dict.h"
#include "python/keywords.h"

#include <string.h>

/* ---- memory */

/* PYL_FREELIST_KINDS: subclasses have none. */
static enum pyl_freelist_kind
freelist_of(struct pyl_state *state, PyTypeObject *type)
{
    if (type == state->task_type) {
        return PYL_FREELIST_TASK;
    }
    return type == state->future_type ? PYL_FREELIST_FUTURE : PYL_FREELIST_KINDS;
}

struct pyl_future *
pyl_future_alloc(struct pyl_state *state, PyTypeObject *type)
{
    enum pyl_freelist_kind kind = freelist_of(state, type);
    PyObject *object;
    if (PYL_UNLIKELY(kind == PYL_FREELIST_KINDS)) {
        object = type->tp_alloc(type, 0);
        if (object == NULL) {
            return NULL;
        }
    } else {
        object = pyl_freelist_new(pyl_freelist_of(state, kind), type);
        if (object == NULL) {
            return NULL;
        }
        memset((char *)object + sizeof(PyObject), 0, (size_t)type->tp_basicsize - sizeof(PyObject));
        PyObject_GC_Track(object);
    }
    pyl_future_cast(object)->state = state;
    pyl_future_cast(object)->dict = pyl_instance_dict_new(state);
    return pyl_future_cast(object);
}

void
pyl_future_free(struct pyl_future *future)
{
    PyTypeObject *type = Py_TYPE(future);
    enum pyl_freelist_kind kind = freelist_of(future->state, type);
    /* An object whose finaliser ran carries a mark that would keep it from running again. */
    if (PYL_LIKELY(kind != PYL_FREELIST_KINDS && !PyObject_GC_IsFinalized((PyObject *)future))) {
        pyl_freelist_free(pyl_freelist_of(future->state, kind), (PyObject *)future);
    } else {
        type->tp_free(future);
        Py_DECREF(type);
    }
}

int
pyl_task_state_traverse(struct pyl_task_state *state, visitproc visit, void *arg)
{
    Py_VISIT(state->context_names);
    Py_VISIT(state->coroutine_types);
    Py_VISIT(state->done_awaitable);
    return 0;
}

void
pyl_task_state_clear(struct pyl_task_state *state)
{
    Py_CLEAR(state->context_names);
    Py_CLEAR(state->coroutine_types);
    Py_CLEAR(state->done_awaitable);
}

int
pyl_future_set_rare(struct pyl_future *future, enum pyl_future_rare which, PyObject *value)
{
    if (future->rare == NULL) {
        if (value == NULL) {
            return 0;
        }
        future->rare = PyMem_Calloc(PYL_FUTURE_RARE_COUNT, sizeof(*future->rare));
        if (future->rare == NULL) {
            Py_DECREF(value);
            PyErr_NoMemory();
            return -1;
        }
    }
    Py_XSETREF(future->rare[which], value);
    return 0;
}

static int
traverse_rare(struct pyl_future *future, visitproc visit, void *arg)
{
    for (int i = 0; future->rare != NULL && i < PYL_FUTURE_RARE_COUNT; i++) {
        Py_VISIT(future->rare[i]);
    }
    return 0;
}

static void
clear_rare(struct pyl_future *future)
{
    PyObject **rare = future->rare;
    if (PYL_LIKELY(rare == NULL)) {
        return;
    }
    future->rare = NULL; /* before anybody's code runs */
    for (int i = 0; i < PYL_FUTURE_RARE_COUNT; i++) {
        Py_XDECREF(rare[i]);
    }
    PyMem_Free(rare);
}

int
pyl_future_traverse_fields(struct pyl_future *future, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(future));
    Py_VISIT(future->loop);
    Py_VISIT(future->callback0);
    Py_VISIT(future->context0);
    Py_VISIT(future->callbacks);
    Py_VISIT(future->result);
    Py_VISIT(future->exception);
    Py_VISIT(future->dict);
    return traverse_rare(future, visit, arg);
}

static void
clear_state_fields(struct pyl_future *future)
{
    future->native = NULL;
    Py_CLEAR(future->loop);
    Py_CLEAR(future->callback0);
    Py_CLEAR(future->context0);
    Py_CLEAR(future->callbacks);
    Py_CLEAR(future->result);
    Py_CLEAR(future->exception);
    clear_rare(future);
}

void
pyl_future_clear_fields(struct pyl_future *future)
{
    clear_state_fields(future);
    Py_CLEAR(future->dict);
}

static int
future_traverse(PyObject *op, visitproc visit, void *arg)
{
    return pyl_future_traverse_fields(pyl_future_cast(op), visit, arg);
}

static int
future_clear(PyObject *op)
{
    pyl_future_clear_fields(pyl_future_cast(op));
    return 0;
}

/* ---- life */

static PyObject *
future_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    return (PyObject *)pyl_future_alloc(pyl_state_of_type(type), type);
}

/* `native` or, if that is NULL, loop.get_debug(): 1, 0 or -1. */
static int
is_debug(struct pyl_future *future)
{
    if (future->native != NULL) {
        return atomic_load_explicit(&future->native->is_debug, memory_order_relaxed);
    }
    PyObject *debug = PyObject_CallMethodNoArgs(future->loop, future->state->str.get_debug);
    if (debug == NULL) {
        return -1;
    }
    int is_true = PyObject_IsTrue(debug);
    Py_DECREF(debug);
    return is_true;
}

static int
set_source_traceback(struct pyl_future *future)
{
    if (pyl_is_finalizing()) {
        return 0; /* a future made by a __del__ at exit: the traceback module is gone */
    }
    PyObject *stack = PyObject_CallNoArgs(future->state->extract_stack);
    return stack != NULL ? pyl_future_set_rare(future, PYL_FUTURE_SOURCE_TRACEBACK, stack) : -1;
}

int
pyl_future_init(struct pyl_future *future, PyObject *loop)
{
    clear_state_fields(future);
    future->status = PYL_FUTURE_PENDING;
    future->log_traceback = false;
    future->is_blocking = false;

    if (loop == NULL || Py_IsNone(loop)) {
        loop = PyObject_CallNoArgs(future->state->get_event_loop);
        if (loop == NULL) {
            return -1;
        }
    } else {
        Py_INCREF(loop);
    }
    future->loop = loop;
    future->native = pyl_loop_cast(future->state, loop);

    int debug = is_debug(future);
    if (debug <= 0) {
        return debug;
    }
    return set_source_traceback(future);
}

int
pyl_future_init_native(struct pyl_future *future, struct pyl_loop *loop)
{
    future->loop = Py_NewRef((PyObject *)loop);
    future->native = loop;
    return PYL_UNLIKELY(atomic_load_explicit(&loop->is_debug, memory_order_relaxed))
               ? set_source_traceback(future)
               : 0;
}

static int
future_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"loop", NULL};
    PyObject *loop = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$O:Future", names, &loop)) {
        return -1;
    }
    return pyl_future_init(pyl_future_cast(op), loop);
}

void
pyl_future_complain(struct pyl_future *future, PyObject *key, PyObject *message,
                    PyObject *exception)
{
    struct pyl_strings *str = &future->state->str;
    PyObject *stack = pyl_future_rare(future, PYL_FUTURE_SOURCE_TRACEBACK);
    PyObject *context = NULL;
    if (message == NULL || future->loop == NULL || str->message == NULL ||
        (context = PyDict_New()) == NULL) {
        goto out;
    }
    if (PyDict_SetItem(context, str->message, message) < 0 ||
        PyDict_SetItem(context, key, (PyObject *)future) < 0 ||
        (exception != NULL && PyDict_SetItem(context, str->exception, exception) < 0) ||
        (stack != NULL && PyDict_SetItem(context, str->source_traceback, stack) < 0)) {
        goto out;
    }
    Py_XDECREF(PyObject_CallMethodOneArg(future->loop, str->call_exception_handler, context));
out:
    if (PyErr_Occurred()) {
        PyErr_WriteUnraisable(future->loop);
    }
    Py_XDECREF(context);
    Py_XDECREF(message);
}

const char *
pyl_future_type_name(PyObject *op)
{
    const char *dot = strrchr(Py_TYPE(op)->tp_name, '.');
    return dot != NULL ? dot + 1 : Py_TYPE(op)->tp_name;
}

void
pyl_future_warn_unretrieved(struct pyl_future *future)
{
    if (!future->log_traceback) {
        return;
    }
    future->log_traceback = false;
    PyObject *saved = PyErr_GetRaisedException();
    PyObject *message = PyUnicode_FromFormat("%s exception was never retrieved",
                                             pyl_future_type_name((PyObject *)future));
    pyl_future_complain(future, future->state->str.future, message, future->exception);
    pyl_restore_exception(saved);
}

static void
future_finalize(PyObject *op)
{
    pyl_future_warn_unretrieved(pyl_future_cast(op));
}

static void
future_dealloc(PyObject *op)
{
    struct pyl_future *future = pyl_future_cast(op);
    /* Only what can be heard is finalised: most futures die without a word. */
    if (future->log_traceback && PyObject_CallFinalizerFromDealloc(op) < 0) {
        return; /* resurrected */
    }
    PyObject_GC_UnTrack(op);
    if (future->weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    pyl_future_clear_fields(future);
    pyl_future_free(future);
}

/* asyncio's whole-repr helpers take the name from __class__, which a subclass of ours shares with
 * us. */
PyObject *
pyl_future_repr(PyObject *op, PyObject *info_function)
{
    if (pyl_future_ensure_init(pyl_future_cast(op)) < 0) {
        return NULL;
    }
    int depth = Py_ReprEnter(op);
    if (depth != 0) {
        return depth < 0 ? NULL : PyUnicode_FromString("...");
    }
    PyObject *repr = NULL, *joined = NULL;
    PyObject *info = PyObject_CallOneArg(info_function, op);
    PyObject *space = PyUnicode_FromString(" ");
    if (info != NULL && space != NULL) {
        joined = PyUnicode_Join(space, info);
    }
    if (joined != NULL) {
        repr = PyUnicode_FromFormat("<%s %U>", pyl_future_type_name(op), joined);
    }
    Py_XDECREF(joined);
    Py_XDECREF(space);
    Py_XDECREF(info);
    Py_ReprLeave(op);
    return repr;
}

static PyObject *
future_repr(PyObject *op)
{
    return pyl_future_repr(op, pyl_future_cast(op)->state->future_repr_info);
}

/* ---- methods */

PyDoc_STRVAR(result_doc, "result($self, /)\n--\n\n"
                         "Return the result this future represents.\n\n"
                         "If the future has been cancelled, raises CancelledError.  If the\n"
                         "future's result isn't yet available, raises InvalidStateError.  If\n"
                         "the future is done and has an exception set, this exception is raised.");

PyObject *
pyl_future_result(PyObject *op, PyObject *unused)
{
    struct pyl_future *future = pyl_future_cast(op);
    if (future->loop == NULL) {
        PyErr_SetString(future->state->invalid_state_error, "Future object is not initialized.");
        return NULL;
    }
    PyObject *value = NULL;
    int rc = pyl_future_get_result(future, &value);
    if (rc == 1) {
        PyErr_SetObject((PyObject *)Py_TYPE(value), value);
        Py_CLEAR(value);
    }
    return value;
}

PyDoc_STRVAR(exception_doc, "exception($self, /)\n--\n\n"
                            "Return the exception that was set on this future.\n\n"
                            "The exception (or None if no exception was set) is returned only if\n"
                            "the future is done.  If the future has been cancelled, raises\n"
                            "CancelledError.  If the future isn't done yet, raises\n"
                            "InvalidStateError.");

static PyObject *
future_exception(PyObject *op, PyObject *unused)
{
    struct pyl_future *future = pyl_future_cast(op);
    if (future->loop == NULL) {
        PyErr_SetString(future->state->invalid_state_error, "Future object is not initialized.");
        return NULL;
    }
    if (future->status == PYL_FUTURE_FINISHED) {
        future->log_traceback = false;
        return Py_NewRef(future->exception != NULL ? future->exception : Py_None);
    }
    if (future->status == PYL_FUTURE_PENDING) {
        PyErr_SetString(future->state->invalid_state_error, "Exception is not set.");
        return NULL;
    }
    PyObject *error = pyl_future_make_cancelled(future);
    if (error != NULL) {
        PyErr_SetObject(future->state->cancelled_error, error);
        Py_DECREF(error);
    }
    return NULL;
}

PyDoc_STRVAR(set_result_doc, "set_result($self, result, /)\n--\n\n"
                             "Mark the future done and set its result.\n\n"
                             "If the future is already done when this method is called, raises\n"
                             "InvalidStateError.");

static PyObject *
future_set_result(PyObject *op, PyObject *result)
{
    struct pyl_future *future = pyl_future_cast(op);
    if (pyl_future_ensure_init(future) < 0 || pyl_future_finish_result(future, result) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(set_exception_doc, "set_exception($self, exception, /)\n--\n\n"
                                "Mark the future done and set an exception.\n\n"
                                "If the future is already done when this method is called, raises\n"
                                "InvalidStateError.");

static PyObject *
future_set_exception(PyObject *op, PyObject *exception)
{
    struct pyl_future *future = pyl_future_cast(op);
    if (pyl_future_ensure_init(future) < 0 || pyl_future_finish_exception(future, exception) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(add_done_callback_doc,
             "add_done_callback($self, fn, /, *, context=<unrepresentable>)\n--\n\n"
             "Add a callback to be run when the future becomes done.\n\n"
             "The callback is called with a single argument - the future object. If\n"
             "the future is already done when this is called, the callback is\n"
             "scheduled with call_soon.");

static PyObject *
future_add_done_callback(PyObject *op, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    struct pyl_future *future = pyl_future_cast(op);
    PyObject *context = NULL;
    if (count != 1) {
        return PyErr_Format(PyExc_TypeError,
                            "add_done_callback() takes exactly 1 positional argument (%zd given)",
                            count);
    }
    if (pyl_keyword_get("add_done_callback", args + count, names, future->state->str.context,
                        &context) < 0) {
        return NULL;
    }
    if (future->loop == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "uninitialized Future object");
        return NULL;
    }
    if (pyl_future_add_callback(future, args[0], context) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(remove_done_callback_doc,
             "remove_done_callback($self, fn, /)\n--\n\n"
             "Remove all instances of a callback from the \"call when done\" list.\n\n"
             "Returns the number of callbacks removed.");

static PyObject *
future_remove_done_callback(PyObject *op, PyObject *callback)
{
    struct pyl_future *future = pyl_future_cast(op);
    if (pyl_future_ensure_init(future) < 0) {
        return NULL;
    }
    Py_ssize_t removed = pyl_future_remove_callback(future, callback);
    return removed < 0 ? NULL : PyLong_FromSsize_t(removed);
}

PyDoc_STRVAR(cancel_doc, "cancel($self, /, msg=None)\n--\n\n"
                         "Cancel the future and schedule callbacks.\n\n"
                         "If the future is already done or cancelled, return False.  Otherwise,\n"
                         "change the future's state to cancelled, schedule the callbacks and\n"
                         "return True.");

static PyObject *
future_cancel(PyObject *op, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    struct pyl_future *future = pyl_future_cast(op);
    PyObject *message = Py_None;
    if (pyl_argument_get("cancel", args, count, names, future->state->str.msg, &message) < 0 ||
        pyl_future_ensure_init(future) < 0) {
        return NULL;
    }
    int rc = pyl_future_finish_cancelled(future, message);
    return rc < 0 ? NULL : PyBool_FromLong(rc);
}

PyDoc_STRVAR(cancelled_doc, "cancelled($self, /)\n--\n\nReturn True if the future was cancelled.");

static PyObject *
future_cancelled(PyObject *op, PyObject *unused)
{
    return PyBool_FromLong(pyl_future_cast(op)->status == PYL_FUTURE_CANCELLED);
}

PyDoc_STRVAR(done_doc, "done($self, /)\n--\n\n"
                       "Return True if the future is done.\n\n"
                       "Done means either that a result / exception are available, or that the\n"
                       "future was cancelled.");

static PyObject *
future_done(PyObject *op, PyObject *unused)
{
    return PyBool_FromLong(pyl_future_cast(op)->status != PYL_FUTURE_PENDING);
}

PyDoc_STRVAR(get_loop_doc,
             "get_loop($self, /)\n--\n\nReturn the event loop the Future is bound to.");

static PyObject *
future_get_loop(PyObject *op, PyObject *unused)
{
    struct pyl_future *future = pyl_future_cast(op);
    return pyl_future_ensure_init(future) < 0 ? NULL : Py_NewRef(future->loop);
}

PyDoc_STRVAR(make_cancelled_error_doc,
             "_make_cancelled_error($self, /)\n--\n\n"
             "Create the CancelledError to raise if the Future is cancelled.\n\n"
             "This should only be called once when handling a cancellation since\n"
             "it erases the context exception value.");

static PyObject *
future_make_cancelled_error(PyObject *op, PyObject *unused)
{
    return pyl_future_make_cancelled(pyl_future_cast(op));
}

static PyMethodDef future_methods[] = {
    {"result", pyl_future_result, METH_NOARGS, result_doc},
    {"exception", future_exception, METH_NOARGS, exception_doc},
    {"set_result", future_set_result, METH_O, set_result_doc},
    {"set_exception", future_set_exception, METH_O, set_exception_doc},
    {"add_done_callback", (PyCFunction)(void (*)(void))future_add_done_callback,
     METH_FASTCALL | METH_KEYWORDS, add_done_callback_doc},
    {"remove_done_callback", future_remove_done_callback, METH_O, remove_done_callback_doc},
    {"cancel", (PyCFunction)(void (*)(void))future_cancel, METH_FASTCALL | METH_KEYWORDS,
     cancel_doc},
    {"cancelled", future_cancelled, METH_NOARGS, cancelled_doc},
    {"done", future_done, METH_NOARGS, done_doc},
    {"get_loop", future_get_loop, METH_NOARGS, get_loop_doc},
    {"_make_cancelled_error", future_make_cancelled_error, METH_NOARGS, make_cancelled_error_doc},
    {"__await__", pyl_future_dunder_await, METH_NOARGS | METH_COEXIST,
     PyDoc_STR("Return an iterator to be used in an await expression.")},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, PyDoc_STR("See PEP 585")},
    {NULL},
};

static int
future_setattro(PyObject *op, PyObject *name, PyObject *value)
{
    struct pyl_future *future = pyl_future_cast(op);
    return pyl_instance_dict_set_attribute(future->state, &future->dict, op, name, value);
}

static PyMemberDef future_members[] = {
    {"__dictoffset__", Py_T_PYSSIZET, offsetof(struct pyl_future, dict), Py_READONLY},
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(struct pyl_future, weakrefs), Py_READONLY},
    {NULL},
};

PyDoc_STRVAR(
    future_type_doc,
    "Future(*, loop=None)\n--\n\n"
    "pyloop's asyncio.Future: the same interface, isinstance() included, for any event loop.\n\n"
    "This class is *almost* compatible with concurrent.futures.Future: result() and\n"
    "exception() take no timeout and raise an exception when the future isn't done yet, and\n"
    "callbacks registered with add_done_callback() are called via the loop's call_soon().");

static PyType_Slot future_slots[] = {
    {Py_tp_doc, (void *)future_type_doc},
    {Py_tp_new, future_new},
    {Py_tp_init, future_init},
    {Py_tp_dealloc, future_dealloc},
    {Py_tp_finalize, future_finalize},
    {Py_tp_traverse, future_traverse},
    {Py_tp_clear, future_clear},
    {Py_tp_repr, future_repr},
    {Py_tp_methods, future_methods},
    {Py_tp_members, future_members},
    {Py_tp_getset, pyl_future_attributes},
    {Py_tp_iter, pyl_future_iter},
    {Py_tp_iternext, pyl_future_next},
    {Py_am_await, pyl_future_await},
    {Py_am_send, pyl_future_send},
    {PYL_INSTANCE_DICT_SETATTRO, future_setattro},
    {0, NULL},
};

static PyType_Spec future_spec = {
    .name = "pyloop._core.Future",
    .basicsize = sizeof(struct pyl_future),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = future_slots,
};

static int
task_state_init(struct pyl_state *state)
{
    state->tasks.context_names = PyTuple_Pack(1, state->str.context);
    state->tasks.coroutine_types = PySet_New(NULL);
    return state->tasks.context_names != NULL && state->tasks.coroutine_types != NULL ? 0 : -1;
}

/* The slot is for `await` alone: with a __next__ method a future would count as an iterator, which
 * asyncio's is not. */
static int
hide_next(PyTypeObject *type)
{
    PyObject *dict = pyl_type_dict(type);
    if (dict == NULL) {
        return -1;
    }
    int rc = PyDict_DelItemString(dict, "__next__");
    Py_DECREF(dict);
    PyType_Modified(type);
    return rc;
}

int
pyl_future_types_add(PyObject *module, struct pyl_state *state)
{
    if (task_state_init(state) < 0 ||
        pyl_add_type(module, &future_spec, NULL, true, &state->future_type) < 0) {
        return -1;
    }
    if (hide_next(state->future_type) < 0) {
        return -1;
    }
    return pyl_future_iter_types_add(module, state);
}
