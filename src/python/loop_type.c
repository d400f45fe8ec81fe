/*
 * loop_type.c - the type `_core.LoopCore`: life, attributes, method table.
 *
 * pyloop.Loop derives from it and from asyncio.BaseEventLoop. Attributes that BaseEventLoop keeps
 * in
 * `__dict__` and that C needs (_closed, _stopping, _thread_id, _debug, _task_factory,
 * _current_handle) are data descriptors here, so both see one value.
 *
 * Invariant: the loop is in state->loops exactly while its worker is open.
 */
#include "python/http.h"
#include "python/loop_internal.h"
#include "python/native_call.h"
#include "python/native_task.h"
#include "python/port.h"
#include "python/spawn.h"
#include "python/views.h"

#include <stdio.h>

static struct pyl_loop *
loop_of(PyObject *self)
{
    return (struct pyl_loop *)self;
}

struct pyl_loop *
pyl_loop_cast(struct pyl_state *state, PyObject *object)
{
    return PyObject_TypeCheck(object, state->loop_type) ? loop_of(object) : NULL;
}

int
pyl_loop_check_usable(struct pyl_loop *loop)
{
    if (PYL_LIKELY(pyl_loop_is_open(loop))) {
        return 0;
    }
    if (loop->is_forked_child) {
        PyErr_SetString(PyExc_RuntimeError,
                        "this event loop was made before fork() and belongs to the "
                        "parent process; make a new one in the child");
    } else {
        PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
    }
    return -1;
}

/* Birth. */

static PyObject *
loop_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    struct pyl_loop *loop = (struct pyl_loop *)type->tp_alloc(type, 0);
    if (loop == NULL) {
        return NULL;
    }
    loop->state = pyl_state_of_type(type);
    loop->worker = &loop->own_worker;
    loop->slow_callback_duration = 0.1;
    loop->has_native_tasks = true;
    loop->keeps_current_task = type->tp_hash == pyl_loop_hash;
    loop->has_blocking_cancel = loop->state->asyncio_threadsafe_handle != NULL;
    pyl_list_init(&loop->siblings);
    pyl_list_init(&loop->watches);
    pyl_list_init(&loop->spawned);
    pyl_list_init(&loop->stolen);
    pthread_mutex_init(&loop->running_lock, NULL);
    pthread_cond_init(&loop->running_done, NULL);
    pyl_loop_wakes_init(&loop->wakes);
    return (PyObject *)loop;
}

/* Does the class bring a method of its own instead of LoopCore's? */
static int
find_override(struct pyl_loop *loop, PyObject *name, bool *ret_is_overridden)
{
    PyObject *ours = PyObject_GetAttr((PyObject *)loop->state->loop_type, name);
    PyObject *its = PyObject_GetAttr((PyObject *)Py_TYPE(loop), name);
    int status = ours != NULL && its != NULL ? 0 : -1;
    *ret_is_overridden = status == 0 && ours != its;
    Py_XDECREF(ours);
    Py_XDECREF(its);
    return status;
}

/* C code takes short cuts past time() and call_soon() while they are the ones of this type. */
static int
find_overrides(struct pyl_loop *loop)
{
    struct pyl_strings *str = &loop->state->str;
    if (find_override(loop, str->time, &loop->has_own_clock) < 0) {
        return -1;
    }
    return find_override(loop, str->call_soon, &loop->has_own_call_soon);
}

static void
raise_backend_error(const char *backend, int error, const char *cause)
{
    if (error == -ENOMEM) {
        PyErr_NoMemory();
    } else if (error == -EMFILE || error == -ENFILE) {
        pyl_raise_errno(error);
    } else {
        PyErr_Format(PyExc_RuntimeError, "event loop backend '%s' is not available: %s",
                     backend != NULL ? backend : "auto",
                     cause[0] != '\0' ? cause : strerror(-error));
    }
}

