/*
 * views.c - the threads of the lanes: how each gets its thread state and view, when it holds the
 * GIL, and how it ends.
 *
 * Invariant: a lane's thread is attached except between before_wait and after_wait; so its queues
 * are touched by an attached thread only.
 */
#include "python/views.h"

#include "base/check.h"
#include "python/loop_internal.h"
#include "python/spawn.h"

#include <errno.h>
#include <stdlib.h>

enum { BATON_WAIT_NS = 5 * 1000 * 1000 }; /* sys.getswitchinterval()'s default */

static struct pyl_loop *
loop_of_lane(const struct pyl_views *views, const struct pyl_lane *lane)
{
    return views->loops[lane->index];
}

/* ---- attaching ---- */

static void
attach(struct pyl_views *views, struct pyl_loop *loop)
{
    if (!PYL_FREE_THREADED) {
        bool is_taken_over;
        loop->baton_ticket = pyl_baton_take(&views->baton, &is_taken_over);
        pyl_counter_add(&loop->metrics.baton_timeouts, is_taken_over);
    }
    PyThreadState *tstate = loop->parked_tstate;
    loop->parked_tstate = NULL;
    PyEval_RestoreThread(tstate);
    if (!PYL_FREE_THREADED) {
        pyl_baton_note_attached(&views->baton);
    }
}

static void
pass_baton(struct pyl_views *views, const struct pyl_loop *loop)
{
    if (!PYL_FREE_THREADED) {
        pyl_baton_pass(&views->baton, loop->baton_ticket);
    }
}

static void
detach(struct pyl_views *views, struct pyl_loop *loop)
{
    loop->parked_tstate = PyEval_SaveThread();
    pass_baton(views, loop);
}

static void
before_wait(struct pyl_worker *worker, void *user)
{
    struct pyl_views *views = user;
    detach(views, loop_of_lane(views, PYL_CONTAINER_OF(worker, struct pyl_lane, worker)));
}

static void
after_wait(struct pyl_worker *worker, void *user)
{
    struct pyl_views *views = user;
    struct pyl_loop *loop = loop_of_lane(views, PYL_CONTAINER_OF(worker, struct pyl_lane, worker));
    int64_t started_ns = pyl_metrics_gil_begin(worker);
    attach(views, loop);
    pyl_metrics_gil_end(&loop->metrics, started_ns);
    loop->did_park = true;
    if (loop->lane_index == 0 && PyErr_CheckSignals() < 0) {
        pyl_loop_raise(loop);
    }
}

/* SystemExit of a strand leaves the program as it leaves asyncio.run(): through the first view. */
static void
hand_over_raised(struct pyl_views *views, struct pyl_loop *loop)
{
    PyObject *raised = loop->raised;
    loop->raised = NULL;
    PyObject *result =
        PyObject_CallMethod((PyObject *)views->loops[0], "_raise_from_strand", "O", raised);
    if (result == NULL) {
        PyErr_WriteUnraisable((PyObject *)loop);
    }
    Py_XDECREF(result);
    Py_DECREF(raised);
}

static void
after_turn(struct pyl_lane *lane, void *user)
{
    struct pyl_views *views = user;
    struct pyl_loop *loop = loop_of_lane(views, lane);
    if (PYL_UNLIKELY(loop->raised != NULL) && loop->lane_index != 0) {
        hand_over_raised(views, loop);
    }
    if (!PYL_FREE_THREADED && pyl_baton_is_due(&views->baton, loop->baton_ticket)) {
        pyl_worker_pause(&lane->worker);
        detach(views, loop);
        attach(views, loop);
        pyl_worker_resume(&lane->worker);
    }
}

/* ---- threads ---- */

/* Calls a method of the view that reports what goes wrong nowhere else. */
static void
tell(struct pyl_loop *loop, const char *method)
{
    PyObject *result = PyObject_CallMethod((PyObject *)loop, method, NULL);
    if (result == NULL) {
        PyErr_WriteUnraisable((PyObject *)loop);
    }
    Py_XDECREF(result);
}

