/*
 * example.c - an extension module over <pyloop/python.h> that shows each part of it once. Compiled
 * by tests/python/test_extension.py against the installed headers.
 */
#include <pyloop/python.h>

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HOLD_MS = 10000 };

/* How many states, arguments and lent blocks exist; 0 when nothing has leaked. */
static _Atomic int live;

/* ---- threads that Python does not know ---- */

/* Its number, for join(). */
static unsigned long long
start_thread(void *(*run)(void *argument), void *argument)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, run, argument) != 0) {
        abort();
    }
    return (unsigned long long)thread;
}

/* Waits for a byte from the descriptor; -1: there is nothing to wait for. */
static void
pass_gate(int gate)
{
    char byte;
    if (gate >= 0 && read(gate, &byte, 1) != 1) {
        abort();
    }
}

/* ---- futures completed by a thread ---- */

struct answer {
    struct pyloop_promise *promise;
    int64_t value;
    int kind; /* of complete() below */
    int gate; /* a descriptor to read a byte from first, or -1 */
    PyObject *object;
};

static void
answer_drop(void *argument)
{
    free(argument);
    live--;
}

static PyObject *
answer_make(void *argument)
{
    struct answer *answer = argument;
    int64_t value = answer->value;
    answer_drop(answer);
    if (value < 0) {
        return PyErr_Format(PyExc_ValueError, "negative: %lld", (long long)value);
    }
    return PyLong_FromLongLong(value);
}

/* Makes neither a result nor an exception: a bug that pyloop must answer. */
static PyObject *
answer_make_nothing(void *argument)
{
    answer_drop(argument);
    return NULL;
}

static void *
answer_thread(void *argument)
{
    struct answer *answer = argument;
    pass_gate(answer->gate);
    int rc;
    PyObject *object = answer->object;
    switch (answer->kind) {
    case 'o':
        rc = pyloop_promise_complete_object(answer->promise, object);
        if (rc < 0) {
            PyGILState_STATE state = PyGILState_Ensure();
            Py_DECREF(object);
            PyGILState_Release(state);
        }
        answer_drop(answer);
        break;
    case 'e':
        (void)pyloop_promise_complete_error(answer->promise, (int)answer->value);
        answer_drop(answer);
        break;
    case 'a':
        (void)pyloop_promise_abandon(answer->promise);
        answer_drop(answer);
        break;
    case 'w': /* works until nobody waits any more */
        while (pyloop_promise_is_wanted(answer->promise)) {
            sched_yield();
        }
        (void)pyloop_promise_abandon(answer->promise);
        answer_drop(answer);
        break;
    default:
        rc = pyloop_promise_complete(answer->promise,
                                     answer->kind == 'n' ? answer_make_nothing : answer_make,
                                     answer_drop, answer);
        if (rc < 0) {
            answer_drop(answer);
        }
    }
    return NULL;
}

/* With the promise of a new future, or NULL with an exception. */
static struct answer *
answer_new(int64_t value, PyObject **ret_future)
{
    struct answer *made = calloc(1, sizeof(*made));
    *ret_future = made != NULL ? pyloop_future_new(&made->promise) : PyErr_NoMemory();
    if (*ret_future == NULL) {
        free(made);
        return NULL;
    }
    live++;
    made->value = value;
    return made;
}

/* answer(kind, value, gate=-1, object=None): (future, number of the thread, to be joined). */
static PyObject *
answer(PyObject *module, PyObject *args)
{
    const char *kind;
    long long value;
    int gate = -1;
    PyObject *object = NULL;
    if (!PyArg_ParseTuple(args, "sL|iO", &kind, &value, &gate, &object)) {
        return NULL;
    }
    PyObject *future;
    struct answer *made = answer_new(value, &future);
    if (made == NULL) {
        return NULL;
    }
    made->kind = kind[0];
    made->gate = gate;
    made->object = Py_XNewRef(object);
    return Py_BuildValue("NK", future, start_thread(answer_thread, made));
}