static void
loop_open(struct pyl_loop *loop)
{
    struct pyl_state *state = loop->state;
    loop->is_worker_open = true;
    pyl_gil_lock_acquire(&state->loops_lock);
    pyl_list_append(&state->loops, &loop->siblings);
    pyl_gil_lock_release(&state->loops_lock);
}

/* Makes the worker, or takes the one of a lane. workers < 0: serial mode. 0, or -1 with an
 * exception. */
static int
open_worker(struct pyl_loop *loop, const char *backend, int workers, struct pyl_loop *first)
{
    if (first != NULL) {
        return pyl_views_join(loop, first);
    }
    char cause[PYL_REACTOR_CAUSE_SIZE] = "";
    int error;
    if (workers >= 0) {
        error = pyl_views_open(loop, (uint32_t)workers, backend, cause, sizeof(cause));
    } else {
        struct pyl_reactor_options options = {.backend = backend};
        struct pyl_worker_hooks hooks = pyl_loop_hooks(loop);
        error = pyl_worker_init(loop->worker, &options, &hooks, cause, sizeof(cause));
    }
    if (error < 0) {
        raise_backend_error(backend, error, cause);
        return -1;
    }
    return 0;
}

/* LoopCore(backend=None, native_tasks=True, workers=-1, first=None): workers >= 0 makes it the
 * first view in parallel mode, `first` another view of that loop's. */
static int
loop_init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    struct pyl_loop *loop = loop_of(self);
    static char *names[] = {"backend", "native_tasks", "workers", "first", NULL};
    const char *backend = NULL;
    int has_native_tasks = true;
    int workers = -1;
    PyObject *first = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$zpiO!", names, &backend, &has_native_tasks,
                                     &workers, loop->state->loop_type, &first)) {
        return -1;
    }
    if (loop->is_worker_open || loop->is_forked_child || atomic_load(&loop->is_closed)) {
        PyErr_SetString(PyExc_RuntimeError, "an event loop is initialised only once");
        return -1;
    }
    if (backend != NULL && strcmp(backend, "sim") == 0) {
        /* It has no descriptors and no clock of the system: nothing of asyncio's works on it. */
        raise_backend_error(backend, -EINVAL, "it simulates I/O for the tests of the C layers");
        return -1;
    }
    if (find_overrides(loop) < 0) {
        return -1;
    }
    loop->has_native_tasks = has_native_tasks;
    if (open_worker(loop, backend, workers, (struct pyl_loop *)(void *)first) < 0) {
        return -1;
    }
    loop_open(loop);
    return 0;
}

/* End. */

/* Jobs that no Python object owns stay: a lane's own, which go on until its runtime ends. */
static void
drop_queue(struct pyl_loop *loop, struct pyl_job_queue *queue)
{
    struct pyl_job_queue kept = {0};
    struct pyl_job *job;
    while ((job = pyl_job_queue_pop(queue)) != NULL) {
        if (pyl_state_job_owner(loop->state, job) != NULL) {
            pyl_state_drop_job(loop->state, job);
        } else if (!pyl_native_owns_job(job) && !pyl_port_drop_job(job)) {
            pyl_job_queue_push(&kept, job);
        }
    }
    pyl_job_queue_append(queue, &kept);
}

static void
drop_timers(struct pyl_loop *loop)
{
    struct pyl_heap *timers = &loop->worker->timers;
    for (uint32_t i = 0; i < timers->count;) {
        struct pyl_timer *timer = PYL_CONTAINER_OF(timers->entries[i].node, struct pyl_timer, node);
        if (pyl_state_job_owner(loop->state, &timer->job) == NULL) {
            i++;
            continue;
        }
        pyl_timer_stop(loop->worker, timer);
        pyl_state_drop_job(loop->state, &timer->job);
        i = 0; /* the heap has moved, and the release may have run any code */
    }
}