static void
on_start(struct pyl_lane *lane, void *user)
{
    struct pyl_views *views = user;
    struct pyl_loop *loop = loop_of_lane(views, lane);
    loop->parked_tstate = PyThreadState_New(views->interpreter);
    PYL_CHECK(loop->parked_tstate != NULL);
    attach(views, loop);
    loop->owner_thread_id = PyThread_get_thread_ident();
    pyl_loop_choose_types(loop);
    (void)pyl_freelists_enter(&loop->freelists, loop->state);
    tell(loop, "_begin_lane");
}

static void
on_drain(struct pyl_lane *lane, void *user)
{
    struct pyl_loop *loop = loop_of_lane(user, lane);
    if (loop->lane_index != 0) {
        tell(loop, "_end_lane");
        pyl_loop_detach(loop);
    }
}

static void
on_end(struct pyl_lane *lane, void *user)
{
    struct pyl_views *views = user;
    struct pyl_loop *loop = loop_of_lane(views, lane);
    pyl_loop_release(loop);
    pyl_freelists_leave(NULL);
    PyThreadState_Clear(PyThreadState_Get());
    PyThreadState_DeleteCurrent();
    pass_baton(views, loop);
}

struct pyl_loop *
pyl_views_lighter(struct pyl_loop *loop)
{
    struct pyl_views *views = loop->views;
    if (views == NULL) {
        return loop;
    }
    uint32_t turn = atomic_fetch_add_explicit(&views->places, 1, memory_order_relaxed);
    return views->loops[pyl_runtime_lighter(&views->runtime, turn)];
}

/* ---- life ---- */

int
pyl_views_open(struct pyl_loop *loop, uint32_t workers, const char *backend, char *cause,
               size_t cause_size)
{
    struct pyl_views *views = calloc(1, sizeof(*views));
    if (views == NULL) {
        return -ENOMEM;
    }
    struct pyl_runtime_options options = {
        .workers = workers,
        .reactor = {.backend = backend},
        .is_first_external = true,
        .embedder = {.on_start = on_start,
                     .on_drain = on_drain,
                     .on_end = on_end,
                     .after_turn = after_turn,
                     .wait = {.before_wait = before_wait, .after_wait = after_wait, .user = views},
                     .user = views},
    };
    int rc = pyl_baton_init(&views->baton, BATON_WAIT_NS);
    if (rc < 0) {
        free(views);
        return rc;
    }
    rc = pyl_runtime_init(&views->runtime, &options, cause, cause_size);
    if (rc < 0) {
        pyl_baton_fini(&views->baton);
        free(views);
        return rc;
    }
    views->interpreter = PyInterpreterState_Get();
    atomic_init(&views->references, 1);
    views->loops[0] = loop;
    views->loop_count = 1;
    loop->views = views;
    loop->worker = &views->runtime.lanes[0].worker;
    return 0;
}

int
pyl_views_join(struct pyl_loop *loop, struct pyl_loop *first)
{
    struct pyl_views *views = first->views;
    if (views == NULL || !pyl_loop_is_open(first) || views->is_started ||
        views->loop_count == views->runtime.lane_count) {
        PyErr_SetString(PyExc_RuntimeError, "this loop takes no more views");
        return -1;
    }
    loop->lane_index = views->loop_count++;
    views->loops[loop->lane_index] = loop;
    (void)atomic_fetch_add_explicit(&views->references, 1, memory_order_relaxed);
    loop->views = views;
    loop->worker = &views->runtime.lanes[loop->lane_index].worker;
    return 0;
}

void
pyl_views_abandon(struct pyl_views *views)
{
    views->is_forked_child = true;
    atomic_store(&views->runtime.phase, PYL_RUNTIME_ENDED); /* this lane's thread */
    /* The parent's threads may have left the lock held, and stand in the line for ever. */
    int rc = pyl_baton_init(&views->baton, BATON_WAIT_NS);
    PYL_CHECK(rc == 0);
}

