/*
 * spawn.c - a coroutine in a strand of its own.
 *
 *   QUEUED --a lane takes it--> BEGUN (task set) --the task is done--> delivered to the home view
 *      \--cancelled, or the loop ends: the coroutine never runs--/
 *
 * Once begun the strand has done its work, which is to find a lane: everything that the task does
 * from then on is queued in that lane's view. References: the runtime holds one until on_ended, the
 * task's done hook one until it is delivered, so a spawned task needs nobody to keep it.
 */
#include "python/spawn.h"

#include "python/crossing.h"
#include "python/keywords.h"
#include "python/views.h"

struct pyl_spawned {
    struct pyl_future future; /* of the view that called spawn() */
    /* The next six are guarded by the object's critical section. */
    PyObject *task; /* NULL until begun */
    PyObject *name; /* NULL: the task's */
    PyObject *cancel_message;
    bool is_cancel_wanted; /* before there was a task */
    bool has_begun;
    PyObject *coro;       /* until begun */
    PyObject *context;    /* constant */
    struct pyl_list live; /* begun and not done: in spawned of the task's view, its thread only */
    struct pyl_strand strand;
    struct pyl_job begin;   /* the strand's only job */
    struct pyl_job deliver; /* in the queues of the home view, with a reference */
};

static struct pyl_spawned *
spawned_cast(PyObject *object)
{
    return (struct pyl_spawned *)(void *)object;
}

/* ---- the outcome ---- */

/* Home view. Never with an exception. */
static void
finish(struct pyl_spawned *self)
{
    PyObject *value;
    int rc;
    switch (pyl_future_outcome(self->task, true, &value)) {
    case 0:
        rc = pyl_future_finish_result(&self->future, value);
        break;
    case 1:
        rc = pyl_future_finish_exception(&self->future, value);
        break;
    default:
        value = pyl_future_make_cancelled(pyl_future_cast(self->task));
        if (value == NULL) {
            rc = -1;
            break;
        }
        pyl_future_keep_cancelled(&self->future, value); /* with where it came from */
        rc = pyl_future_finish_cancelled(&self->future, NULL);
        value = NULL;
    }
    Py_XDECREF(value);
    if (rc < 0) {
        pyl_loop_report(self->future.native, "Exception in the delivery of a spawned task",
                        "future", (PyObject *)self);
    }
}

static void
run_deliver(struct pyl_job *job)
{
    struct pyl_spawned *self = PYL_CONTAINER_OF(job, struct pyl_spawned, deliver);
    finish(self);
    Py_DECREF(self);
}

/* The task's done hook, in the task's view. Takes over the reference of the hook. */
static void
on_task_done(PyObject *task, void *user)
{
    struct pyl_spawned *self = user;
    pyl_views_count_guest(pyl_future_cast(task)->native, -1);
    pyl_list_remove(&self->live);
    pyl_list_init(&self->live);
    if (pyl_loop_owns_queues(self->future.native)) {
        finish(self);
        Py_DECREF(self);
    } else if (!pyl_loop_post(self->future.native, &self->deliver)) {
        Py_DECREF(self); /* its view is closed */
    }
}

void
pyl_spawned_forget(struct pyl_loop *loop)
{
    while (!pyl_list_is_empty(&loop->spawned)) {
        struct pyl_spawned *self = PYL_CONTAINER_OF(loop->spawned.next, struct pyl_spawned, live);
        pyl_list_remove(&self->live);
        pyl_list_init(&self->live);
        pyl_future_clear_done_hook(self->task);
        Py_DECREF(self);
    }
}

/* ---- beginning ---- */

/* The task of a coroutine that raised KeyboardInterrupt or SystemExit at once is gone; the outcome
 * is not. Called with the exception, which is consumed. */
