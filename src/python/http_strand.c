/*
 * http_strand.c - a request whose application waits in its lane's queue of new strands, because the
 * lane is behind. Who runs the strand calls the application there: the lane itself, later and in
 * order, or another one that has nothing to do.
 *
 *   QUEUED --its own lane takes it--> as if it had begun at once
 *      | \--another lane takes it--> BEGUN (task set) --the task is done--> ENDED, in the
 *      |                                                      view of the connection
 *      `--cancelled, or the loop ends: the application is not called--/
 *
 * Begun elsewhere, the task and all that it makes belong to that view; the request does not. The
 * application's receive() and send() go through http_remote.c, and the end comes back as a job, as
 * a spawned task's does (spawn.c).
 *
 * References: the runtime holds the strand until on_ended, the request until it runs at home or has
 * ended, the task's done hook until the end was delivered.
 */
#include "python/http.h"

#include "python/views.h"

/* An application that takes less than that is better run than queued: a lane with a hundred such
 * requests in a turn is busy, not behind. What a strand may take before others are served. */
#define HEAVY_NS PYL_STRAND_BUDGET_NS

struct pyl_http_strand {
    PyObject_HEAD
    struct pyl_http_request *request; /* constant; its fields belong to the connection's view */
    PyObject *scope;                  /* until begun, of whoever has the strand */
    /* The next two are guarded by the object's critical section. */
    PyObject *task; /* NULL until begun elsewhere */
    bool is_cancel_wanted;
    PyObject *failure;    /* why there is no task, or NULL; written before `deliver` is posted */
    struct pyl_list live; /* begun elsewhere: in `stolen` of that view, its thread only */
    struct pyl_strand strand;
    struct pyl_job begin;   /* the strand's only job */
    struct pyl_job deliver; /* in the queues of the connection's view, with a reference */
};

/* ---- the end of one that began elsewhere ---- */

/* The connection's view. */
static void
run_deliver(struct pyl_job *job)
{
    struct pyl_http_strand *self = PYL_CONTAINER_OF(job, struct pyl_http_strand, deliver);
    struct pyl_http_request *request = self->request;
    if (request->strand == self) { /* else the server is gone */
        struct pyl_http_server *server = request->server;
        Py_INCREF(request);
        Py_CLEAR(request->strand);
        pyl_http_request_unlist(request);
        PyErr_SetRaisedException(Py_XNewRef(self->failure));
        pyl_http_request_end(request, self->task);
        pyl_http_server_check_drained(server);
        Py_DECREF(request);
    }
    Py_DECREF(self);
}

/* Behind all that was sent here. Takes over the reference. */
static void
post_end(struct pyl_http_strand *self)
{
    pyl_http_remote_flush(self->request);
    if (!pyl_loop_post(self->request->server->loop, &self->deliver)) {
        Py_DECREF(self); /* that view is closed */
    }
}

/* The task's done hook, in the task's view. Takes over the reference of the hook. */
static void
on_task_done(PyObject *task, void *user)
{
    struct pyl_http_strand *self = user;
    (void)task;
    pyl_views_count_guest(pyl_views_here(self->request->server->loop->views), -1);
    pyl_list_remove(&self->live);
    post_end(self);
}

void
pyl_http_strands_forget(struct pyl_loop *loop)
{
    while (!pyl_list_is_empty(&loop->stolen)) {
        struct pyl_http_strand *self =
            PYL_CONTAINER_OF(loop->stolen.next, struct pyl_http_strand, live);
        pyl_list_remove(&self->live);
        pyl_future_clear_done_hook(self->task);
        Py_DECREF(self);
    }
}

/* ---- beginning ---- */

/* The state in the scope is that of the view where the application runs. 0 or -1. */
static int
exchange_state(struct pyl_http_server *server, struct pyl_loop *view, PyObject *scope)
{
    PyObject *key = server->state->str.state;
    if (server->states == NULL) {
        return 0;
    }
    PyObject *state = PyTuple_GET_ITEM(server->states, view->lane_index);
    if (state == Py_None) {
        Py_XDECREF(pyl_dict_pop(scope, key));
        return PyErr_Occurred() ? -1 : 0;
    }
    PyObject *copy = PyDict_Copy(state);
    int rc = copy != NULL ? PyDict_SetItem(scope, key, copy) : -1;
    Py_XDECREF(copy);
    return rc;
}