/* Waits for a thread of answer()'s or run()'s. */
static PyObject *
join(PyObject *module, PyObject *number)
{
    pthread_t thread = (pthread_t)PyLong_AsUnsignedLongLong(number);
    if (PyErr_Occurred()) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS;
    (void)pthread_join(thread, NULL);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

/* ---- calls and coroutines from a thread ---- */

struct script {
    struct pyloop_port *port;
    PyObject *function; /* makes the coroutine, or is called */
    PyObject *on_done;  /* called with (result, exception) */
    bool is_call;
    int gate;
    int error;
};

static void
script_drop(void *argument)
{
    struct script *script = argument;
    Py_DECREF(script->function);
    Py_XDECREF(script->on_done);
    pyloop_port_unref(script->port);
    free(script);
    live--;
}

static void
script_call(void *argument)
{
    struct script *script = argument;
    Py_XDECREF(PyObject_CallNoArgs(script->function)); /* an exception is the handler's */
    PyObject *raised = PyErr_Occurred();
    if (raised == NULL) {
        script_drop(script);
        return;
    }
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    script_drop(script);
    PyErr_Restore(type, value, traceback);
}

static PyObject *
script_make(void *argument)
{
    return PyObject_CallNoArgs(((struct script *)argument)->function);
}

static void
script_done(void *argument, PyObject *result, PyObject *exception)
{
    struct script *script = argument;
    PyObject *told =
        PyObject_CallFunctionObjArgs(script->on_done, result != NULL ? result : Py_None,
                                     exception != NULL ? exception : Py_None, NULL);
    Py_XDECREF(told);
    if (told != NULL) {
        script_drop(script);
    }
}

static void *
script_thread(void *argument)
{
    struct script *script = argument;
    pass_gate(script->gate);
    int rc = script->is_call
                 ? pyloop_port_call(script->port, script_call, script_drop, script)
                 : pyloop_coroutine_start(script->port, script_make, script_done, script);
    if (rc < 0) {
        PyGILState_STATE state = PyGILState_Ensure();
        script_drop(script);
        PyGILState_Release(state);
    }
    return (void *)(intptr_t)rc;
}

/* run(function, on_done=None, gate=-1): a thread, to be joined, has the loop call the function, or
 * run the coroutine that it makes if there is an on_done. */
static PyObject *
run(PyObject *module, PyObject *args)
{
    PyObject *function, *on_done = Py_None;
    int gate = -1;
    if (!PyArg_ParseTuple(args, "O|Oi", &function, &on_done, &gate)) {
        return NULL;
    }
    struct script *script = calloc(1, sizeof(*script));
    if (script == NULL) {
        return PyErr_NoMemory();
    }
    script->port = pyloop_port_running();
    if (script->port == NULL) {
        free(script);
        return NULL;
    }
    live++;
    script->function = Py_NewRef(function);
    script->on_done = Py_NewRef(on_done);
    script->is_call = Py_IsNone(on_done);
    script->gate = gate;
    return PyLong_FromUnsignedLongLong(start_thread(script_thread, script));
}

/* ---- native tasks ---- */

struct sum {
    int64_t total;
    int64_t left;
    int64_t pause_ns;
    Py_buffer buffer; /* obj NULL: none */
    int fd;
    int64_t result;
};

static void
sum_step(struct pyloop_task *task, void *state, int64_t result)
{
    struct sum *sum = state;
    if (result < 0) {
        sum->result = result;
        return;
    }
    if (sum->left == 0) {
        sum->result = sum->total;
        return;
    }
    sum->total += sum->left--;
    if (sum->pause_ns > 0) {
        pyloop_sleep(task, sum->pause_ns, sum_step);
    } else {
        pyloop_yield(task, sum_step);
    }
}

static void
fill_end(struct pyloop_task *task, void *state, int64_t result)
{
    ((struct sum *)state)->result = result;
}

static void
fill_step(struct pyloop_task *task, void *state, int64_t result)
{
    struct sum *sum = state;
    pyloop_receive(task, sum->fd, sum->buffer.buf, (size_t)sum->buffer.len, fill_end);
}

/* A step that keeps its worker, as one that computes does, until a byte comes. */
static void
hold_step(struct pyloop_task *task, void *state, int64_t result)
{
    struct sum *sum = state;
    struct pollfd until = {.fd = sum->fd, .events = POLLIN};
    int ready = poll(&until, 1, HOLD_MS);
    sum->result = ready > 0 ? ready : ready == 0 ? -ETIMEDOUT : -errno;
}

static PyObject *
sum_make(void *state)
{
    struct sum *sum = state;
    if (sum->result < 0) {
        return pyloop_py_make_error((void *)(intptr_t)-sum->result);
    }
    return PyLong_FromLongLong(sum->result);
}

static void
sum_end(void *state)
{
    struct sum *sum = state;
    PyBuffer_Release(&sum->buffer);
    free(sum);
    live--;
}

/* With nothing in it, or NULL with MemoryError. */
static struct sum *
sum_new(void)
{
    struct sum *sum = calloc(1, sizeof(*sum));
    if (sum == NULL) {
        (void)PyErr_NoMemory();
        return NULL;
    }
    live++;
    return sum;
}

/* Takes the sum in any case. */
static PyObject *
sum_start(struct sum *sum, pyloop_step *first)
{
    PyObject *future = pyloop_task_start(first, sum, sum_make, sum_end);
    if (future == NULL) {
        sum_end(sum);
    }
    return future;
}

/* add_up(n, pause_ns=0): the future of 1 + ... + n, with a wait after each. */
static PyObject *
add_up(PyObject *module, PyObject *args)
{
    long long count, pause_ns = 0;
    if (!PyArg_ParseTuple(args, "L|L", &count, &pause_ns)) {
        return NULL;
    }
    struct sum *sum = sum_new();
    if (sum == NULL) {
        return NULL;
    }
    sum->left = count;
    sum->pause_ns = pause_ns;
    return sum_start(sum, sum_step);
}

/* fill(fd, buffer): the future of how many bytes were received into the buffer, which is locked
 * until then, cancelled or not. */
static PyObject *
fill(PyObject *module, PyObject *args)
{
    int fd;
    PyObject *object;
    if (!PyArg_ParseTuple(args, "iO", &fd, &object)) {
        return NULL;
    }
    struct sum *sum = sum_new();
    if (sum == NULL) {
        return NULL;
    }
    sum->fd = fd;
    if (PyObject_GetBuffer(object, &sum->buffer, PyBUF_WRITABLE) < 0) {
        sum_end(sum);
        return NULL;
    }
    return sum_start(sum, fill_step);
}

/* hold(fd): the future of 1, when the descriptor became readable while a step did not return. */
static PyObject *
hold(PyObject *module, PyObject *number)
{
    int fd = (int)PyLong_AsLong(number);
    if (fd == -1 && PyErr_Occurred()) {
        return NULL;
    }
    struct sum *sum = sum_new();
    if (sum == NULL) {
        return NULL;
    }
    sum->fd = fd;
    return sum_start(sum, hold_step);
}

/* ---- native tasks that wait for coroutines ---- */

struct question {
    struct pyloop_port *port;
    PyObject *function;  /* makes a coroutine out of a number */
    PyObject *exception; /* NULL: none was raised */
    int64_t left;
    int64_t total;
    int64_t result; /* of the last wait */
};

static PyObject *
question_make(void *argument)
{
    struct question *question = argument;
    return PyObject_CallFunction(question->function, "L", (long long)question->left);
}

static int64_t
question_take(void *argument, PyObject *result, PyObject *exception)
{
    struct question *question = argument;
    if (result == NULL) {
        question->exception = Py_NewRef(exception);
        return -EIO;
    }
    int64_t value = PyLong_AsLongLong(result);
    return PyErr_Occurred() ? -EDOM : value;
}

static void question_ask(struct pyloop_task *task, void *state, int64_t result);

static void
question_answered(struct pyloop_task *task, void *state, int64_t result)
{
    struct question *question = state;
    question->result = result;
    if (result < 0) {
        return;
    }
    question->total += result;
    question->left--;
    question_ask(task, state, 0);
}

static void
question_ask(struct pyloop_task *task, void *state, int64_t result)
{
    struct question *question = state;
    if (question->left > 0) {
        pyloop_wait_coroutine(task, question->port, question_make, question_take, question,
                              question_answered);
    }
}

static PyObject *
question_result(void *state)
{
    struct question *question = state;
    return Py_BuildValue("LLO", (long long)question->total, (long long)question->result,
                         question->exception != NULL ? question->exception : Py_None);
}

static void
question_end(void *state)
{
    struct question *question = state;
    Py_DECREF(question->function);
    Py_XDECREF(question->exception);
    pyloop_port_unref(question->port);
    free(question);
    live--;
}

static void
port_end(PyObject *capsule)
{
    pyloop_port_unref(PyCapsule_GetPointer(capsule, "port"));
}

/* port(): that of the running loop. */
static PyObject *
port(PyObject *module, PyObject *unused)
{
    struct pyloop_port *running = pyloop_port_running();
    return running != NULL ? PyCapsule_New(running, "port", port_end) : NULL;
}

/* ask(function, count, port): the future of a native task that waits for the coroutines
 * function(count), ..., function(1), one after the other, until one fails, in the loop of the port:
 * (sum of their results, last result of a wait, exception or None). */
static PyObject *
ask(PyObject *module, PyObject *args)
{
    PyObject *function, *capsule;
    long long count;
    if (!PyArg_ParseTuple(args, "OLO", &function, &count, &capsule)) {
        return NULL;
    }
    struct pyloop_port *given = PyCapsule_GetPointer(capsule, "port");
    if (given == NULL) {
        return NULL;
    }
    struct question *question = calloc(1, sizeof(*question));
    if (question == NULL) {
        return PyErr_NoMemory();
    }
    live++;
    pyloop_port_ref(given);
    question->port = given;
    question->function = Py_NewRef(function);
    question->left = count;
    PyObject *future = pyloop_task_start(question_ask, question, question_result, question_end);
    if (future == NULL) {
        question_end(question);
    }
    return future;
}

/* ---- tasks and timers without a future ---- */

static void
fire(void *argument)
{
    struct answer *answer = argument;
    if (pyloop_promise_complete(answer->promise, answer_make, answer_drop, answer) < 0) {
        answer_drop(answer);
    }
}

/* later(delay_ns, value): (future, timer); the timer is to be given to stop(). */
static PyObject *
later(PyObject *module, PyObject *args)
{
    long long delay_ns, value;
    if (!PyArg_ParseTuple(args, "LL", &delay_ns, &value)) {
        return NULL;
    }
    struct pyloop_runtime *runtime = pyloop_runtime_running();
    if (runtime == NULL) {
        return NULL;
    }
    PyObject *future;
    struct answer *made = answer_new(value, &future);
    if (made == NULL) {
        return NULL;
    }
    struct pyloop_timer *timer;
    int rc = pyloop_timer_start(runtime, delay_ns, fire, made, &timer);
    if (rc < 0) {
        (void)pyloop_promise_abandon(made->promise);
        answer_drop(made);
        Py_DECREF(future);
        return pyloop_py_make_error((void *)(intptr_t)-rc);
    }
    return Py_BuildValue("NN", future, PyCapsule_New(timer, "timer", NULL));
}

static PyObject *
stop(PyObject *module, PyObject *capsule)
{
    struct pyloop_timer *timer = PyCapsule_GetPointer(capsule, "timer");
    if (timer == NULL) {
        return NULL;
    }
    pyloop_timer_stop(timer);
    Py_RETURN_NONE;
}

/* ---- memory ---- */

static void
block_release(void *owner)
{
    free(owner);
    live--;
}

/* block(size, is_writable): a memoryview of memory from malloc(), filled with 'x'. */
static PyObject *
block(PyObject *module, PyObject *args)
{
    Py_ssize_t size;
    int is_writable;
    if (!PyArg_ParseTuple(args, "np", &size, &is_writable)) {
        return NULL;
    }
    void *memory = malloc((size_t)size + 1);
    if (memory == NULL) {
        return PyErr_NoMemory();
    }
    memset(memory, 'x', (size_t)size);
    PyObject *view = pyloop_lend(memory, (size_t)size, is_writable, block_release, memory);
    if (view == NULL) {
        free(memory);
        return NULL;
    }
    live++;
    return view;
}

static PyObject *
count_live(PyObject *module, PyObject *unused)
{
    return PyLong_FromLong(live);
}

/* ---- the module ---- */

static PyMethodDef methods[] = {
    {"answer", answer, METH_VARARGS, NULL},
    {"join", join, METH_O, NULL},
    {"run", run, METH_VARARGS, NULL},
    {"add_up", add_up, METH_VARARGS, NULL},
    {"fill", fill, METH_VARARGS, NULL},
    {"hold", hold, METH_O, NULL},
    {"port", port, METH_NOARGS, NULL},
    {"ask", ask, METH_VARARGS, NULL},
    {"later", later, METH_VARARGS, NULL},
    {"stop", stop, METH_O, NULL},
    {"block", block, METH_VARARGS, NULL},
    {"live", count_live, METH_NOARGS, NULL},
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
    .m_name = "pyloop_example",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit_pyloop_example(void);

PyMODINIT_FUNC
PyInit_pyloop_example(void)
{
    return PyModuleDef_Init(&definition);
}