static void
finish_failed(struct pyl_spawned *self, struct pyl_loop *view)
{
    PyObject *exception = PyErr_GetRaisedException();
    PyErr_SetRaisedException(Py_NewRef(exception));
    if (PyErr_ExceptionMatches(PyExc_KeyboardInterrupt) ||
        PyErr_ExceptionMatches(PyExc_SystemExit)) {
        pyl_loop_raise(view);
    } else {
        PyErr_Clear();
    }
    if (pyl_future_finish_exception(&self->future, exception) < 0) {
        PyErr_Clear(); /* an exception class that cannot be stored */
    }
    Py_DECREF(exception);
}

static void
finish_unbegun(struct pyl_spawned *self, struct pyl_loop *view, PyObject *coro)
{
    PyObject *closed = PyObject_CallMethod(coro, "close", NULL);
    if (closed == NULL) {
        pyl_loop_report(view, "Exception in the close of a spawned coroutine", "future",
                        (PyObject *)self);
    }
    Py_XDECREF(closed);
    if (pyl_future_finish_cancelled(&self->future, self->cancel_message) < 0) {
        PyErr_WriteUnraisable((PyObject *)self); /* the home view is closed */
    }
}

/* Publishes the task. Returns whether it is to be cancelled, with the message as a new reference.
 */
static bool
set_task(struct pyl_spawned *self, PyObject *task, PyObject **ret_message)
{
    bool is_wanted;
    Py_BEGIN_CRITICAL_SECTION(self);
    self->task = Py_NewRef(task);
    is_wanted = self->is_cancel_wanted;
    *ret_message = Py_XNewRef(self->cancel_message);
    Py_END_CRITICAL_SECTION();
    return is_wanted;
}

static void
begin(struct pyl_spawned *self, struct pyl_loop *view, PyObject *coro, PyObject *name)
{
    PyObject *task = pyl_task_new(view, coro, name, self->context, true);
    if (task == NULL) {
        finish_failed(self, view);
        return;
    }
    PyObject *message;
    bool is_wanted = set_task(self, task, &message);
    pyl_list_append(&view->spawned, &self->live);
    pyl_views_count_guest(view, 1);
    Py_INCREF(self);
    pyl_future_set_done_hook(task, on_task_done, self);
    if (is_wanted && pyl_task_request_cancel(task, message) < 0) {
        pyl_loop_report(view, "Exception in the cancellation of a spawned task", "task", task);
    }
    Py_XDECREF(message);
    Py_DECREF(task);
}

/* Begins, unless it was cancelled, `may_begin` is not set or the views end. */
static void
leave_queue(struct pyl_spawned *self, struct pyl_loop *view, bool may_begin)
{
    PyObject *coro, *name;
    Py_BEGIN_CRITICAL_SECTION(self);
    coro = self->coro;
    self->coro = NULL;
    self->has_begun = true;
    name = Py_XNewRef(self->name);
    may_begin &= !self->is_cancel_wanted;
    Py_END_CRITICAL_SECTION();
    if (may_begin && !atomic_load_explicit(&view->views->is_ending, memory_order_relaxed)) {
        begin(self, view, coro, name);
    } else {
        finish_unbegun(self, view, coro);
    }
    Py_XDECREF(name);
    Py_DECREF(coro);
}

/* In the lane that has the strand from now on. */
static void
run_begin(struct pyl_job *job)
{
    struct pyl_spawned *self = PYL_CONTAINER_OF(job, struct pyl_spawned, begin);
    pyl_strand_end(&self->strand);
    leave_queue(self, pyl_views_here(self->future.native->views), true);
}

static void
strand_on_ended(struct pyl_strand *strand)
{
    Py_DECREF(PYL_CONTAINER_OF(strand, struct pyl_spawned, strand));
}

static const struct pyl_strand_ops strand_ops = {
    .on_stop = NULL, /* its one job sees views->is_ending */
    .on_ended = strand_on_ended,
};

/* ---- spawning ---- */

