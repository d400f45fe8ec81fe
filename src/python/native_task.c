/*
 * native_task.c - a task of io/task.h with a future: on the lanes in parallel mode without a GIL,
 * else beside the loop.
 *
 * The companion of a loop, or of each view in parallel mode with a GIL, is a runtime with one
 * worker that has no thread state: it never waits for the GIL, and no step of a task keeps it. Made
 * and closed by the thread of its loop or view. References to a task: the runtime's until its last
 * step, and the port's, which is given back when the end was delivered to the loop.
 */
#include "python/native_task.h"

#include <errno.h>

#include "api/api.h"
#include "base/alloc.h"
#include "python/promise.h"
#include "python/task.h"
#include "python/views.h"

enum { COMPANION_WORKERS = 1 };

struct native_task {
    struct pyloop_task task;
    struct pyl_port_item item; /* object: the future */
    PyObject *(*make_result)(void *state);
    void (*on_end)(void *state);
};

/* ---- the runtime ---- */

static struct pyl_runtime *
companion_of(struct pyl_loop *loop)
{
    if (loop->companion != NULL) {
        return loop->companion;
    }
    struct pyl_runtime *runtime = pyl_alloc_zero(sizeof(*runtime));
    if (runtime == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    struct pyl_runtime_options options = {
        .workers = COMPANION_WORKERS,
        .reactor = {.backend = loop->worker->reactor.ops->name},
    };
    int rc = pyl_runtime_init(runtime, &options, NULL, 0);
    if (rc == 0) {
        rc = pyl_runtime_start(runtime);
        if (rc < 0) {
            pyl_runtime_fini(runtime);
        }
    }
    if (rc < 0) {
        pyl_free(runtime);
        pyl_raise_errno(rc);
        return NULL;
    }
    loop->companion = runtime;
    return runtime;
}

/* A lane is attached during the whole of its turn: with a GIL it would keep that from Python. */
static struct pyloop_runtime *
runtime_of(struct pyl_loop *loop)
{
    bool is_on_lanes = PYL_FREE_THREADED && loop->views != NULL;
    struct pyl_runtime *runtime = is_on_lanes ? &loop->views->runtime : companion_of(loop);
    return runtime != NULL ? PYL_CONTAINER_OF(runtime, struct pyloop_runtime, base) : NULL;
}

struct pyloop_runtime *
pyl_native_runtime(PyObject *core)
{
    struct pyl_loop *loop;
    if (pyl_port_running(core, &loop) == NULL) {
        return NULL;
    }
    struct pyloop_runtime *runtime = runtime_of(loop);
    Py_DECREF(loop);
    return runtime;
}

void
pyl_companion_close(struct pyl_loop *loop)
{
    struct pyl_runtime *runtime = loop->companion;
    if (runtime == NULL) {
        return;
    }
    loop->companion = NULL;
    int rc;
    Py_BEGIN_ALLOW_THREADS;
    pyl_runtime_stop(runtime);
    rc = pyl_runtime_join(runtime);
    Py_END_ALLOW_THREADS;
    pyl_runtime_fini(runtime); /* join waited for those who were in on_cancelled() */
    pyl_free(runtime);
    if (rc < 0) {
        pyl_raise_errno(rc);
        PyErr_WriteUnraisable((PyObject *)loop);
    }
}

void
pyl_companion_abandon(struct pyl_loop *loop)
{
    struct pyl_runtime *runtime = loop->companion;
    loop->companion = NULL;
    for (uint32_t i = 0; runtime != NULL && i < runtime->lane_count; i++) {
        pyl_worker_abandon(&runtime->lanes[i].worker); /* its locks are anybody's: not freed */
    }
}

/* ---- the task ---- */

static struct native_task *
task_of_item(struct pyl_port_item *item)
{
    return PYL_CONTAINER_OF(item, struct native_task, item);
}

static void
release(struct pyl_task *base)
{
    struct native_task *task = PYL_CONTAINER_OF(base, struct native_task, task.base);
    pyl_port_unref(task->item.port);
    pyl_free(task);
}

static void
free_item(struct pyl_port_item *item)
{
    pyl_task_unref(&task_of_item(item)->task.base);
}

/* After this on_cancelled() does not run any more. */
static void
unhook(PyObject *future)
{
    Py_BEGIN_CRITICAL_SECTION(future);
    pyl_future_clear_done_hook(future);
    Py_END_CRITICAL_SECTION();
}

static void
end_state(struct native_task *task)
{
    if (task->on_end != NULL) {
        task->on_end(task->task.state);
    }
}

/* While close() ends the lanes, what it cancelled stays pending, as in serial mode. */
static bool
is_closing(const struct pyl_loop *loop)
{
    return loop == NULL || (loop->views != NULL &&
                            pyl_runtime_phase_of(&loop->views->runtime) != PYL_RUNTIME_RUNNING);
}

/* Loop's thread, attached; `loop` NULL: it is closed. */
static void
deliver(struct pyl_port_item *item, struct pyl_loop *loop)
{
    struct native_task *task = task_of_item(item);
    PyObject *future = pyl_port_take(item);
    if (future != NULL) {
        unhook(future);
        if (!is_closing(loop) && !pyl_future_is_done(future)) {
            pyl_future_complete_by(loop, future, task->make_result, task->task.state);
        }
    }
    end_state(task);
    Py_XDECREF(future);
    free_item(item);
}

static void
on_closed(struct pyl_port_item *item)
{
    unhook(item->object);
}

/* After the last step, on the task's worker. The loop can be closed only if that is a lane, while
 * the lanes end; and they are attached. */
static void
on_ended(struct pyl_task *base)
{
    struct native_task *task = PYL_CONTAINER_OF(base, struct native_task, task.base);
    if (pyl_port_post(&task->item) == 0) {
        return;
    }
    end_state(task);
    if (pyl_port_give_up(&task->item)) {
        free_item(&task->item);
    }
}

/* In the future's critical section, any attached thread. */
static void
on_cancelled(PyObject *future, void *user)
{
    struct native_task *task = user;
    pyl_task_cancel(&task->task.base);
}

static struct native_task *
task_new(struct pyloop_runtime *runtime, struct pyloop_port *port, pyloop_step *first, void *state)
{
    struct native_task *task = pyl_alloc_zero(sizeof(*task));
    if (task == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    pyloop_task_init(&task->task, runtime, first, state, release);
    task->task.base.on_ended = on_ended;
    pyl_port_item_init(&task->item, port);
    task->item.run = deliver;
    task->item.on_closed = on_closed;
    task->item.free = free_item;
    return task;
}

/* Takes the task's references on failure, which sets an exception. */
static int
spawn(struct native_task *task, PyObject *future)
{
    struct pyl_task *base = &task->task.base;
    pyl_port_hold(&task->item, Py_NewRef(future));
    pyl_task_ref(base);
    int rc = pyl_task_spawn(&task->task.runtime->base, base, pyloop_task_resume);
    if (rc < 0) {
        Py_DECREF(pyl_port_take(&task->item));
        pyl_task_unref(base);
        pyl_task_unref(base);
        PyErr_SetString(PyExc_RuntimeError, "the loop is shutting down");
        return -1;
    }
    pyl_future_set_done_hook(future, on_cancelled, task);
    return 0;
}

PyObject *
pyl_native_task_start(PyObject *core, pyloop_step *first, void *state,
                      PyObject *(*make_result)(void *state), void (*on_end)(void *state))
{
    struct pyl_loop *loop;
    struct pyloop_port *port = pyl_port_running(core, &loop);
    if (port == NULL) {
        return NULL;
    }
    struct pyloop_runtime *runtime = runtime_of(loop);
    PyObject *future = runtime != NULL ? pyl_future_new(loop) : NULL;
    Py_DECREF(loop);
    struct native_task *task = future != NULL ? task_new(runtime, port, first, state) : NULL;
    if (task == NULL) {
        Py_XDECREF(future);
        return NULL;
    }
    task->make_result = make_result;
    task->on_end = on_end;
    if (spawn(task, future) < 0) {
        Py_CLEAR(future);
    }
    return future;
}
