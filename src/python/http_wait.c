/*
 * http_wait.c - what receive() and send() return: an awaitable that is done, and one that waits.
 *
 * Both have a coroutine's methods, because applications hand them to create_task() and wait_for().
 * A cancelled receive() loses nothing: one that waits takes the message from the request at the
 * moment it runs again, and one that is done gives back a message that nobody has looked at.
 */
#include "python/http.h"

#include "python/awaitable.h"
#include "python/future.h"

/* ---- done */

struct http_ready {
    PyObject_HEAD
    struct pyl_state *state; /* kept alive by the type */
    struct pyl_http_request *request;
    PyObject *message; /* NULL: given away */
    bool is_last;      /* with content */
};

static struct http_ready *
ready_of(PyObject *op)
{
    return (struct http_ready *)(void *)op;
}

static PySendResult
ready_am_send(PyObject *op, PyObject *value, PyObject **ret)
{
    struct http_ready *ready = ready_of(op);
    (void)value;
    if (ready->message == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited receive()");
        *ret = NULL;
        return PYGEN_ERROR;
    }
    *ret = ready->message;
    ready->message = NULL;
    return PYGEN_RETURN;
}

static int
ready_clear(PyObject *op)
{
    struct http_ready *ready = ready_of(op);
    PyObject *message = ready->message;
    if (message != NULL) {
        ready->message = NULL;
        pyl_http_receive_give_back(ready->request, message, ready->is_last);
        Py_DECREF(message);
    }
    Py_CLEAR(ready->request);
    return 0;
}

static int
ready_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT((PyObject *)ready_of(op)->request);
    Py_VISIT(ready_of(op)->message);
    return 0;
}

static void
ready_dealloc(PyObject *op)
{
    struct pyl_state *state = ready_of(op)->state;
    PyObject_GC_UnTrack(op);
    if (PYL_UNLIKELY(ready_of(op)->message != NULL)) {
        PyObject *saved = PyErr_GetRaisedException();
        (void)ready_clear(op);
        pyl_restore_exception(saved);
    }
    Py_CLEAR(ready_of(op)->request);
    pyl_freelist_free(pyl_freelist_of(state, PYL_FREELIST_HTTP_READY), op);
}

static PyType_Slot ready_slots[] = {
    {Py_tp_dealloc, ready_dealloc},
    {Py_tp_traverse, ready_traverse},
    {Py_tp_clear, ready_clear},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, pyl_awaitable_next},
    {Py_tp_methods, pyl_awaitable_methods},
    {Py_am_await, PyObject_SelfIter},
    {Py_am_send, ready_am_send},
    {0, NULL},
};

static PyType_Spec ready_spec = {
    .name = "pyloop._core.HttpReady",
    .basicsize = sizeof(struct http_ready),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = ready_slots,
};

PyObject *
pyl_http_ready(struct pyl_http_request *request, PyObject *message, bool is_last)
{
    struct pyl_state *state = request->server->state;
    struct http_ready *ready = (struct http_ready *)(void *)pyl_freelist_new(
        pyl_freelist_of(state, PYL_FREELIST_HTTP_READY), state->http_ready_type);
    if (ready == NULL) {
        Py_DECREF(message);
        return NULL;
    }
    ready->state = state;
    ready->request = (struct pyl_http_request *)Py_NewRef((PyObject *)request);
    ready->message = message;
    ready->is_last = is_last;
    PyObject_GC_Track(ready);
    return (PyObject *)ready;
}

/* ---- waiting */

struct http_wait {
    PyObject_HEAD
    struct pyl_http_request *request; /* NULL: finished */
    PyObject *future;                 /* what the task sleeps on, or NULL */
    struct pyl_http_waiter waiter;    /* in request->waiters while there is a future */
};

static struct http_wait *
wait_of(PyObject *op)
{
    return (struct http_wait *)(void *)op;
}

static void
forget_future(struct http_wait *wait)
{
    pyl_list_remove(&wait->waiter.link);
    Py_CLEAR(wait->future);
}

static int
wait_clear(PyObject *op)
{
    struct http_wait *wait = wait_of(op);
    forget_future(wait);
    Py_CLEAR(wait->request);
    return 0;
}

static int
wait_traverse(PyObject *op, visitproc visit, void *arg)
{
    struct http_wait *wait = wait_of(op);
    Py_VISIT(Py_TYPE(op));
    Py_VISIT((PyObject *)wait->request);
    Py_VISIT(wait->future);
    return 0;
}

static void
wait_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)wait_clear(op);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

