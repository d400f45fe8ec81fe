/*
 * http_remote.c - receive() and send() in another view than the connection's.
 *
 * The call is a future of the caller's view (HttpRemote) that travels through the queue of the
 * connection's view, is served there, and is completed there: the caller is woken in its own view.
 * Calls of one thread arrive in their order. What send() reads is copied at the call, and what it
 * raises comes out of the await. The head of a response is made and checked where send() was
 * called, and waits there for its content, so that both cross together; at the end of the turn it
 * leaves alone.
 *
 *   caller                                        connection's view
 *   call: copy the message, post ---------------> serve: done, or among the request's waiters
 *   await: woken <------------------------------- complete
 *   given up: cancel the future, post ----------> leave the waiters; what receive() got comes first
 *                                                 again
 *
 * The status of the future says who was first, the completion or the cancellation, so no message is
 * lost and none comes twice.
 */
#include "python/http.h"

#include "python/awaitable.h"
#include "python/future.h"
#include "python/views.h"

enum kind { RECEIVE, SEND, HEAD };

struct http_remote {
    struct pyl_future future;
    struct pyl_http_request *request; /* constant, as the next three; its fields belong to the
                                       * connection's view */
    enum kind kind;
    PyObject *message;             /* SEND */
    struct http_remote *before;    /* SEND: the HEAD that is to be served before, or NULL */
    struct pyl_http_head head;     /* HEAD: until it is served */
    bool is_away;                  /* HEAD: no longer to be sent; guarded as request->held is */
    bool is_end;                   /* RECEIVE: the last with content; written before the result */
    struct pyl_http_waiter waiter; /* connection's view only; linked: holds a reference */
    /* In the queue of the connection's view, with a reference; the last one of the caller's. */
    struct pyl_job serve;
    struct pyl_job give_up;
    struct pyl_job leave;
};

static struct http_remote *
remote_cast(PyObject *op)
{
    return (struct http_remote *)(void *)op;
}

/* ---- the connection's view ---- */

/* With the value, or (NULL) the current exception, which is consumed. False: the caller had given
 * up. */
static bool
complete(struct http_remote *remote, PyObject *value)
{
    struct pyl_loop *home = remote->request->server->loop;
    int rc;
    if (value != NULL) {
        rc = pyl_future_finish_result(&remote->future, value);
    } else {
        PyObject *exception = PyErr_GetRaisedException();
        rc = pyl_future_finish_exception(&remote->future, exception);
        Py_DECREF(exception);
    }
    if (rc == 0) {
        return true;
    }
    if (PyErr_ExceptionMatches(remote->future.state->invalid_state_error)) {
        PyErr_Clear();
        return false;
    }
    if (!pyl_loop_is_open(remote->future.native)) { /* and whoever waits will never run */
        PyErr_Clear();
        return true;
    }
    pyl_loop_report(home, "Exception in the completion of an ASGI call", "future",
                    (PyObject *)remote);
    return true;
}

/* 1: the future is done, 0: there is nothing for it yet. */
static int
serve_receive(struct http_remote *remote, bool is_first)
{
    struct pyl_http_request *request = remote->request;
    PyObject *message = NULL;
    if (pyl_future_is_done((PyObject *)remote)) {
        return 1; /* given up */
    }
    int rc = is_first ? pyl_http_receive_begin(request, &message)
                      : pyl_http_receive_now(request, &message);
    if (rc == 0) {
        return 0;
    }
    remote->is_end = rc == 2;
    if (!complete(remote, message) && message != NULL) {
        pyl_http_request_take_back(request, message);
    }
    Py_XDECREF(message);
    return 1;
}

/* Is it the one that was not served yet? Then it is served now. */
static bool
claim(struct http_remote *head)
{
    struct pyl_http_request *request = head->request;
    bool is_due;
    Py_BEGIN_CRITICAL_SECTION(request);
    is_due = request->held == (PyObject *)head;
    if (is_due) {
        request->held = NULL;
    }
    Py_END_CRITICAL_SECTION();
    if (is_due) {
        Py_DECREF(head); /* the caller has one, too */
    }
    return is_due;
}

