/*
 * task_type.c - the type pyloop._core.Task: construction, garbage collection, the end.
 *
 * Not here: its methods and attributes (task_methods.c), running it (task_step.c, task_yield.c),
 * what asyncio knows of it (task_current.c).
 */
#include "python/future.h"

#include "base/check.h"

enum { COROUTINE_TYPES_MAX = 100 };

/* 1, 0 or -1. Any type that asyncio.iscoroutine() accepts, which is asked once per type. */
static int
is_coroutine(struct pyl_state *state, PyObject *object)
{
    if (PYL_LIKELY(PyCoro_CheckExact(object))) {
        return 1;
    }
    PyObject *types = state->tasks.coroutine_types;
    PyObject *type = (PyObject *)Py_TYPE(object);
    int rc = PySet_Contains(types, type);
    if (rc != 0) {
        return rc;
    }
    PyObject *answer = PyObject_CallOneArg(state->iscoroutine, object);
    if (answer == NULL) {
        return -1;
    }
    rc = PyObject_IsTrue(answer);
    Py_DECREF(answer);
    if (rc == 1 && PySet_GET_SIZE(types) < COROUTINE_TYPES_MAX && PySet_Add(types, type) < 0) {
        return -1;
    }
    return rc;
}

/* str(name); NULL or None: numbered, but formatted only when somebody reads it. 0 or -1. */
static int
set_name(struct pyl_task *task, PyObject *name)
{
    if (name == NULL || Py_IsNone(name)) {
        Py_CLEAR(task->name);
        task->number = pyl_task_next_number(&task->future.state->tasks);
        return 0;
    }
    PyObject *text = PyUnicode_CheckExact(name) ? Py_NewRef(name) : PyObject_Str(name);
    if (text == NULL) {
        return -1;
    }
    Py_XSETREF(task->name, text);
    return 0;
}

static int
set_context(struct pyl_task *task, PyObject *context)
{
    if (context == NULL || Py_IsNone(context)) {
        context = PyContext_CopyCurrent();
        if (context == NULL) {
            return -1;
        }
        task->has_odd_context = false;
    } else {
        Py_INCREF(context);
        task->has_odd_context = !PyContext_CheckExact(context);
    }
    Py_XSETREF(task->context, context);
    return 0;
}

/* The rest of __init__() once the future part is done. Starts nothing. 0 or -1. */
static int
task_setup(struct pyl_task *task, PyObject *coro, PyObject *name, PyObject *context)
{
    task->future.is_task = true;
    task->future.must_cancel = false;
    task->future.log_destroy_pending = false; /* until there is something to destroy */
    task->cancel_requests = 0;
    task->job.run = pyl_task_run_job;

    int rc = is_coroutine(task->future.state, coro);
    if (rc <= 0) {
        if (rc == 0) {
            PyErr_Format(PyExc_TypeError, "a coroutine was expected, got %R", coro);
        }
        return -1;
    }
    if (set_context(task, context) < 0 || set_name(task, name) < 0) {
        return -1;
    }
    Py_CLEAR(task->fut_waiter);
    Py_CLEAR(task->raise_next);
    Py_XSETREF(task->coro, Py_NewRef(coro));
    task->future.log_destroy_pending = true;
    return 0;
}

static int
task_start(struct pyl_task *task)
{
    if (pyl_task_schedule(task) < 0) {
        return -1;
    }
    return pyl_task_register(task);
}

/* loop.is_running(): 1, 0 or -1 */
static int
is_loop_running(struct pyl_task *task)
{
    if (task->future.native != NULL) {
        return atomic_load_explicit(&task->future.native->thread_id, memory_order_relaxed) != 0;
    }
    PyObject *answer =
        PyObject_CallMethodNoArgs(task->future.loop, task->future.state->str.is_running);
    if (answer == NULL) {
        return -1;
    }
    int rc = PyObject_IsTrue(answer);
    Py_DECREF(answer);
    return rc;
}

static int
start_eagerly_in_sight(struct pyl_task *task)
{
    if (pyl_task_register_eager(task) < 0) {
        return -1;
    }
    int rc = pyl_task_start_eagerly(task);
    PyObject *saved = PyErr_GetRaisedException();
    if (pyl_task_unregister_eager(task) < 0) {
        if (saved == NULL) {
            return -1;
        }
        PyErr_Clear();
    }
    pyl_restore_exception(saved);
    return rc;
}

static int
task_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"coro", "loop", "name", "context", "eager_start", NULL};
    struct pyl_task *task = pyl_task_cast(op);
    PyObject *coro, *loop = NULL, *name = NULL, *context = NULL;
    int is_eager = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$OOOp:Task", names, &coro, &loop, &name,
                                     &context, &is_eager)) {
        return -1;
    }
    if (pyl_future_init(&task->future, loop) < 0 || task_setup(task, coro, name, context) < 0) {
        return -1;
    }
    if (is_eager) {
        int is_running = is_loop_running(task);
        if (is_running < 0) {
            return -1;
        }
        if (is_running) {
            return start_eagerly_in_sight(task);
        }
    }
    return task_start(task);
}

typedef int start_fn(struct pyl_task *task);