/* 1: over, *ret is set. 0: must sleep. -1 with an exception. */
static int
look(struct http_wait *wait, PyObject **ret)
{
    int rc;
    if (wait->waiter.is_receive) {
        rc = pyl_http_receive_now(wait->request, ret);
        if (rc == 2) {
            pyl_http_receive_note_end(wait->request);
        }
        return rc;
    }
    rc = pyl_http_send_check(wait->request);
    if (rc == 0) {
        *ret = Py_NewRef(Py_None);
        return 1;
    }
    return rc > 0 ? 0 : -1;
}

static int
sleep_on_future(struct http_wait *wait)
{
    wait->future = pyl_future_new(wait->request->server->loop);
    if (wait->future == NULL) {
        return -1;
    }
    pyl_list_append(&wait->request->waiters, &wait->waiter.link);
    if (wait->waiter.is_receive && wait->request->connection != NULL) {
        pyl_http_connection_update_reading(wait->request->connection);
    }
    return 0;
}

static PySendResult
wait_am_send(PyObject *op, PyObject *value, PyObject **ret)
{
    struct http_wait *wait = wait_of(op);
    (void)value;
    *ret = NULL;
    if (wait->request == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited receive() or send()");
        return PYGEN_ERROR;
    }
    for (;;) {
        if (wait->future != NULL) {
            PySendResult status = PyIter_Send(wait->future, Py_None, ret);
            if (status == PYGEN_NEXT) {
                return PYGEN_NEXT;
            }
            forget_future(wait);
            if (status == PYGEN_ERROR) {
                Py_CLEAR(wait->request);
                return PYGEN_ERROR;
            }
            Py_CLEAR(*ret);
        }
        int rc = look(wait, ret);
        if (rc != 0) {
            Py_CLEAR(wait->request);
            return rc > 0 ? PYGEN_RETURN : PYGEN_ERROR;
        }
        if (sleep_on_future(wait) < 0) {
            return PYGEN_ERROR;
        }
    }
}

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
    .name = "pyloop._core.HttpWait",
    .basicsize = sizeof(struct http_wait),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = wait_slots,
};

static void
wake(struct pyl_http_waiter *waiter)
{
    struct http_wait *wait = PYL_CONTAINER_OF(waiter, struct http_wait, waiter);
    struct pyl_http_server *server = wait->request->server;
    PyObject *future = Py_NewRef(wait->future);
    if (pyl_future_set_result(future, Py_None) < 0) {
        pyl_http_server_report(server, "Waking an ASGI application failed");
    }
    Py_DECREF(future);
}

PyObject *
pyl_http_wait_new(struct pyl_http_request *request, bool is_receive)
{
    struct http_wait *wait =
        PyObject_GC_New(struct http_wait, request->server->state->http_wait_type);
    if (wait == NULL) {
        return NULL;
    }
    wait->request = (struct pyl_http_request *)Py_NewRef((PyObject *)request);
    wait->future = NULL;
    wait->waiter = (struct pyl_http_waiter){.wake = wake, .is_receive = is_receive};
    pyl_list_init(&wait->waiter.link);
    PyObject_GC_Track(wait);
    return (PyObject *)wait;
}

/* ---- those who wait ---- */

static struct pyl_http_waiter *
waiter_of(const struct pyl_list *link)
{
    return PYL_CONTAINER_OF(link, struct pyl_http_waiter, link);
}

bool
pyl_http_wait_has_receiver(const struct pyl_http_request *request)
{
    const struct pyl_list *link = request->waiters.next;
    for (; link != &request->waiters; link = link->next) {
        if (waiter_of(link)->is_receive) {
            return true;
        }
    }
    return false;
}

static void
wake_some(struct pyl_http_request *request, bool is_remote_only)
{
    struct pyl_list waking;
    pyl_list_move_all(&waking, &request->waiters);
    while (!pyl_list_is_empty(&waking)) {
        struct pyl_http_waiter *waiter = waiter_of(waking.next);
        pyl_list_remove(&waiter->link);
        pyl_list_append(&request->waiters, &waiter->link);
        if (waiter->is_remote || !is_remote_only) {
            waiter->wake(waiter);
        }
    }
}

void
pyl_http_wait_wake_all(struct pyl_http_request *request)
{
    if (!pyl_list_is_empty(&request->waiters)) {
        wake_some(request, false);
    }
}

void
pyl_http_wait_wake_remote(struct pyl_http_request *request)
{
    wake_some(request, true);
}

int
pyl_http_wait_types_add(PyObject *module, struct pyl_state *state)
{
    if (pyl_add_type(module, &ready_spec, NULL, false, &state->http_ready_type) < 0) {
        return -1;
    }
    return pyl_add_type(module, &wait_spec, NULL, false, &state->http_wait_type);
}
