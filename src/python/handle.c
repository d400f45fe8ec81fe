/*
 * handle.c - the memory of handles, the jobs that run them, and cancelling.
 *
 * Not here: what Python sees of a handle (handle_type.c), what running a callback means
 * (callback.c).
 *
 * Invariant: a queued job or an armed timer holds one reference to its handle.
 */
#include "python/handle.h"

#include "base/check.h"
#include "python/loop_internal.h"

#include <errno.h>
#include <math.h>
#include <string.h>

static void handle_job_run(struct pyl_job *job);

static struct pyl_handle *
handle_of_job(struct pyl_job *job)
{
    return PYL_CONTAINER_OF(job, struct pyl_handle, job);
}

static int
handle_set_args(struct pyl_handle *handle, PyObject *const *args, Py_ssize_t count)
{
    if (count <= PYL_HANDLE_INLINE_ARGS) {
        for (Py_ssize_t i = 0; i < count; i++) {
            handle->slots[1 + i] = Py_NewRef(args[i]);
        }
        handle->arg_count = (uint8_t)count;
        return 0;
    }
    handle->args_tuple = PyTuple_New(count);
    if (handle->args_tuple == NULL) {
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        PyTuple_SET_ITEM(handle->args_tuple, i, Py_NewRef(args[i]));
    }
    return 0;
}

static struct pyl_freelist *
freelist_of(struct pyl_state *state, PyTypeObject *type)
{
    return type == state->timer_handle_type ? pyl_freelist_of(state, PYL_FREELIST_TIMER_HANDLE)
                                            : pyl_freelist_of(state, PYL_FREELIST_HANDLE);
}

struct pyl_handle *
pyl_handle_new(struct pyl_loop *loop, PyTypeObject *type, PyObject *callback, PyObject *const *args,
               Py_ssize_t count, PyObject *context)
{
    struct pyl_state *state = loop->state;
    bool is_made_later = context == NULL && pyl_context_is_empty();
    if (!is_made_later) {
        context = context != NULL ? Py_NewRef(context) : PyContext_CopyCurrent();
        if (context == NULL) {
            return NULL;
        }
    }
    PyObject *object = pyl_freelist_new(freelist_of(state, type), type);
    if (object == NULL) {
        Py_XDECREF(context);
        return NULL;
    }
    size_t size = type == state->timer_handle_type ? sizeof(struct pyl_timer_handle)
                                                   : sizeof(struct pyl_handle);
    memset((char *)object + sizeof(PyObject), 0, size - sizeof(PyObject));
    struct pyl_handle *handle = (struct pyl_handle *)object;
    handle->loop = (struct pyl_loop *)Py_NewRef((PyObject *)loop);
    handle->context = context;
    handle->callback = Py_NewRef(callback);
    handle->job.run = handle_job_run;
    PyObject_GC_Track(object);
    if (handle_set_args(handle, args, count) < 0) {
        Py_DECREF(handle);
        return NULL;
    }
    if (PYL_UNLIKELY(atomic_load_explicit(&loop->is_debug, memory_order_relaxed))) {
        handle->source_traceback = PyObject_CallNoArgs(state->extract_stack);
        if (handle->source_traceback == NULL) {
            Py_DECREF(handle);
            return NULL;
        }
    }
    return handle;
}

PyObject *
pyl_handle_need_context(struct pyl_handle *handle)
{
    PyObject *context;
    Py_BEGIN_CRITICAL_SECTION(handle);
    if (handle->context == NULL) {
        handle->context = PyContext_New();
    }
    context = handle->context;
    Py_END_CRITICAL_SECTION();
    return context;
}

void
pyl_handle_drop_callback(struct pyl_handle *handle)
{
    PyObject *dropped[PYL_HANDLE_INLINE_ARGS];
    int count = handle->arg_count;
    handle->arg_count = 0;
    for (int i = 0; i < count; i++) {
        dropped[i] = handle->slots[1 + i];
        handle->slots[1 + i] = NULL;
    }
    Py_CLEAR(handle->callback);
    Py_CLEAR(handle->args_tuple);
    for (int i = 0; i < count; i++) {
        Py_DECREF(dropped[i]);
    }
}