static PyObject *
task_new(struct pyl_loop *loop, PyObject *coro, PyObject *name, PyObject *context, start_fn *start)
{
    struct pyl_state *state = loop->state;
    struct pyl_task *task = (struct pyl_task *)pyl_future_alloc(state, state->task_type);
    if (task == NULL) {
        return NULL;
    }
    if (pyl_future_init_native(&task->future, loop) < 0 ||
        task_setup(task, coro, name, context) < 0 || start(task) < 0) {
        task->future.log_traceback = false; /* our caller gets the exception */
        Py_DECREF(task);
        return NULL;
    }
    return (PyObject *)task;
}

/* Up to 3.13 all_tasks() shows the task that runs (pyloop/_tasks.py); else it is to be entered. */
static int
start_shown(struct pyl_task *task)
{
    if (task->future.state->current_tasks == NULL && pyl_task_register(task) < 0) {
        return -1;
    }
    return pyl_task_start_eagerly(task);
}

PyObject *
pyl_task_new(struct pyl_loop *loop, PyObject *coro, PyObject *name, PyObject *context,
             bool is_shown)
{
    return task_new(loop, coro, name, context, is_shown ? start_shown : pyl_task_start_eagerly);
}

PyObject *
pyl_task_create(struct pyl_loop *loop, PyObject *coro, PyObject *name, PyObject *context,
                bool is_eager)
{
    bool is_running = atomic_load_explicit(&loop->thread_id, memory_order_relaxed) != 0;
    return task_new(loop, coro, name, context,
                    is_eager && is_running ? start_eagerly_in_sight : task_start);
}

static int
task_traverse(PyObject *op, visitproc visit, void *arg)
{
    struct pyl_task *task = pyl_task_cast(op);
    Py_VISIT(task->coro);
    Py_VISIT(task->context);
    Py_VISIT(task->name);
    Py_VISIT(task->fut_waiter);
    Py_VISIT(task->raise_next);
    return pyl_future_traverse_fields(&task->future, visit, arg);
}

static int
task_clear(PyObject *op)
{
    struct pyl_task *task = pyl_task_cast(op);
    pyl_task_unregister(task); /* nobody may find it in this state */
    pyl_future_clear_fields(&task->future);
    Py_CLEAR(task->coro);
    Py_CLEAR(task->context);
    Py_CLEAR(task->name);
    Py_CLEAR(task->fut_waiter);
    Py_CLEAR(task->raise_next);
    return 0;
}

static bool
is_destroyed_pending(struct pyl_task *task)
{
    return task->future.status == PYL_FUTURE_PENDING && task->future.log_destroy_pending;
}

static void
task_finalize(PyObject *op)
{
    struct pyl_task *task = pyl_task_cast(op);
    /* The handler may keep it alive, but nothing will run it: asyncio's weak set has lost it, too.
     */
    pyl_task_unregister(task);
    if (is_destroyed_pending(task)) {
        PyObject *saved = PyErr_GetRaisedException();
        pyl_future_complain(&task->future, task->future.state->str.task,
                            PyUnicode_FromString("Task was destroyed but it is pending!"), NULL);
        pyl_restore_exception(saved);
    }
    pyl_future_warn_unretrieved(&task->future);
}

static void
task_dealloc(PyObject *op)
{
    struct pyl_task *task = pyl_task_cast(op);
    if ((task->future.log_traceback || is_destroyed_pending(task)) &&
        PyObject_CallFinalizerFromDealloc(op) < 0) {
        return; /* resurrected */
    }
    PyObject_GC_UnTrack(op);
    if (task->future.weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    (void)task_clear(op);
    pyl_future_free(&task->future);
}

static PyObject *
task_repr(PyObject *op)
{
    return pyl_future_repr(op, pyl_future_cast(op)->state->task_repr_info);
}

PyDoc_STRVAR(task_doc,
             "Task(coro, *, loop=None, name=None, context=None, eager_start=False)\n--\n\n"
             "A coroutine wrapped in a Future: pyloop's asyncio.Task, isinstance() included.");

static PyType_Slot task_slots[] = {
    {Py_tp_doc, (void *)task_doc},
    {Py_tp_init, task_init},
    {Py_tp_dealloc, task_dealloc},
    {Py_tp_finalize, task_finalize},
    {Py_tp_traverse, task_traverse},
    {Py_tp_clear, task_clear},
    {Py_tp_repr, task_repr},
    {Py_tp_methods, pyl_task_methods},
    {Py_tp_getset, pyl_task_attributes},
    {0, NULL},
};

static PyType_Spec task_spec = {
    .name = "pyloop._core.Task",
    .basicsize = sizeof(struct pyl_task),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = task_slots,
};

/* The loop was closed before the step. */
static void
drop_job(struct pyl_job *job)
{
    struct pyl_task *task = PYL_CONTAINER_OF(job, struct pyl_task, job);
    task->future.is_queued = false;
    task->future.is_woken = false;
    Py_DECREF(task);
}

int
pyl_task_type_add(PyObject *module, struct pyl_state *state)
{
    if (Py_Version >= 0x030E0000) {
        Py_CLEAR(state->current_tasks); /* still there, but no longer what current_task() reads */
    }
    pyl_list_init(&state->tasks.registry);
    if (PyModule_AddFunctions(module, pyl_task_functions) < 0) {
        return -1;
    }
    pyl_state_add_job_kind_with_drop(state, pyl_task_run_job, offsetof(struct pyl_task, job),
                                     drop_job);
    return pyl_add_type(module, &task_spec, (PyObject *)state->future_type, true,
                        &state->task_type);
}