/* Lets go of every Python object that is queued. Touches no kernel object. */
static void
drop_jobs(struct pyl_loop *loop)
{
    struct pyl_inbox_node *node = pyl_inbox_take(&loop->worker->inbox);
    while (node != NULL) {
        struct pyl_inbox_node *next = node->next;
        pyl_job_queue_push(&loop->worker->ready, PYL_CONTAINER_OF(node, struct pyl_job, link));
        node = next;
    }
    drop_queue(loop, &loop->worker->ready);
    drop_queue(loop, &loop->worker->deferred);
    drop_timers(loop);
}

static void
loop_unlink(struct pyl_loop *loop)
{
    struct pyl_state *state = loop->state;
    pyl_gil_lock_acquire(&state->loops_lock);
    pyl_list_remove(&loop->siblings);
    pyl_gil_lock_release(&state->loops_lock);
}

static void
loop_set_closed(struct pyl_loop *loop)
{
    pyl_gil_lock_acquire(&loop->remote_lock);
    atomic_store_explicit(&loop->is_closed, true, memory_order_relaxed);
    pyl_gil_lock_release(&loop->remote_lock);
}

void
pyl_loop_detach(struct pyl_loop *loop)
{
    loop_set_closed(loop);
    if (!loop->is_forked_child) {
        pyl_fd_table_detach(loop);
        pyl_loop_fd_clear(loop);
        pyl_native_close(loop);
        pyl_companion_close(loop);
    }
    pyl_port_close(loop);
    pyl_spawned_forget(loop);
    pyl_http_strands_forget(loop);
    drop_jobs(loop);
    pyl_native_release(loop);
}

/* The lanes have threads that this process can see. */
static bool
has_lanes(const struct pyl_loop *loop)
{
    return loop->views != NULL && loop->views->is_started && !loop->views->is_forked_child;
}

void
pyl_loop_release(struct pyl_loop *loop)
{
    loop->is_worker_open = false;
    loop_unlink(loop);
    if (!has_lanes(loop)) { /* else others may still wake the worker */
        pyl_loop_wakes_settle(&loop->wakes);
        pyl_worker_fini(loop->worker);
    }
    pyl_loop_fd_free(loop);
    pyl_fd_table_release(loop);
    pyl_bytes_pool_clear(&loop->bytes_pool);
}

/* Ends the worker; the loop is closed or dying, and not running. */
static void
loop_shut(struct pyl_loop *loop)
{
    if (!loop->is_worker_open) {
        return;
    }
    pyl_loop_detach(loop);
    if (has_lanes(loop)) {
        pyl_views_stop(loop);
    }
    pyl_loop_release(loop);
}

/* _shut(): the C part of close(). */
static PyObject *
loop_py_shut(PyObject *self, PyObject *unused)
{
    loop_shut(loop_of(self));
    Py_RETURN_NONE;
}

static int
visit_job(struct pyl_loop *loop, struct pyl_inbox_node *node, visitproc visit, void *arg)
{
    struct pyl_job *job = PYL_CONTAINER_OF(node, struct pyl_job, link);
    Py_VISIT(pyl_state_job_owner(loop->state, job));
    return 0;
}

static int
visit_jobs(struct pyl_loop *loop, struct pyl_inbox_node *node, visitproc visit, void *arg)
{
    for (; node != NULL; node = node->next) {
        int status = visit_job(loop, node, visit, arg);
        if (status != 0) {
            return status;
        }
    }
    return 0;
}

/* The queues belong to the loop: without this, a loop that is forgotten with work queued would
 * never be collected. */
static int
visit_queues(struct pyl_loop *loop, visitproc visit, void *arg)
{
    struct pyl_worker *worker = loop->worker;
    struct pyl_inbox_node *const heads[] = {
        atomic_load_explicit(&worker->inbox.top, memory_order_acquire),
        worker->ready.head,
        worker->deferred.head,
    };
    for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++) {
        int status = visit_jobs(loop, heads[i], visit, arg);
        if (status != 0) {
            return status;
        }
    }
    for (uint32_t i = 0; i < worker->timers.count; i++) {
        struct pyl_heap_node *node = worker->timers.entries[i].node;
        struct pyl_timer *timer = PYL_CONTAINER_OF(node, struct pyl_timer, node);
        int status = visit_job(loop, &timer->job.link, visit, arg);
        if (status != 0) {
            return status;
        }
    }
    return 0;
}