static struct pyl_spawned *
spawned_new(struct pyl_loop *loop, PyObject *coro, PyObject *name, PyObject *context)
{
    struct pyl_state *state = loop->state;
    struct pyl_spawned *self =
        (struct pyl_spawned *)(void *)pyl_future_alloc(state, state->spawned_type);
    if (self == NULL) {
        return NULL;
    }
    pyl_list_init(&self->live);
    pyl_strand_init(&self->strand, &strand_ops);
    self->begin.run = run_begin;
    self->deliver.run = run_deliver;
    self->coro = Py_NewRef(coro);
    self->context = context == Py_None ? PyContext_CopyCurrent() : Py_NewRef(context);
    self->name = name == Py_None ? NULL : PyObject_Str(name);
    if (self->context == NULL || (self->name == NULL && name != Py_None) ||
        pyl_future_init_native(&self->future, loop) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return self;
}

PyObject *
pyl_loop_py_spawn(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    struct pyl_loop *loop = (struct pyl_loop *)(void *)op;
    if (count != 3) {
        return PyErr_Format(PyExc_TypeError, "_spawn() takes 3 arguments (%zd given)", count);
    }
    if (pyl_loop_check_usable(loop) < 0) {
        return NULL;
    }
    if (loop->views == NULL || pyl_views_here(loop->views) != loop) {
        PyErr_SetString(PyExc_RuntimeError, "spawn() is for a running loop in parallel mode");
        return NULL;
    }
    if (args[2] != Py_None && !PyContext_CheckExact(args[2])) {
        return PyErr_Format(PyExc_TypeError, "a Context is required, got %R", args[2]);
    }
    struct pyl_spawned *self = spawned_new(loop, args[0], args[1], args[2]);
    if (self == NULL) {
        return NULL;
    }
    Py_INCREF(self); /* the runtime's, until on_ended */
    if (pyl_runtime_spawn(&loop->views->runtime, &self->strand, &self->begin) < 0) {
        leave_queue(self, loop, false); /* the lanes end: as what was queued before */
        Py_DECREF(self);
    }
    return (PyObject *)self;
}

/* ---- methods ---- */

static PyObject *
method_cancel(PyObject *op, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    struct pyl_spawned *self = spawned_cast(op);
    PyObject *message = Py_None;
    if (pyl_argument_get("cancel", args, count, names, self->future.state->str.msg, &message) < 0) {
        return NULL;
    }
    PyObject *task = NULL;
    int rc = 0;
    Py_BEGIN_CRITICAL_SECTION(self);
    if (self->future.status == PYL_FUTURE_PENDING) {
        rc = 1;
        task = Py_XNewRef(self->task);
        if (task == NULL) {
            self->is_cancel_wanted = true;
            Py_XSETREF(self->cancel_message, Py_NewRef(message));
        }
    }
    Py_END_CRITICAL_SECTION();
    if (task != NULL) {
        rc = pyl_task_request_cancel(task, message);
        Py_DECREF(task);
    }
    return rc < 0 ? NULL : PyBool_FromLong(rc);
}

/* The task (new reference), or NULL: it has not begun. */
static PyObject *
task_of(struct pyl_spawned *self)
{
    PyObject *task;
    Py_BEGIN_CRITICAL_SECTION(self);
    task = Py_XNewRef(self->task);
    Py_END_CRITICAL_SECTION();
    return task;
}

static PyObject *
method_get_name(PyObject *op, PyObject *unused)
{
    struct pyl_spawned *self = spawned_cast(op);
    PyObject *task = task_of(self);
    if (task != NULL) {
        PyObject *name = PyObject_CallMethod(task, "get_name", NULL);
        Py_DECREF(task);
        return name;
    }
    PyObject *name;
    Py_BEGIN_CRITICAL_SECTION(self);
    if (self->name == NULL && !self->has_begun) { /* the name that the task will get */
        self->name =
            PyUnicode_FromFormat("Task-%llu", pyl_task_next_number(&self->future.state->tasks));
    }
    name = self->name != NULL || !self->has_begun ? Py_XNewRef(self->name) : Py_NewRef(Py_None);
    Py_END_CRITICAL_SECTION();
    return name;
}

static PyObject *
method_get_coro(PyObject *op, PyObject *unused)
{
    struct pyl_spawned *self = spawned_cast(op);
    PyObject *coro;
    Py_BEGIN_CRITICAL_SECTION(self);
    coro = Py_XNewRef(self->coro);
    Py_END_CRITICAL_SECTION();
    if (coro != NULL) {
        return coro;
    }
    PyObject *task = task_of(self);
    if (task == NULL) {
        Py_RETURN_NONE;
    }
    coro = PyObject_CallMethod(task, "get_coro", NULL);
    Py_DECREF(task);
    return coro;
}

static PyObject *
method_get_context(PyObject *op, PyObject *unused)
{
    return Py_XNewRef(spawned_cast(op)->context);
}

static PyObject *
refuse_result(PyObject *op, PyObject *value)
{
    PyErr_SetString(PyExc_RuntimeError, "the outcome of a spawned task is the coroutine's");
    return NULL;
}

/* ---- the type ---- */

static int
spawned_traverse(PyObject *op, visitproc visit, void *arg)
{
    struct pyl_spawned *self = spawned_cast(op);
    Py_VISIT(self->task);
    Py_VISIT(self->name);
    Py_VISIT(self->cancel_message);
    Py_VISIT(self->coro);
    Py_VISIT(self->context);
    return pyl_future_traverse_fields(&self->future, visit, arg);
}

static int
spawned_clear(PyObject *op)
{
    struct pyl_spawned *self = spawned_cast(op);
    pyl_future_clear_fields(&self->future);
    Py_CLEAR(self->task);
    Py_CLEAR(self->name);
    Py_CLEAR(self->cancel_message);
    Py_CLEAR(self->coro);
    Py_CLEAR(self->context);
    return 0;
}

static void
spawned_dealloc(PyObject *op)
{
    struct pyl_future *future = pyl_future_cast(op);
    if (future->log_traceback && PyObject_CallFinalizerFromDealloc(op) < 0) {
        return; /* resurrected */
    }
    PyObject_GC_UnTrack(op);
    if (future->weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    (void)spawned_clear(op);
    pyl_future_free(future);
}

static PyMethodDef spawned_methods[] = {
    {"cancel", (PyCFunction)(void (*)(void))method_cancel, METH_FASTCALL | METH_KEYWORDS,
     PyDoc_STR("cancel(msg=None)\n\nRequests that the task cancel itself, as Task.cancel() does. "
               "Any thread of the loop's.")},
    {"get_name", method_get_name, METH_NOARGS, PyDoc_STR("The name of the task.")},
    {"get_coro", method_get_coro, METH_NOARGS, PyDoc_STR("The coroutine, or None when it ended.")},
    {"get_context", method_get_context, METH_NOARGS, PyDoc_STR("The context it runs in.")},
    {"set_result", refuse_result, METH_O, NULL},
    {"set_exception", refuse_result, METH_O, NULL},
    {NULL},
};

static PyType_Slot spawned_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("A coroutine that runs in a strand of its own, as a future of "
                                  "the view that spawned it; see pyloop.spawn().")},
    {Py_tp_dealloc, spawned_dealloc},
    {Py_tp_traverse, spawned_traverse},
    {Py_tp_clear, spawned_clear},
    {Py_tp_methods, spawned_methods},
    {0, NULL},
};

static PyType_Spec spawned_spec = {
    .name = "pyloop._core.SpawnedTask",
    .basicsize = sizeof(struct pyl_spawned),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = spawned_slots,
};

int
pyl_spawned_type_add(PyObject *module, struct pyl_state *state)
{
    pyl_state_add_job_kind(state, run_deliver, offsetof(struct pyl_spawned, deliver));
    return pyl_add_type(module, &spawned_spec, (PyObject *)state->future_type, true,
                        &state->spawned_type);
}
