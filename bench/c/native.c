/*
 * native.c - the extension module that bench/native measures: the least that each crossing between
 * Python and native code can do.
 */
#include <pyloop/python.h>

#include <pthread.h>

/* ---- a native task ---- */

static void
end_at_once(struct pyloop_task *task, void *state, int64_t result)
{
}

static PyObject *
start_task(PyObject *module, PyObject *unused)
{
    return pyloop_task_start(end_at_once, NULL, NULL, NULL);
}

/* ---- a future completed by a thread ---- */

enum { QUEUE_SIZE = 4096 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t has_changed = PTHREAD_COND_INITIALIZER;
static struct pyloop_promise *queue[QUEUE_SIZE]; /* guarded by lock, as the next two */
static unsigned first, last;
static int has_thread; /* callers of promise() */

static PyObject *
make_none(void *argument)
{
    return Py_NewRef(Py_None);
}

static void *
complete_all(void *argument)
{
    for (;;) {
        pthread_mutex_lock(&lock);
        while (first == last) {
            pthread_cond_wait(&has_changed, &lock);
        }
        struct pyloop_promise *promise = queue[first++ % QUEUE_SIZE];
        pthread_mutex_unlock(&lock);
        (void)pyloop_promise_complete(promise, make_none, NULL, NULL);
    }
    return NULL;
}

static PyObject *
make_future(PyObject *module, PyObject *unused)
{
    pthread_t thread;
    if (!has_thread && pthread_create(&thread, NULL, complete_all, NULL) != 0) {
        PyErr_SetString(PyExc_RuntimeError, "can't start new thread");
        return NULL;
    }
    has_thread = 1;
    struct pyloop_promise *promise;
    PyObject *future = pyloop_future_new(&promise);
    if (future == NULL) {
        return NULL;
    }
    pthread_mutex_lock(&lock);
    int is_full = last - first == QUEUE_SIZE;
    if (!is_full) {
        queue[last++ % QUEUE_SIZE] = promise;
    }
    pthread_mutex_unlock(&lock);
    if (is_full) {
        (void)pyloop_promise_abandon(promise);
    } else {
        pthread_cond_signal(&has_changed); /* who wakes does not find the lock held */
    }
    return future;
}

/* ---- the module ---- */

static int64_t
do_nothing(void *argument)
{
    return 0;
}

static PyMethodDef methods[] = {
    {"task", start_task, METH_NOARGS, NULL},
    {"promise", make_future, METH_NOARGS, NULL},
    {0},
};

static int
exec_module(PyObject *module)
{
    PyObject *address = PyLong_FromVoidPtr((void *)(uintptr_t)do_nothing);
    int status = address != NULL ? PyModule_AddObjectRef(module, "nothing", address) : -1;
    Py_XDECREF(address);
    return status < 0 ? -1 : pyloop_py_import();
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
    .m_name = "bench_native",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit_bench_native(void);

PyMODINIT_FUNC
PyInit_bench_native(void)
{
    return PyModuleDef_Init(&definition);
}