static int
loop_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct pyl_loop *loop = loop_of(self);
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(loop->raised);
    Py_VISIT(loop->task_factory);
    if (!loop->is_worker_open) {
        return 0;
    }
    int status = pyl_fd_table_traverse(&loop->fds, visit, arg);
    if (status == 0) {
        status = pyl_loop_fd_traverse(loop, visit, arg);
    }
    if (status == 0) {
        status = pyl_native_traverse(loop, visit, arg);
    }
    if (status == 0) {
        status = pyl_port_traverse(loop, visit, arg);
    }
    return status == 0 ? visit_queues(loop, visit, arg) : status;
}

static int
loop_clear(PyObject *self)
{
    struct pyl_loop *loop = loop_of(self);
    loop_shut(loop);
    Py_CLEAR(loop->raised);
    Py_CLEAR(loop->task_factory);
    return 0;
}

static void
loop_dealloc(PyObject *self)
{
    struct pyl_loop *loop = loop_of(self);
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    (void)loop_clear(self);
    pthread_mutex_destroy(&loop->running_lock);
    pthread_cond_destroy(&loop->running_done);
    pyl_loop_wakes_fini(&loop->wakes);
    pyl_views_leave(loop);
    type->tp_free(self);
    Py_DECREF(type);
}

/* What is queued is dropped with the loop, not before: letting Python objects go may run any code.
 */
static void
loop_abandon(struct pyl_loop *loop)
{
    struct pyl_worker *worker = loop->worker;
    struct pyl_job_queue ready = worker->ready;
    struct pyl_job_queue deferred = worker->deferred;
    struct pyl_inbox_node *top = atomic_load(&worker->inbox.top);
    pyl_native_abandon(loop);
    pyl_companion_abandon(loop);
    pyl_port_abandon(loop);
    pyl_worker_abandon(worker);
    worker->ready = ready;
    worker->deferred = deferred;
    atomic_store(&worker->inbox.top, top);
    /* If the fork happened in one of its callbacks, run_forever() must not turn again. */
    pyl_worker_interrupt(worker);
}

/* `_core._abandon_loops()`: in the child of a fork, makes every loop of the parent's unusable and
 * cuts it off from the kernel. Returns how many there were. */
PyObject *
pyl_loop_abandon_all(PyObject *module, PyObject *unused)
{
    struct pyl_state *state = pyl_state_of_module(module);
    long count = 0;
    pyl_gil_lock_reset(&state->loops_lock);
    for (struct pyl_list *link = state->loops.next; link != &state->loops; link = link->next) {
        struct pyl_loop *loop = PYL_CONTAINER_OF(link, struct pyl_loop, siblings);
        pyl_gil_lock_reset(&loop->remote_lock);
        pthread_mutex_init(&loop->running_lock, NULL);
        pthread_cond_init(&loop->running_done, NULL);
        pyl_loop_wakes_init(&loop->wakes);
        loop->is_forked_child = true;
        atomic_store(&loop->is_closed, true);
        atomic_store(&loop->thread_id, 0);
        loop_abandon(loop);
        if (loop->views != NULL) {
            pyl_views_abandon(loop->views);
        }
        count++;
    }
    return PyLong_FromLong(count);
}

/* Attributes. */

static PyObject *
get_backend(PyObject *self, void *unused)
{
    struct pyl_loop *loop = loop_of(self);
    if (!pyl_loop_is_open(loop)) {
        Py_RETURN_NONE;
    }
    return PyUnicode_FromString(loop->worker->reactor.ops->name);
}

/* The number of lanes, 1 in serial mode. */
static PyObject *
get_workers(PyObject *self, void *unused)
{
    const struct pyl_views *views = loop_of(self)->views;
    return PyLong_FromUnsignedLong(views != NULL ? views->runtime.lane_count : 1);
}