/* The application was told that all is well: only what it did wrong is worth a word, which the
 * future says if nobody asks it. */
static void
serve_head(struct http_remote *head)
{
    PyObject *disconnected = (PyObject *)head->future.state->http_disconnected_type;
    if (!claim(head)) {
        return;
    }
    int rc = pyl_http_send_put_head(head->request, &head->head);
    if (rc < 0 && PyErr_ExceptionMatches(disconnected)) {
        PyErr_Clear();
        rc = 0;
    }
    (void)complete(head, rc == 0 ? Py_None : NULL);
}

void
pyl_http_remote_claim(struct pyl_http_request *request)
{
    struct http_remote *head;
    Py_BEGIN_CRITICAL_SECTION(request);
    head = remote_cast(Py_XNewRef(request->held));
    Py_END_CRITICAL_SECTION();
    if (head != NULL) {
        serve_head(head);
        Py_DECREF(head);
    }
}

static int
serve_send(struct http_remote *remote, bool is_first)
{
    if (is_first && remote->before != NULL) {
        serve_head(remote->before);
    }
    /* Given up or not, the message was sent at the call. */
    int rc = is_first ? pyl_http_send_message(remote->request, remote->message)
                      : pyl_http_send_check(remote->request);
    if (rc > 0 && !pyl_future_is_done((PyObject *)remote)) {
        return 0;
    }
    (void)complete(remote, rc < 0 ? NULL : Py_None);
    return 1;
}

static int
serve(struct http_remote *remote, bool is_first)
{
    switch (remote->kind) {
    case RECEIVE:
        return serve_receive(remote, is_first);
    case SEND:
        return serve_send(remote, is_first);
    default:
        serve_head(remote);
        return 1;
    }
}

/* Gives the list's reference away. */
static void
leave_waiters(struct http_remote *remote)
{
    pyl_list_remove(&remote->waiter.link);
    Py_DECREF(remote);
}

static void
wake(struct pyl_http_waiter *waiter)
{
    struct http_remote *remote = PYL_CONTAINER_OF(waiter, struct http_remote, waiter);
    Py_INCREF(remote);
    if (serve(remote, false) != 0 && !pyl_list_is_empty(&waiter->link)) {
        leave_waiters(remote);
    }
    Py_DECREF(remote);
}

static void
run_serve(struct pyl_job *job)
{
    struct http_remote *remote = PYL_CONTAINER_OF(job, struct http_remote, serve);
    struct pyl_http_request *request = remote->request;
    if (serve(remote, true) != 0) {
        Py_DECREF(remote);
        return;
    }
    pyl_list_append(&request->waiters, &remote->waiter.link); /* with the queue's reference */
    if (remote->kind == RECEIVE && request->connection != NULL) {
        pyl_http_connection_update_reading(request->connection);
    }
}

/* The caller got the message, and lets it go unseen. */
static void
return_message(struct http_remote *remote)
{
    PyObject *message;
    if (pyl_future_outcome((PyObject *)remote, false, &message) == 0) {
        pyl_http_request_take_back(remote->request, message);
    }
    Py_XDECREF(message);
}

static void
run_give_up(struct pyl_job *job)
{
    struct http_remote *remote = PYL_CONTAINER_OF(job, struct http_remote, give_up);
    if (!pyl_list_is_empty(&remote->waiter.link)) {
        leave_waiters(remote);
    } else if (remote->kind == RECEIVE && pyl_future_is_done((PyObject *)remote)) {
        return_message(remote);
    }
    Py_DECREF(remote);
}

