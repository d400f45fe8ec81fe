/*
 * outside.c - what C has a loop do, and lends to it.
 *
 * A coroutine's item is held by the port with its task, and owned by a capsule in the task's done
 * callback: its memory goes with the callback, which the port outlives.
 */
#include "python/outside.h"

#include <errno.h>

#include "base/alloc.h"

/* ---- calls ---- */

struct call {
    struct pyl_port_item item;
    void (*call)(void *argument);
    pyloop_drop *drop;
    void *argument;
};

static void
call_free(struct call *call)
{
    pyl_port_unref(call->item.port);
    pyl_free(call);
}

static void
call_run(struct pyl_port_item *item, struct pyl_loop *loop)
{
    struct call *call = PYL_CONTAINER_OF(item, struct call, item);
    if (loop == NULL) {
        if (call->drop != NULL) {
            call->drop(call->argument);
        }
    } else {
        call->call(call->argument);
        if (PyErr_Occurred()) {
            pyl_loop_report(loop, "Exception in a native call", NULL, NULL);
        }
    }
    call_free(call);
}

int
pyl_outside_call(struct pyloop_port *port, void (*function)(void *argument), pyloop_drop *drop,
                 void *argument)
{
    struct call *call = pyl_alloc_zero(sizeof(*call));
    if (call == NULL) {
        return -ENOMEM;
    }
    pyl_port_item_init(&call->item, port);
    call->item.run = call_run;
    call->call = function;
    call->drop = drop;
    call->argument = argument;
    int rc = pyl_port_post(&call->item);
    if (rc < 0) {
        call_free(call);
    }
    return rc;
}

/* ---- coroutines ---- */

static void
coroutine_release(struct pyl_coroutine *coroutine)
{
    pyl_port_unref(coroutine->item.port);
    coroutine->release(coroutine);
}

/* Calls `done`, unless that happened. The current exception is kept apart from it. */
static void
tell(struct pyl_coroutine *coroutine, PyObject *result, PyObject *exception)
{
    pyloop_coroutine_done *done = coroutine->done;
    if (done == NULL) {
        return;
    }
    coroutine->done = NULL;
    done(coroutine->argument, result, exception);
    if (PyErr_Occurred()) {
        PyErr_WriteUnraisable(coroutine->item.object);
    }
}

static void
tell_raised(struct pyl_coroutine *coroutine)
{
    PyObject *exception = PyErr_GetRaisedException();
    tell(coroutine, NULL, exception);
    Py_XDECREF(exception);
}

static void
on_closed(struct pyl_port_item *item)
{
    tell(PYL_CONTAINER_OF(item, struct pyl_coroutine, item), NULL, NULL);
}

/* The task's done callback. */
static PyObject *
on_task_done(PyObject *capsule, PyObject *task)
{
    struct pyl_coroutine *coroutine = PyCapsule_GetPointer(capsule, NULL);
    if (coroutine == NULL) {
        return NULL;
    }
    PyObject *kept = pyl_port_take(&coroutine->item);
    PyObject *result = PyObject_CallMethod(task, "result", NULL);
    if (result != NULL) {
        tell(coroutine, result, NULL);
        Py_DECREF(result);
    } else {
        tell_raised(coroutine);
    }
    Py_XDECREF(kept);
    Py_RETURN_NONE;
}

static PyMethodDef on_task_done_def = {"_native_done", on_task_done, METH_O, NULL};

static void
capsule_free(PyObject *capsule)
{
    coroutine_release(PyCapsule_GetPointer(capsule, NULL));
}

/* The callback owns the coroutine from now on. New reference; NULL, and it is the caller's. */
static PyObject *
callback_new(struct pyl_coroutine *coroutine)
{
    PyObject *capsule = PyCapsule_New(coroutine, NULL, NULL);
    PyObject *callback = capsule != NULL ? PyCFunction_New(&on_task_done_def, capsule) : NULL;
    if (callback != NULL) {
        (void)PyCapsule_SetDestructor(capsule, capsule_free);
    }
    Py_XDECREF(capsule);
    return callback;
}

/* The task, new reference, or NULL with an exception. */
static PyObject *
task_new(struct pyl_coroutine *coroutine, struct pyl_loop *loop)
{
    PyObject *object = coroutine->make(coroutine->argument);
    if (object == NULL) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_SystemError, "a native function made no coroutine");
        }
        return NULL;
    }
    PyObject *task = PyObject_CallMethod((PyObject *)loop, "create_task", "O", object);
    Py_DECREF(object);
    return task;
}