int
pyl_handle_clear(PyObject *self)
{
    struct pyl_handle *handle = (struct pyl_handle *)self;
    pyl_handle_drop_callback(handle);
    Py_CLEAR(handle->context);
    Py_CLEAR(handle->repr);
    Py_CLEAR(handle->source_traceback);
    return 0;
}

int
pyl_handle_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct pyl_handle *handle = (struct pyl_handle *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(handle->loop);
    Py_VISIT(handle->context);
    Py_VISIT(handle->callback);
    Py_VISIT(handle->args_tuple);
    Py_VISIT(handle->repr);
    Py_VISIT(handle->source_traceback);
    for (int i = 0; i < handle->arg_count; i++) {
        Py_VISIT(handle->slots[1 + i]);
    }
    return 0;
}

void
pyl_handle_dealloc(PyObject *self)
{
    struct pyl_handle *handle = (struct pyl_handle *)self;
    struct pyl_loop *loop = handle->loop;
    struct pyl_state *state = loop->state;
    PyObject_GC_UnTrack(self);
    if (handle->weakrefs != NULL) {
        PyObject_ClearWeakRefs(self);
    }
    (void)pyl_handle_clear(self);
    pyl_freelist_free(freelist_of(state, Py_TYPE(self)), self);
    Py_DECREF(loop);
}

/* Jobs. */

static void
handle_job_run(struct pyl_job *job)
{
    struct pyl_handle *handle = handle_of_job(job);
    handle->is_queued = false;
    pyl_handle_run(handle);
    Py_DECREF(handle);
}

void
pyl_handle_post(struct pyl_handle *handle)
{
    PYL_DCHECK(!handle->is_queued);
    handle->is_queued = true;
    pyl_worker_post(handle->loop->worker, &handle->job);
}

void
pyl_handle_post_again(struct pyl_handle *handle)
{
    if (!handle->is_queued) {
        Py_INCREF(handle);
        pyl_handle_post(handle);
    }
}

static struct pyl_timer_handle *
timer_handle_of_job(struct pyl_job *job)
{
    struct pyl_timer *timer = PYL_CONTAINER_OF(job, struct pyl_timer, job);
    return PYL_CONTAINER_OF(timer, struct pyl_timer_handle, timer);
}

/* A float in seconds may be anything: keep it in what a deadline can express. Rounded up: never
 * early. */
static int64_t
deadline_of_seconds(double seconds)
{
    double ns = ceil(seconds * 1e9);
    if (ns >= 9.2e18) {
        return INT64_MAX;
    }
    return ns <= 0 ? 0 : (int64_t)ns;
}