/* The connection's loop is gone: what a client that is gone leaves. Any thread. */
static void
complete_alone(struct http_remote *remote)
{
    struct pyl_state *state = remote->future.state;
    PyObject *message = NULL;
    if (remote->kind == RECEIVE) {
        message = PyDict_Copy(state->http.disconnect_event);
    } else if (remote->kind == HEAD) {
        message = Py_NewRef(Py_None);
    } else {
        PyErr_SetString((PyObject *)state->http_disconnected_type, "the client has disconnected");
    }
    (void)complete(remote, message);
    Py_XDECREF(message);
}

static void
drop_serve(struct pyl_job *job)
{
    struct http_remote *remote = PYL_CONTAINER_OF(job, struct http_remote, serve);
    complete_alone(remote);
    Py_DECREF(remote);
}

/* ---- the caller's view ---- */

/* Sends it to the connection's view. Takes over the reference. */
static void
post(struct http_remote *remote)
{
    if (!pyl_loop_post(remote->request->server->loop, &remote->serve)) {
        drop_serve(&remote->serve);
    }
}

/* New reference to the head that waits for its content and is the caller's to send now, or NULL.
 * `which`: only that one, or NULL. */
static struct http_remote *
take_held(struct pyl_http_request *request, const struct http_remote *which)
{
    struct http_remote *head;
    Py_BEGIN_CRITICAL_SECTION(request);
    head = remote_cast(request->held);
    if (head != NULL && !head->is_away && (which == NULL || head == which)) {
        head->is_away = true;
        Py_INCREF(head);
    } else {
        head = NULL;
    }
    Py_END_CRITICAL_SECTION();
    return head;
}

void
pyl_http_remote_flush(struct pyl_http_request *request)
{
    struct http_remote *held = take_held(request, NULL);
    if (held != NULL) {
        post(held);
    }
}

/* The end of the turn in which the head was held. */
static void
run_leave(struct pyl_job *job)
{
    struct http_remote *remote = PYL_CONTAINER_OF(job, struct http_remote, leave);
    struct http_remote *held = take_held(remote->request, remote);
    if (held != NULL) {
        post(held);
    }
    Py_DECREF(remote);
}

static struct http_remote *
remote_new(struct pyl_http_request *request, struct pyl_loop *here, enum kind kind)
{
    struct pyl_state *state = here->state;
    struct http_remote *remote =
        remote_cast((PyObject *)pyl_future_alloc(state, state->http_remote_type));
    if (remote == NULL) {
        return NULL;
    }
    pyl_list_init(&remote->waiter.link);
    remote->waiter.wake = wake;
    remote->waiter.is_receive = kind == RECEIVE;
    remote->waiter.is_remote = true;
    remote->kind = kind;
    remote->serve.run = run_serve;
    remote->give_up.run = run_give_up;
    remote->leave.run = run_leave;
    remote->request = (struct pyl_http_request *)Py_NewRef((PyObject *)request);
    if (pyl_future_init_native(&remote->future, here) < 0) {
        Py_CLEAR(remote);
    }
    return remote;
}

/* Makes and holds the head of the response. 1; 0: there was one already, whoever serves the message
 * says what is wrong with that; -1 with an exception. */
static int
hold_head(struct pyl_http_request *request, struct pyl_loop *here, PyObject *message)
{
    struct http_remote *remote = remote_new(request, here, HEAD);
    if (remote == NULL || pyl_http_send_make_head(request, message, &remote->head) < 0) {
        Py_XDECREF(remote);
        return -1;
    }
    bool is_first;
    Py_BEGIN_CRITICAL_SECTION(request);
    is_first = !atomic_load_explicit(&request->has_remote_start, memory_order_relaxed);
    if (is_first) {
        atomic_store_explicit(&request->has_remote_start, true, memory_order_relaxed);
        request->held = Py_NewRef((PyObject *)remote);
    }
    Py_END_CRITICAL_SECTION();
    if (is_first) {
        pyl_worker_defer(here->worker, &remote->leave); /* with the first reference */
    } else {
        Py_DECREF(remote);
    }
    return is_first ? 1 : 0;
}

/* What the application awaits: a coroutine to those who look. */
struct http_remote_wait {
    PyObject_HEAD
    struct http_remote *remote; /* NULL: over, or given up */
    bool is_awaited;
};