static void
coroutine_run(struct pyl_port_item *item, struct pyl_loop *loop)
{
    struct pyl_coroutine *coroutine = PYL_CONTAINER_OF(item, struct pyl_coroutine, item);
    if (loop == NULL) {
        tell(coroutine, NULL, NULL);
        coroutine_release(coroutine);
        return;
    }
    PyObject *callback = callback_new(coroutine);
    if (callback == NULL) {
        tell_raised(coroutine);
        coroutine_release(coroutine);
        return;
    }
    PyObject *task = task_new(coroutine, loop);
    PyObject *added =
        task != NULL ? PyObject_CallMethod(task, "add_done_callback", "O", callback) : NULL;
    if (added != NULL) {
        pyl_port_hold(item, task);
        Py_DECREF(added);
    } else {
        tell_raised(coroutine);
        Py_XDECREF(task);
    }
    Py_DECREF(callback);
}

int
pyl_coroutine_start(struct pyl_coroutine *coroutine, struct pyloop_port *port)
{
    pyl_port_item_init(&coroutine->item, port);
    coroutine->item.run = coroutine_run;
    coroutine->item.on_closed = on_closed;
    int rc = pyl_port_post(&coroutine->item);
    if (rc < 0) {
        pyl_port_unref(port);
    }
    return rc;
}

static void
coroutine_free(struct pyl_coroutine *coroutine)
{
    pyl_free(coroutine);
}

int
pyl_outside_coroutine(struct pyloop_port *port, pyloop_make *make, pyloop_coroutine_done *done,
                      void *argument)
{
    struct pyl_coroutine *coroutine = pyl_alloc_zero(sizeof(*coroutine));
    if (coroutine == NULL) {
        return -ENOMEM;
    }
    coroutine->make = make;
    coroutine->done = done;
    coroutine->argument = argument;
    coroutine->release = coroutine_free;
    int rc = pyl_coroutine_start(coroutine, port);
    if (rc < 0) {
        pyl_free(coroutine);
    }
    return rc;
}

/* ---- memory ---- */

struct lent {
    PyObject_HEAD
    void *data;
    Py_ssize_t size;
    bool is_writable;
    void (*release)(void *owner); /* NULL: nothing to do */
    void *owner;
};

static struct lent *
lent_cast(PyObject *object)
{
    return (struct lent *)(void *)object;
}

static int
lent_getbuffer(PyObject *op, Py_buffer *view, int flags)
{
    struct lent *lent = lent_cast(op);
    return PyBuffer_FillInfo(view, op, lent->data, lent->size, !lent->is_writable, flags);
}

/* `release` may use Python, so an exception that is on its way is kept apart. */
static void
lent_dealloc(PyObject *op)
{
    struct lent *lent = lent_cast(op);
    PyTypeObject *type = Py_TYPE(op);
    if (lent->release != NULL) {
        PyObject *exception = PyErr_GetRaisedException();
        lent->release(lent->owner);
        if (PyErr_Occurred()) {
            PyErr_WriteUnraisable(NULL);
        }
        pyl_restore_exception(exception);
    }
    type->tp_free(op);
    Py_DECREF(type);
}

static PyType_Slot lent_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("Memory of native code, as a buffer.")},
    {Py_tp_dealloc, lent_dealloc},
    {Py_bf_getbuffer, lent_getbuffer},
    {0, NULL},
};

static PyType_Spec lent_spec = {
    .name = "pyloop._core.LentMemory",
    .basicsize = sizeof(struct lent),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = lent_slots,
};

int
pyl_lent_type_add(PyObject *module, struct pyl_state *state)
{
    return pyl_add_type(module, &lent_spec, NULL, false, &state->lent_type);
}

PyObject *
pyl_outside_lend(PyObject *core, void *data, size_t size, int is_writable,
                 void (*release)(void *owner), void *owner)
{
    if (size > PY_SSIZE_T_MAX) {
        PyErr_SetString(PyExc_OverflowError, "the memory is larger than a buffer can be");
        return NULL;
    }
    PyTypeObject *type = pyl_state_of_module(core)->lent_type;
    struct lent *lent = (struct lent *)(void *)type->tp_alloc(type, 0);
    if (lent == NULL) {
        return NULL;
    }
    lent->data = data;
    lent->size = (Py_ssize_t)size;
    lent->is_writable = is_writable;
    PyObject *view = PyMemoryView_FromObject((PyObject *)lent);
    if (view != NULL) { /* else the memory is still the caller's */
        lent->release = release;
        lent->owner = owner;
    }
    Py_DECREF(lent);
    return view;
}