static PyObject *
get_closed(PyObject *self, void *unused)
{
    return PyBool_FromLong(!pyl_loop_is_open(loop_of(self)));
}

/* BaseEventLoop assigns False in __init__ and True in close(). */
static int
set_closed(PyObject *self, PyObject *value, void *unused)
{
    int is_true = value != NULL ? PyObject_IsTrue(value) : 0;
    if (is_true > 0) {
        loop_set_closed(loop_of(self));
    }
    return is_true < 0 ? -1 : 0;
}

static PyObject *
get_stopping(PyObject *self, void *unused)
{
    return PyBool_FromLong(loop_of(self)->is_stopping);
}

/* asyncio: what was ready when the last turn began still runs, however long that takes. */
static void
begin_stop(struct pyl_loop *loop)
{
    loop->is_stopping = true;
    if (loop->lane_index == 0) {
        loop->worker->is_turn_whole = true;
    }
}

static int
set_stopping(PyObject *self, PyObject *value, void *unused)
{
    int is_true = value != NULL ? PyObject_IsTrue(value) : 0;
    if (is_true < 0) {
        return -1;
    }
    if (is_true) {
        begin_stop(loop_of(self));
    } else {
        loop_of(self)->is_stopping = false;
    }
    return 0;
}

static PyObject *
get_thread_id(PyObject *self, void *unused)
{
    unsigned long thread_id = atomic_load(&loop_of(self)->thread_id);
    if (thread_id == 0) {
        Py_RETURN_NONE;
    }
    return PyLong_FromUnsignedLong(thread_id);
}

static int
set_thread_id(PyObject *self, PyObject *value, void *unused)
{
    unsigned long thread_id = 0;
    if (value != NULL && value != Py_None) {
        thread_id = PyLong_AsUnsignedLong(value);
        if (thread_id == (unsigned long)-1 && PyErr_Occurred()) {
            return -1;
        }
    }
    struct pyl_loop *loop = loop_of(self);
    pyl_gil_lock_acquire(&loop->remote_lock);
    atomic_store(&loop->thread_id, thread_id);
    pyl_gil_lock_release(&loop->remote_lock);
    return 0;
}

static PyObject *
get_debug(PyObject *self, void *unused)
{
    return PyBool_FromLong(atomic_load_explicit(&loop_of(self)->is_debug, memory_order_relaxed));
}

static int
set_debug(PyObject *self, PyObject *value, void *unused)
{
    int is_true = value != NULL ? PyObject_IsTrue(value) : 0;
    if (is_true < 0) {
        return -1;
    }
    atomic_store_explicit(&loop_of(self)->is_debug, is_true, memory_order_relaxed);
    return 0;
}

static PyObject *
get_task_factory(PyObject *self, void *unused)
{
    PyObject *factory = loop_of(self)->task_factory;
    return Py_NewRef(factory != NULL ? factory : Py_None);
}

static int
set_task_factory(PyObject *self, PyObject *value, void *unused)
{
    PyObject *factory = value != Py_None ? value : NULL;
    Py_XSETREF(loop_of(self)->task_factory, Py_XNewRef(factory));
    return 0;
}

static PyObject *
get_current_handle(PyObject *self, void *unused)
{
    PyObject *handle = loop_of(self)->current_handle;
    return Py_NewRef(handle != NULL ? handle : Py_None);
}

/* BaseEventLoop assigns None in __init__; nobody else does. */
static int
set_current_handle(PyObject *self, PyObject *value, void *unused)
{
    return 0;
}