static struct http_remote_wait *
wait_cast(PyObject *op)
{
    return (struct http_remote_wait *)(void *)op;
}

/* On its way to the connection's view, and awaitable. Steals the remote, which may be NULL. */
static PyObject *
wait_new(struct http_remote *remote)
{
    if (remote == NULL) {
        return NULL;
    }
    struct http_remote_wait *wait =
        PyObject_GC_New(struct http_remote_wait, remote->future.state->http_remote_wait_type);
    if (wait == NULL) {
        Py_DECREF(remote);
        return NULL;
    }
    wait->remote = remote;
    wait->is_awaited = false;
    PyObject_GC_Track(wait);
    post((struct http_remote *)Py_NewRef((PyObject *)remote));
    return (PyObject *)wait;
}

static PyObject *
receive_from(struct pyl_http_request *request, struct pyl_loop *here)
{
    PyObject *message = pyl_http_receive_take_early(request);
    bool is_last = message != NULL;
    if (is_last) {
        pyl_http_receive_note_end(request);
    } else if (pyl_http_receive_is_over(request)) {
        message = PyDict_Copy(here->state->http.disconnect_event);
        if (message == NULL) {
            return NULL;
        }
    }
    if (message != NULL) { /* at once, as at home: some ask without waiting */
        return pyl_http_ready(request, message, is_last);
    }
    pyl_http_remote_flush(request); /* it was sent before */
    return wait_new(remote_new(request, here, RECEIVE));
}

static PyObject *
send_from(struct pyl_http_request *request, struct pyl_loop *here, PyObject *message)
{
    PyObject *copy = pyl_http_send_copy_message(here->state, message);
    if (copy == NULL) {
        return NULL;
    }
    if (pyl_http_send_is_start(here->state, copy)) {
        int rc = hold_head(request, here, copy);
        if (rc != 0) {
            Py_DECREF(copy);
            return rc > 0 ? pyl_done_awaitable(here->state) : NULL;
        }
    }
    struct http_remote *remote = remote_new(request, here, SEND);
    if (remote == NULL) {
        Py_DECREF(copy);
        return NULL;
    }
    remote->message = copy;
    remote->before = take_held(request, NULL);
    return wait_new(remote);
}

PyObject *
pyl_http_remote_call(struct pyl_http_request *request, PyObject *message)
{
    struct pyl_loop *home = request->server->loop;
    struct pyl_loop *here = home->views != NULL ? pyl_views_here(home->views) : NULL;
    if (here == NULL || here == home) {
        PyErr_SetString(PyExc_RuntimeError,
                        "receive() and send() belong to the thread of their event loop; use "
                        "loop.call_soon_threadsafe()");
        return NULL;
    }
    return message == NULL ? receive_from(request, here) : send_from(request, here, message);
}

/* Nobody waits for it any more; nor does anybody want to know what it raised. */
static void
give_up(struct http_remote *remote)
{
    int rc = pyl_future_finish_cancelled(&remote->future, NULL);
    if (rc < 0) {
        PyErr_WriteUnraisable((PyObject *)remote);
    }
    Py_INCREF(remote);
    if (!pyl_loop_post(remote->request->server->loop, &remote->give_up)) {
        Py_DECREF(remote);
    }
}

static int
wait_clear(PyObject *op)
{
    struct http_remote *remote = wait_cast(op)->remote;
    if (remote != NULL) {
        wait_cast(op)->remote = NULL;
        /* What was sent and never awaited goes on: if it was wrong, the future says so. */
        if (remote->kind != SEND || wait_cast(op)->is_awaited) {
            give_up(remote);
        }
        Py_DECREF(remote);
    }
    return 0;
}

static int
wait_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT((PyObject *)wait_cast(op)->remote);
    return 0;
}

static void
wait_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    PyObject *saved = PyErr_GetRaisedException();
    (void)wait_clear(op);
    pyl_restore_exception(saved);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

