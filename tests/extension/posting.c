/*
 * posting.c - an extension module whose threads post to a native task and cancel it, without a
 * thread state, whatever becomes of the task and its loop. Compiled by
 * tests/python/test_extension_close.py against the installed headers.
 */
#include <pyloop/python.h>

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

enum { THREADS = 2, POSTS = 1000, POSTS_AFTER = 3 };

struct target {
    _Atomic(struct pyloop_task *) task; /* NULL until known; the reference is the threads' */
    _Atomic bool is_over;               /* the loop is closed */
    _Atomic long begun;                 /* threads that have posted */
    _Atomic long posted;
    _Atomic long taken;
    _Atomic long dropped;
    _Atomic long ended;
    long cancel_after; /* posts of each thread; 0: it does not cancel */
    pthread_t threads[THREADS];
};

/* ---- the task ---- */

static void
on_message(struct pyloop_task *task, void *state, int64_t result)
{
    struct target *target = state;
    void *message;
    while (pyloop_take_message(task, &message) == 1) {
        target->taken++;
    }
    if (result >= 0) {
        pyloop_wait_message(task, on_message);
    }
}

/* Of a task that was started without a handle: it hands one out itself. */
static void
publish(struct pyloop_task *task, void *state, int64_t result)
{
    struct target *target = state;
    pyloop_task_ref(task);
    atomic_store(&target->task, task);
    on_message(task, state, result);
}

static void
on_end(void *state)
{
    ((struct target *)state)->ended++;
}

static void
on_dropped(void *message)
{
    ((struct target *)message)->dropped++;
}

/* ---- the threads ---- */

static void
post(struct target *target, struct pyloop_task *task, long number)
{
    if (pyloop_post(task, target, on_dropped) < 0) {
        abort();
    }
    target->posted++;
    if (number == target->cancel_after) {
        pyloop_task_cancel(task);
    }
}

static void *
run_thread(void *argument)
{
    struct target *target = argument;
    struct pyloop_task *task;
    while ((task = atomic_load(&target->task)) == NULL) {
        sched_yield();
    }
    for (long i = 1; i <= POSTS && !target->is_over; i++) {
        post(target, task, i);
        target->begun += i == 1;
        if (i % 16 == 0) {
            sched_yield(); /* so that the task often waits for the next one */
        }
    }
    while (!target->is_over) {
        sched_yield();
    }
    for (long i = 1; i <= POSTS_AFTER; i++) {
        post(target, task, i);
    }
    pyloop_task_cancel(task);
    return NULL;
}

/* ---- the module ---- */

/* start(has_future, cancel_after): (future or None, target), the target to be given to finish(). */
static PyObject *
start(PyObject *module, PyObject *args)
{
    int has_future;
    long cancel_after;
    if (!PyArg_ParseTuple(args, "pl", &has_future, &cancel_after)) {
        return NULL;
    }
    struct target *target = calloc(1, sizeof(*target));
    if (target == NULL) {
        return PyErr_NoMemory();
    }
    target->cancel_after = cancel_after;
    PyObject *future = NULL;
    if (has_future) {
        future = pyloop_task_start(publish, target, NULL, on_end);
    } else {
        struct pyloop_runtime *runtime = pyloop_runtime_running();
        struct pyloop_task *task;
        int rc = runtime != NULL ? pyloop_spawn(runtime, on_message, target, on_end, &task) : -1;
        if (rc == 0) {
            atomic_store(&target->task, task);
            future = Py_NewRef(Py_None);
        } else if (runtime != NULL) {
            (void)pyloop_py_make_error((void *)(intptr_t)-rc);
        }
    }
    if (future == NULL) {
        free(target);
        return NULL;
    }
    for (int i = 0; i < THREADS; i++) {
        if (pthread_create(&target->threads[i], NULL, run_thread, target) != 0) {
            abort();
        }
    }
    return Py_BuildValue("NN", future, PyCapsule_New(target, "target", NULL));
}

static struct target *
target_of(PyObject *capsule)
{
    return PyCapsule_GetPointer(capsule, "target");
}

/* Waits until every thread has posted. */
static PyObject *
await_begin(PyObject *module, PyObject *capsule)
{
    struct target *target = target_of(capsule);
    if (target == NULL) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS;
    while (target->begun < THREADS) {
        sched_yield();
    }
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

/* finish(target): (messages posted, taken, dropped; ends of the task) when all is over. */
static PyObject *
finish(PyObject *module, PyObject *capsule)
{
    struct target *target = target_of(capsule);
    if (target == NULL) {
        return NULL;
    }
    target->is_over = true;
    Py_BEGIN_ALLOW_THREADS;
    for (int i = 0; i < THREADS; i++) {
        (void)pthread_join(target->threads[i], NULL);
    }
    pyloop_task_unref(target->task);
    Py_END_ALLOW_THREADS;
    PyObject *counts =
        Py_BuildValue("llll", target->posted, target->taken, target->dropped, target->ended);
    free(target);
    return counts;
}

static PyMethodDef methods[] = {
    {"start", start, METH_VARARGS, NULL},
    {"await_begin", await_begin, METH_O, NULL},
    {"finish", finish, METH_O, NULL},
    {0},
};

static int
exec_module(PyObject *module)
{
    return pyloop_py_import();
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, exec_module},
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "pyloop_posting",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit_pyloop_posting(void);

PyMODINIT_FUNC
PyInit_pyloop_posting(void)
{
    return PyModuleDef_Init(&definition);
}