/* Watches for `loop.time = ...` and `loop.call_soon = ...`, with which test suites play. */
static int
loop_setattro(PyObject *self, PyObject *name, PyObject *value)
{
    struct pyl_loop *loop = loop_of(self);
    int status = PyObject_GenericSetAttr(self, name, value);
    if (status < 0 || !PyUnicode_Check(name)) {
        return status;
    }
    bool is_time = PyUnicode_Compare(name, loop->state->str.time) == 0;
    bool is_call_soon = PyUnicode_Compare(name, loop->state->str.call_soon) == 0;
    if (value == NULL && (is_time || is_call_soon)) {
        return is_time ? find_override(loop, name, &loop->has_own_clock)
                       : find_override(loop, name, &loop->has_own_call_soon);
    }
    loop->has_own_clock |= is_time;
    loop->has_own_call_soon |= is_call_soon;
    return 0;
}

/* Small methods. */

static PyObject *
loop_stop(PyObject *self, PyObject *unused)
{
    begin_stop(loop_of(self));
    Py_RETURN_NONE;
}

/* _end_spawning(): what was spawned and has not begun is cancelled from now on. */
static PyObject *
loop_end_spawning(PyObject *self, PyObject *unused)
{
    struct pyl_views *views = loop_of(self)->views;
    if (views != NULL) {
        atomic_store_explicit(&views->is_ending, true, memory_order_relaxed);
    }
    Py_RETURN_NONE;
}

static PyObject *
loop_is_running(PyObject *self, PyObject *unused)
{
    return PyBool_FromLong(atomic_load(&loop_of(self)->thread_id) != 0);
}

static PyObject *
loop_is_closed(PyObject *self, PyObject *unused)
{
    return get_closed(self, NULL);
}

static PyObject *
loop_get_debug(PyObject *self, PyObject *unused)
{
    return get_debug(self, NULL);
}