static int
timer_handle_deadline(struct pyl_timer_handle *timer_handle, int64_t *ret_deadline_ns)
{
    struct pyl_loop *loop = timer_handle->handle.loop;
    if (PYL_LIKELY(!loop->has_own_clock)) {
        *ret_deadline_ns = deadline_of_seconds(timer_handle->when);
        return 0;
    }
    double now = pyl_loop_now(loop);
    if (now == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    /* Not due by that clock, although ours says so: look again in a millisecond, not in a busy
     * loop. */
    double delay = timer_handle->when - now;
    if (delay > 0 && delay < 1e-3) {
        delay = 1e-3;
    }
    int64_t delay_ns = deadline_of_seconds(delay);
    int64_t now_ns = pyl_reactor_now_ns(&loop->worker->reactor);
    *ret_deadline_ns = delay_ns > INT64_MAX - now_ns ? INT64_MAX : now_ns + delay_ns;
    return 0;
}

/*
 * Not pyl_timer_start(), which queues what is due already: as in asyncio, that comes after
 * everything that is ready now, and by its time. The caller owns the queues. 0 or -errno.
 */
static int
timer_handle_push(struct pyl_timer_handle *timer_handle, int64_t deadline_ns)
{
    struct pyl_heap *timers = &timer_handle->handle.loop->worker->timers;
    int error = pyl_heap_push(timers, &timer_handle->timer.node, deadline_ns);
    timer_handle->timer.is_armed = error == 0;
    return error;
}

/* Loop thread. 0 or -1 with an exception. */
static int
timer_handle_arm(struct pyl_timer_handle *timer_handle)
{
    int64_t deadline_ns;
    if (timer_handle_deadline(timer_handle, &deadline_ns) < 0) {
        return -1;
    }
    int error = timer_handle_push(timer_handle, deadline_ns);
    if (error < 0) {
        pyl_raise_errno(error);
        return -1;
    }
    return 0;
}

static void
timer_job_run(struct pyl_job *job)
{
    struct pyl_timer_handle *timer_handle = timer_handle_of_job(job);
    struct pyl_loop *loop = timer_handle->handle.loop;
    if (PYL_UNLIKELY(loop->has_own_clock) && !timer_handle->handle.is_cancelled) {
        double now = pyl_loop_now(loop);
        bool has_failed = now == -1.0 && PyErr_Occurred();
        if (!has_failed && now < timer_handle->when && timer_handle_arm(timer_handle) == 0) {
            return;
        }
        if (PyErr_Occurred()) {
            pyl_loop_report(loop, "loop.time() failed", NULL, NULL);
        }
    }
    pyl_handle_run(&timer_handle->handle);
    Py_DECREF(timer_handle);
}

/* A timer that another thread asked for: see pyl_timer_handle_start(). */
static void
timer_start_run(struct pyl_job *job)
{
    struct pyl_handle *handle = handle_of_job(job);
    handle->is_queued = false;
    if (handle->is_cancelled) {
        Py_DECREF(handle);
    } else if (timer_handle_arm((struct pyl_timer_handle *)handle) < 0) {
        pyl_loop_report(handle->loop, "Timer could not be started", "handle", (PyObject *)handle);
        Py_DECREF(handle);
    }
}

int
pyl_timer_handle_start(struct pyl_timer_handle *timer_handle)
{
    struct pyl_handle *handle = &timer_handle->handle;
    struct pyl_loop *loop = handle->loop;
    timer_handle->timer.job.run = timer_job_run;
    handle->job.run = timer_start_run;
    int64_t deadline_ns;
    if (timer_handle_deadline(timer_handle, &deadline_ns) < 0) {
        return -1;
    }
    Py_INCREF(handle);
    pyl_gil_lock_acquire(&loop->remote_lock);
    int error = pyl_loop_is_open(loop) ? 0 : -EPIPE;
    bool must_signal = false;
    if (error == 0 && pyl_loop_owns_queues(loop)) {
        error = timer_handle_push(timer_handle, deadline_ns);
    } else if (error == 0) {
        handle->is_queued = true;
        must_signal = pyl_loop_queue_remote(loop, &handle->job);
    }
    pyl_gil_lock_release(&loop->remote_lock);
    if (must_signal) {
        pyl_loop_signal(loop);
    }
    if (error == 0) {
        return 0;
    }
    Py_DECREF(handle);
    if (error != -EPIPE) {
        pyl_raise_errno(error);
        return -1;
    }
    return pyl_loop_check_usable(loop);
}

int
pyl_timer_handles_check_clock(struct pyl_loop *loop)
{
    struct pyl_heap *timers = &loop->worker->timers;
    double now = pyl_loop_now(loop);
    if (now == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    for (uint32_t i = 0; i < timers->count; i++) {
        struct pyl_timer *timer = PYL_CONTAINER_OF(timers->entries[i].node, struct pyl_timer, node);
        if (timer->job.run != timer_job_run) {
            continue;
        }
        struct pyl_timer_handle *timer_handle = timer_handle_of_job(&timer->job);
        if (timer_handle->when <= now) {
            pyl_timer_stop(loop->worker, timer);
            if (pyl_timer_start(loop->worker, timer, 0) < 0) {
                PyErr_NoMemory();
                return -1;
            }
            i = (uint32_t)-1; /* the heap has moved: begin again */
        }
    }
    return 0;
}

/* Cancelling. */

void
pyl_handle_lock_running(struct pyl_handle *handle)
{
    struct pyl_loop *loop = handle->loop;
    bool is_loop_thread = atomic_load(&loop->thread_id) == PyThread_get_thread_ident();
    pthread_mutex_lock(&loop->running_lock);
    while (!is_loop_thread && loop->running_handle == (PyObject *)handle) {
        pthread_mutex_unlock(&loop->running_lock);
        PyThreadState *tstate = PyEval_SaveThread();
        pthread_mutex_lock(&loop->running_lock);
        while (loop->running_handle == (PyObject *)handle) {
            pthread_cond_wait(&loop->running_done, &loop->running_lock);
        }
        pthread_mutex_unlock(&loop->running_lock);
        PyEval_RestoreThread(tstate);
        pthread_mutex_lock(&loop->running_lock);
    }
}

/* Returns whether it was cancelled before. */
static bool
handle_mark_cancelled(struct pyl_handle *handle)
{
    if (!pyl_handle_is_threadsafe(handle)) {
        bool was_cancelled = handle->is_cancelled;
        handle->is_cancelled = true;
        return was_cancelled;
    }
    pyl_handle_lock_running(handle);
    bool was_cancelled = handle->is_cancelled;
    handle->is_cancelled = true;
    pthread_mutex_unlock(&handle->loop->running_lock);
    return was_cancelled;
}

static void
handle_keep_repr(struct pyl_handle *handle)
{
    PyObject *raised = PyErr_GetRaisedException();
    handle->repr = PyObject_Repr((PyObject *)handle);
    if (handle->repr == NULL) {
        PyErr_Clear();
    }
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
}

static void
timer_handle_disarm(struct pyl_timer_handle *timer_handle)
{
    struct pyl_loop *loop = timer_handle->handle.loop;
    pyl_gil_lock_acquire(&loop->remote_lock);
    /* In another thread's heap it stays, and fires into nothing. */
    bool is_disarmed = pyl_loop_owns_queues(loop) && timer_handle->timer.is_armed;
    if (is_disarmed) {
        pyl_timer_stop(loop->worker, &timer_handle->timer);
    }
    pyl_gil_lock_release(&loop->remote_lock);
    if (is_disarmed) {
        Py_DECREF(timer_handle);
    }
}

void
pyl_handle_cancel(struct pyl_handle *handle)
{
    struct pyl_loop *loop = handle->loop;
    if (handle_mark_cancelled(handle)) {
        return;
    }
    if (atomic_load_explicit(&loop->is_debug, memory_order_relaxed)) {
        handle_keep_repr(handle);
    }
    Py_INCREF(handle);
    Py_BEGIN_CRITICAL_SECTION(handle);
    if (!handle->is_running) {
        pyl_handle_drop_callback(handle);
    }
    Py_END_CRITICAL_SECTION();
    if (Py_IS_TYPE(handle, loop->state->timer_handle_type)) {
        timer_handle_disarm((struct pyl_timer_handle *)handle);
    }
    Py_DECREF(handle);
}

void
pyl_handle_add_job_kinds(struct pyl_state *state)
{
    pyl_state_add_job_kind(state, handle_job_run, offsetof(struct pyl_handle, job));
    pyl_state_add_job_kind(state, timer_start_run, offsetof(struct pyl_handle, job));
    pyl_state_add_job_kind(state, timer_job_run, offsetof(struct pyl_timer_handle, timer.job));
}