void
pyl_views_leave(struct pyl_loop *loop)
{
    struct pyl_views *views = loop->views;
    /* The last one sees what the others did. */
    if (views == NULL ||
        atomic_fetch_sub_explicit(&views->references, 1, memory_order_acq_rel) > 1) {
        return;
    }
    if (!views->is_forked_child) { /* else its locks are anybody's: it is forgotten */
        pyl_runtime_fini(&views->runtime);
        pyl_baton_fini(&views->baton);
        free(views);
    }
}

/* ---- the first view ---- */

static int
start(struct pyl_views *views)
{
    if (views->loop_count != views->runtime.lane_count) {
        PyErr_SetString(PyExc_RuntimeError, "a view of this loop is missing");
        return -1;
    }
    for (uint32_t i = 0; i < views->loop_count; i++) {
        Py_INCREF(views->loops[i]);
    }
    views->is_started = true;
    PyThreadState *tstate =
        PyEval_SaveThread(); /* on failure it waits for threads, which need it */
    int rc = pyl_runtime_start(&views->runtime);
    PyEval_RestoreThread(tstate);
    if (rc == 0) {
        return 0;
    }
    views->is_started = false;
    atomic_store_explicit(&views->is_ending, true, memory_order_relaxed);
    for (uint32_t i = 0; i < views->loop_count; i++) {
        Py_DECREF(views->loops[i]);
    }
    pyl_raise_errno(rc);
    return -1;
}

int
pyl_views_begin_run(struct pyl_loop *loop)
{
    struct pyl_views *views = loop->views;
    if (!views->is_started && start(views) < 0) {
        return -1;
    }
    PYL_CHECK(loop->lane_index == 0);
    pyl_lane_set_current(&views->runtime.lanes[0]);
    if (!PYL_FREE_THREADED) { /* in its turn, as every other lane */
        loop->parked_tstate = PyEval_SaveThread();
        attach(views, loop);
    }
    return 0;
}

void
pyl_views_end_run(struct pyl_loop *loop)
{
    pyl_lane_set_current(NULL);
    pass_baton(loop->views, loop);
}

int
pyl_views_turn(struct pyl_loop *loop)
{
    struct pyl_lane *lane = &loop->views->runtime.lanes[0];
    loop->worker->is_turn_whole = loop->is_stopping;
    if (loop->is_stopping) {
        pyl_worker_wake(loop->worker); /* so that the turn does not block */
    }
    int rc = pyl_lane_turn(lane);
    if (!loop->is_forked_child) {
        after_turn(lane, loop->views);
    }
    return rc;
}

/* Turns lane 0 until the strands that were still queued have ended. */
static void
drain_first(struct pyl_views *views, struct pyl_loop *first)
{
    static const bool never = false;
    if (!PYL_FREE_THREADED) {
        first->parked_tstate = PyEval_SaveThread();
        attach(views, first);
    }
    if (pyl_runtime_run_first(&views->runtime, &never) == 0) { /* else join tells of the error */
        pyl_worker_drain(first->worker);
    }
    pass_baton(views, first);
}

void
pyl_views_stop(struct pyl_loop *first)
{
    struct pyl_views *views = first->views;
    atomic_store_explicit(&views->is_ending, true, memory_order_relaxed);
    pyl_runtime_stop(&views->runtime);
    drain_first(views, first);
    PyThreadState *tstate = PyEval_SaveThread(); /* the others need it to end */
    int rc = pyl_runtime_join(&views->runtime);
    PyEval_RestoreThread(tstate);
    if (rc < 0) {
        pyl_raise_errno(rc);
        PyErr_WriteUnraisable((PyObject *)first);
    }
    views->is_started = false;
    for (uint32_t i = 0; i < views->runtime.lane_count; i++) {
        pyl_loop_wakes_settle(&views->loops[i]->wakes);
        pyl_worker_fini(&views->runtime.lanes[i].worker);
    }
    for (uint32_t i = 0; i < views->loop_count; i++) {
        Py_DECREF(views->loops[i]); /* the caller holds the first one */
    }
}