static PyObject *
loop_check_closed(PyObject *self, PyObject *unused)
{
    if (pyl_loop_check_usable(loop_of(self)) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* _write_to_self(): wakes the loop; any thread. */
static PyObject *
loop_write_to_self(PyObject *self, PyObject *unused)
{
    struct pyl_loop *loop = loop_of(self);
    pyl_gil_lock_acquire(&loop->remote_lock);
    bool must_signal = pyl_loop_is_open(loop) && pyl_loop_notify(loop);
    pyl_gil_lock_release(&loop->remote_lock);
    if (must_signal) {
        pyl_loop_signal(loop);
    }
    Py_RETURN_NONE;
}

#define FAST(function) ((PyCFunction)(void (*)(void))(function))

static PyMethodDef loop_methods[] = {
    {"call_soon", FAST(pyl_loop_py_call_soon), METH_FASTCALL | METH_KEYWORDS,
     PyDoc_STR("call_soon(callback, *args, context=None)")},
    {"call_soon_threadsafe", FAST(pyl_loop_py_call_soon_threadsafe), METH_FASTCALL | METH_KEYWORDS,
     PyDoc_STR("call_soon_threadsafe(callback, *args, context=None)")},
    {"call_later", FAST(pyl_loop_py_call_later), METH_FASTCALL | METH_KEYWORDS,
     PyDoc_STR("call_later(delay, callback, *args, context=None)")},
    {"call_at", FAST(pyl_loop_py_call_at), METH_FASTCALL | METH_KEYWORDS,
     PyDoc_STR("call_at(when, callback, *args, context=None)")},
    {"time", pyl_loop_py_time, METH_NOARGS, PyDoc_STR("Seconds on the loop's monotonic clock.")},
    {"create_future", pyl_loop_py_create_future, METH_NOARGS, NULL},
    {"create_task", FAST(pyl_loop_py_create_task), METH_FASTCALL | METH_KEYWORDS,
     PyDoc_STR("create_task(coro, *, name=None, context=None, **kwargs)")},
    {"stop", loop_stop, METH_NOARGS, PyDoc_STR("Ends run_forever() after the current turn.")},
    {"is_running", loop_is_running, METH_NOARGS, NULL},
    {"is_closed", loop_is_closed, METH_NOARGS, NULL},
    {"get_debug", loop_get_debug, METH_NOARGS, NULL},
    {"_check_closed", loop_check_closed, METH_NOARGS, NULL},
    {"_write_to_self", loop_write_to_self, METH_NOARGS, NULL},
    {"_run", pyl_loop_run, METH_O, NULL},
    {"_shut", loop_py_shut, METH_NOARGS, NULL},
    {"_spawn", FAST(pyl_loop_py_spawn), METH_FASTCALL, NULL},
    {"_end_spawning", loop_end_spawning, METH_NOARGS, NULL},
    {"_add_reader", FAST(pyl_loop_py_add_reader), METH_FASTCALL | METH_KEYWORDS, NULL},
    {"_add_writer", FAST(pyl_loop_py_add_writer), METH_FASTCALL | METH_KEYWORDS, NULL},
    {"_remove_reader", pyl_loop_py_remove_reader, METH_O, NULL},
    {"_remove_writer", pyl_loop_py_remove_writer, METH_O, NULL},
    {"_watched", pyl_loop_py_watched, METH_O, NULL},
    {"_check_fd_free", FAST(pyl_loop_py_check_fd_free), METH_FASTCALL, NULL},
    {"_metrics", pyl_loop_py_metrics, METH_NOARGS, NULL},
    {"_progress", pyl_loop_py_progress, METH_NOARGS, NULL},
    {"_native_call", FAST(pyl_loop_py_native_call), METH_FASTCALL, NULL},
    {"_poll_start", FAST(pyl_loop_py_poll_start), METH_FASTCALL, NULL},
    {NULL},
};

static PyGetSetDef loop_attributes[] = {
    {"backend", get_backend, NULL, PyDoc_STR("'io_uring', 'epoll' or 'kqueue'; None when closed"),
     NULL},
    {"workers", get_workers, NULL, PyDoc_STR("Threads that run this loop's coroutines."), NULL},
    {"_closed", get_closed, set_closed, NULL, NULL},
    {"_stopping", get_stopping, set_stopping, NULL, NULL},
    {"_thread_id", get_thread_id, set_thread_id, NULL, NULL},
    {"_debug", get_debug, set_debug, NULL, NULL},
    {"_task_factory", get_task_factory, set_task_factory, NULL, NULL},
    {"_current_handle", get_current_handle, set_current_handle, NULL, NULL},
    {NULL},
};

static PyMemberDef loop_members[] = {
    {"slow_callback_duration", Py_T_DOUBLE, offsetof(struct pyl_loop, slow_callback_duration), 0,
     PyDoc_STR("Debug mode logs callbacks that run longer than this many seconds.")},
    {"native_tasks", Py_T_BOOL, offsetof(struct pyl_loop, has_native_tasks), Py_READONLY,
     PyDoc_STR("Does create_task() make pyloop's own tasks, or asyncio.Task?")},
    {"_lane_index", Py_T_UINT, offsetof(struct pyl_loop, lane_index), Py_READONLY, NULL},
    {"_has_blocking_cancel", Py_T_BOOL, offsetof(struct pyl_loop, has_blocking_cancel), 0, NULL},
    {NULL},
};

static PyType_Slot loop_slots[] = {
    {Py_tp_new, loop_new},
    {Py_tp_init, loop_init},
    {Py_tp_dealloc, loop_dealloc},
    {Py_tp_traverse, loop_traverse},
    {Py_tp_clear, loop_clear},
    {Py_tp_hash, pyl_loop_hash},
    {Py_tp_setattro, loop_setattro},
    {Py_tp_methods, loop_methods},
    {Py_tp_getset, loop_attributes},
    {Py_tp_members, loop_members},
    {Py_tp_doc, (void *)PyDoc_STR("The C half of pyloop.Loop.")},
    {0, NULL},
};

static PyType_Spec loop_spec = {
    .name = "pyloop._core.LoopCore",
    .basicsize = sizeof(struct pyl_loop),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = loop_slots,
};

int
pyl_loop_type_add(PyObject *module, struct pyl_state *state)
{
    return pyl_add_type(module, &loop_spec, NULL, true, &state->loop_type);
}