/* Publishes the task. Returns whether it is to be cancelled. */
static bool
set_task(struct pyl_http_strand *self, PyObject *task)
{
    bool is_wanted;
    Py_BEGIN_CRITICAL_SECTION(self);
    self->task = Py_NewRef(task);
    is_wanted = self->is_cancel_wanted;
    Py_END_CRITICAL_SECTION();
    return is_wanted;
}

/* In `view`, which is another one than the connection's. Steals the scope. */
static void
begin_elsewhere(struct pyl_http_strand *self, struct pyl_loop *view, PyObject *scope)
{
    PyObject *task = NULL;
    if (exchange_state(self->request->server, view, scope) < 0) {
        Py_DECREF(scope);
    } else {
        task = pyl_http_request_call(self->request, view, scope);
    }
    if (task == NULL) {
        self->failure = PyErr_GetRaisedException();
        post_end((struct pyl_http_strand *)Py_NewRef((PyObject *)self));
        return;
    }
    bool is_wanted = set_task(self, task);
    pyl_list_append(&view->stolen, &self->live);
    pyl_views_count_guest(view, 1);
    Py_INCREF(self); /* the hook's */
    pyl_future_set_done_hook(task, on_task_done, self);
    if (is_wanted && pyl_task_request_cancel(task, NULL) < 0) {
        pyl_loop_report(view, "Exception in the cancellation of a request", "task", task);
    }
    Py_DECREF(task);
}

static void
take_early_back(struct pyl_http_request *request)
{
    PyObject *message = pyl_http_receive_take_early(request);
    if (message != NULL) {
        pyl_http_request_take_back(request, message);
        Py_DECREF(message);
    }
}

/* Steals the scope. */
static void
begin_at_home(struct pyl_http_strand *self, PyObject *scope, bool may_begin)
{
    struct pyl_http_request *request = self->request;
    if (request->strand != self) { /* the server is gone */
        Py_DECREF(scope);
        return;
    }
    Py_INCREF(request);
    Py_CLEAR(request->strand);
    pyl_http_request_unlist(request);
    if (may_begin) {
        take_early_back(request);
        pyl_http_request_run(request, scope);
    } else {
        Py_DECREF(scope);
        pyl_http_request_end(request, NULL);
    }
    pyl_http_server_check_drained(request->server);
    Py_DECREF(request);
}

/* In the lane that has the strand from now on. */
static void
run_begin(struct pyl_job *job)
{
    struct pyl_http_strand *self = PYL_CONTAINER_OF(job, struct pyl_http_strand, begin);
    struct pyl_loop *home = self->request->server->loop;
    struct pyl_loop *view = pyl_views_here(home->views);
    PyObject *scope = self->scope;
    bool may_begin;
    self->scope = NULL;
    (void)atomic_fetch_sub_explicit(&self->request->server->waiting_requests, 1,
                                    memory_order_relaxed);
    pyl_strand_end(&self->strand);
    Py_BEGIN_CRITICAL_SECTION(self);
    may_begin = !self->is_cancel_wanted;
    Py_END_CRITICAL_SECTION();
    may_begin &= !atomic_load_explicit(&home->views->is_ending, memory_order_relaxed);
    if (view == home) {
        begin_at_home(self, scope, may_begin);
    } else if (may_begin) {
        begin_elsewhere(self, view, scope);
    } else {
        Py_DECREF(scope);
        post_end((struct pyl_http_strand *)Py_NewRef((PyObject *)self));
    }
}

static void
strand_on_ended(struct pyl_strand *strand)
{
    Py_DECREF(PYL_CONTAINER_OF(strand, struct pyl_http_strand, strand));
}

static const struct pyl_strand_ops strand_ops = {
    .on_stop = NULL, /* its one job sees views->is_ending */
    .on_ended = strand_on_ended,
};

int
pyl_http_strand_cancel(struct pyl_http_strand *strand)
{
    PyObject *task;
    Py_BEGIN_CRITICAL_SECTION(strand);
    strand->is_cancel_wanted = true;
    task = Py_XNewRef(strand->task);
    Py_END_CRITICAL_SECTION();
    int rc = task != NULL ? pyl_task_request_cancel(task, NULL) : 0;
    Py_XDECREF(task);
    return rc < 0 ? -1 : 0;
}

/* ---- queueing ---- */

/* Do requests wait here, and something for longer than thieves let it? Only a hint: as old as the
 * turn. */
static bool
has_backlog(struct pyl_http_server *server, struct pyl_lane *lane)
{
    return atomic_load_explicit(&server->waiting_requests, memory_order_relaxed) > 0 &&
           pyl_lane_queue_count(&lane->queue) > 0 &&
           lane->worker.now_ns - pyl_lane_queue_oldest_ns(&lane->queue) >= server->behind_ns;
}