static PySendResult
wait_am_send(PyObject *op, PyObject *value, PyObject **ret)
{
    struct http_remote_wait *wait = wait_cast(op);
    (void)value;
    *ret = NULL;
    if (wait->remote == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited receive() or send()");
        return PYGEN_ERROR;
    }
    wait->is_awaited = true;
    PySendResult status = PyIter_Send((PyObject *)wait->remote, Py_None, ret);
    if (status == PYGEN_RETURN && wait->remote->is_end) {
        pyl_http_receive_note_end(wait->remote->request);
    }
    /* An error of a future that is pending is a misuse: the call goes on. */
    if (status == PYGEN_RETURN || (status == PYGEN_ERROR && wait->remote != NULL &&
                                   pyl_future_is_done((PyObject *)wait->remote))) {
        Py_CLEAR(wait->remote);
    }
    return status;
}

/* ---- the types ---- */

static int
remote_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT((PyObject *)remote_cast(op)->request);
    Py_VISIT(remote_cast(op)->message);
    Py_VISIT((PyObject *)remote_cast(op)->before);
    return pyl_future_traverse_fields(pyl_future_cast(op), visit, arg);
}

static int
remote_clear(PyObject *op)
{
    pyl_future_clear_fields(pyl_future_cast(op)); /* the rest is constant */
    return 0;
}

/* That the client is gone is no error of whoever did not ask. */
static bool
is_quiet(const struct pyl_future *future)
{
    return future->exception != NULL &&
           PyObject_TypeCheck(future->exception, future->state->http_disconnected_type);
}

static void
remote_dealloc(PyObject *op)
{
    struct pyl_future *future = pyl_future_cast(op);
    future->log_traceback &= !is_quiet(future);
    if (future->log_traceback && PyObject_CallFinalizerFromDealloc(op) < 0) {
        return; /* resurrected */
    }
    PyObject_GC_UnTrack(op);
    if (future->weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    (void)remote_clear(op);
    Py_XDECREF(remote_cast(op)->request);
    Py_XDECREF(remote_cast(op)->message);
    Py_XDECREF(remote_cast(op)->before);
    PyMem_RawFree(remote_cast(op)->head.block);
    pyl_future_free(future);
}

static PyType_Slot remote_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("A receive() or send() in another view than the connection's.")},
    {Py_tp_dealloc, remote_dealloc},
    {Py_tp_traverse, remote_traverse},
    {Py_tp_clear, remote_clear},
    {0, NULL},
};

static PyType_Spec remote_spec = {
    .name = "pyloop._core.HttpRemote",
    .basicsize = sizeof(struct http_remote),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = remote_slots,
};

static PyType_Slot wait_slots[] = {
    {Py_tp_dealloc, wait_dealloc},
    {Py_tp_traverse, wait_traverse},
    {Py_tp_clear, wait_clear},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, pyl_awaitable_next},
    {Py_tp_methods, pyl_awaitable_methods},
    {Py_am_await, PyObject_SelfIter},
    {Py_am_send, wait_am_send},
    {0, NULL},
};

static PyType_Spec wait_spec = {
    .name = "pyloop._core.HttpRemoteWait",
    .basicsize = sizeof(struct http_remote_wait),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = wait_slots,
};

int
pyl_http_remote_types_add(PyObject *module, struct pyl_state *state)
{
    pyl_state_add_job_kind_with_drop(state, run_serve, offsetof(struct http_remote, serve),
                                     drop_serve);
    pyl_state_add_job_kind(state, run_give_up, offsetof(struct http_remote, give_up));
    pyl_state_add_job_kind(state, run_leave, offsetof(struct http_remote, leave));
    if (pyl_add_type(module, &remote_spec, (PyObject *)state->future_type, false,
                     &state->http_remote_type) < 0) {
        return -1;
    }
    return pyl_add_type(module, &wait_spec, NULL, false, &state->http_remote_wait_type);
}