/* The lane is behind if its turn has lasted for longer than thieves wait, and it was not many small
 * requests that took so long; or if it was behind before and has not caught up. The clock is not
 * read for the first request of a turn. */
static bool
is_behind(struct pyl_http_server *server, struct pyl_lane *lane)
{
    struct pyl_worker *worker = &lane->worker;
    uint64_t turn = pyl_counter_read(&worker->stats.turns);
    if (server->counted_turn != turn) {
        server->counted_turn = turn;
        server->turn_requests = 0;
    }
    if (server->turn_requests > 0) {
        int64_t busy_ns = pyl_reactor_now_ns(&worker->reactor) - worker->now_ns;
        if (busy_ns > server->behind_ns && busy_ns > HEAVY_NS * server->turn_requests) {
            return true;
        }
    }
    return has_backlog(server, lane);
}

bool
pyl_http_strand_is_due(struct pyl_http_server *server)
{
    struct pyl_views *views = server->loop->views;
    if (atomic_load_explicit(&views->is_ending, memory_order_relaxed)) {
        return false;
    }
    struct pyl_lane *lane = &views->runtime.lanes[server->loop->lane_index];
    if (server->behind_ns == 0 || is_behind(server, lane)) {
        return true;
    }
    server->turn_requests++;
    return false;
}

int
pyl_http_strand_queue(struct pyl_http_request *request, PyObject *scope)
{
    struct pyl_loop *loop = request->server->loop;
    struct pyl_http_strand *self =
        PyObject_GC_New(struct pyl_http_strand, loop->state->http_strand_type);
    if (self == NULL) {
        PyErr_Clear();
        return -1;
    }
    self->request = (struct pyl_http_request *)Py_NewRef((PyObject *)request);
    self->scope = scope;
    self->task = NULL;
    self->is_cancel_wanted = false;
    self->failure = NULL;
    self->begin.run = run_begin;
    self->deliver.run = run_deliver;
    pyl_list_init(&self->live);
    pyl_strand_init(&self->strand, &strand_ops);
    self->strand.is_bound = true; /* to the connection, a guest of this view */
    PyObject_GC_Track(self);
    pyl_http_receive_early(request);
    Py_INCREF(self); /* the runtime's, until on_ended */
    (void)atomic_fetch_add_explicit(&request->server->waiting_requests, 1, memory_order_relaxed);
    if (pyl_runtime_spawn(&loop->views->runtime, &self->strand, &self->begin) < 0) {
        (void)atomic_fetch_sub_explicit(&request->server->waiting_requests, 1,
                                        memory_order_relaxed);
        take_early_back(request);
        self->scope = NULL;
        Py_DECREF(self);
        Py_DECREF(self);
        return -1;
    }
    request->strand = self; /* the first reference */
    pyl_http_request_list(request);
    pyl_counter_add(&loop->metrics.requests_queued, 1);
    pyl_runtime_offer(&loop->views->runtime, false); /* we are late already */
    return 0;
}

/* ---- the type ---- */

static int
strand_traverse(PyObject *op, visitproc visit, void *arg)
{
    struct pyl_http_strand *self = (struct pyl_http_strand *)(void *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT((PyObject *)self->request);
    Py_VISIT(self->scope);
    Py_VISIT(self->task);
    Py_VISIT(self->failure);
    return 0;
}

static int
strand_clear(PyObject *op)
{
    struct pyl_http_strand *self = (struct pyl_http_strand *)(void *)op;
    Py_CLEAR(self->scope);
    Py_CLEAR(self->task);
    Py_CLEAR(self->failure);
    return 0;
}

static void
strand_dealloc(PyObject *op)
{
    struct pyl_http_strand *self = (struct pyl_http_strand *)(void *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)strand_clear(op);
    Py_DECREF(self->request);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

static PyType_Slot strand_slots[] = {
    {Py_tp_dealloc, strand_dealloc},
    {Py_tp_traverse, strand_traverse},
    {Py_tp_clear, strand_clear},
    {0, NULL},
};

static PyType_Spec strand_spec = {
    .name = "pyloop._core.HttpStrand",
    .basicsize = sizeof(struct pyl_http_strand),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = strand_slots,
};

int
pyl_http_strand_type_add(PyObject *module, struct pyl_state *state)
{
    pyl_state_add_job_kind(state, run_deliver, offsetof(struct pyl_http_strand, deliver));
    return pyl_add_type(module, &strand_spec, NULL, false, &state->http_strand_type);
}
