/*
 * http_request.c - one call of the application: scope, receive, send, the task that runs it, and
 * what happens when that ends.
 *
 * References: the connection holds the request while it serves it; the server's list of requests
 * holds it while the application runs; receive and send hold it as long as the application keeps
 * them. The request holds the task until it is done, so that it can be cancelled; then nothing is
 * circular any more.
 */
#include "python/http.h"

#include <string.h>

/* ---- content ---- */

size_t
pyl_http_request_unread_size(const struct pyl_http_request *request)
{
    size_t size = request->more_size;
    if (request->piece != NULL) {
        size += (size_t)PyBytes_GET_SIZE(request->piece);
    }
    return size;
}

static int
append_more(struct pyl_http_request *request, const uint8_t *content, size_t size)
{
    size_t needed = request->more_size + size;
    if (needed > request->more_capacity) {
        size_t capacity = request->more_capacity == 0 ? 4096 : request->more_capacity;
        while (capacity < needed) {
            capacity *= 2;
        }
        uint8_t *more = PyMem_RawRealloc(request->more, capacity);
        if (more == NULL) {
            return -1;
        }
        request->more = more;
        request->more_capacity = capacity;
    }
    memcpy(request->more + request->more_size, content, size);
    request->more_size = needed;
    return 0;
}

int
pyl_http_request_add_content(struct pyl_http_request *request, const uint8_t *content, size_t size)
{
    request->is_continue_owed = false; /* it comes without being asked for */
    if (request->piece == NULL && request->more_size == 0) {
        request->piece = PyBytes_FromStringAndSize((const char *)content, (Py_ssize_t)size);
        if (request->piece == NULL) {
            PyErr_Clear();
            return -1;
        }
    } else if (append_more(request, content, size) < 0) {
        return -1;
    }
    pyl_http_wait_wake_all(request);
    return 0;
}

void
pyl_http_request_end_content(struct pyl_http_request *request)
{
    request->is_content_complete = true;
    pyl_http_wait_wake_all(request);
}

void
pyl_http_request_set_peer_eof(struct pyl_http_request *request)
{
    atomic_store_explicit(&request->has_peer_eof, true, memory_order_relaxed);
    pyl_http_wait_wake_all(request);
}

/* The content of the message in front of what is unread. 0 or -1. */
static int
put_back(struct pyl_http_request *request, PyObject *message)
{
    PyObject *body = PyDict_GetItemWithError(message, request->server->state->str.body);
    if (body == NULL) {
        return PyErr_Occurred() ? -1 : 0; /* http.disconnect comes again by itself */
    }
    request->is_content_delivered = false;
    if (PyBytes_GET_SIZE(body) == 0) {
        return 0;
    }
    if (request->piece == NULL) {
        request->piece = Py_NewRef(body);
        return 0;
    }
    PyObject *both = Py_NewRef(body);
    PyBytes_Concat(&both, request->piece);
    if (both == NULL) {
        return -1;
    }
    Py_SETREF(request->piece, both);
    return 0;
}

void
pyl_http_request_take_back(struct pyl_http_request *request, PyObject *message)
{
    if (request->connection == NULL) {
        return; /* nobody would get it */
    }
    if (put_back(request, message) < 0) {
        PyErr_Clear();
        pyl_http_connection_abort(request->connection); /* out of memory */
        return;
    }
    pyl_http_wait_wake_all(request);
    if (request->connection != NULL) {
        pyl_http_connection_update_reading(request->connection);
    }
}

/* ---- the end of the application ---- */

/* Is it our own ClientDisconnected, or was it raised because of it? */
static bool
is_disconnect(struct pyl_state *state, PyObject *exception, int depth)
{
    if (exception == NULL || depth > 20) {
        return false;
    }
    if (PyObject_TypeCheck(exception, state->http_disconnected_type)) {
        return true;
    }
    PyObject *members = PyObject_GetAttrString(exception, "exceptions"); /* ExceptionGroup */
    if (members != NULL && PyTuple_Check(members) && PyTuple_GET_SIZE(members) > 0) {
        bool is_all = true;
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(members) && is_all; i++) {
            is_all = is_disconnect(state, PyTuple_GET_ITEM(members, i), depth + 1);
        }
        Py_DECREF(members);
        return is_all;
    }
    PyErr_Clear();
    Py_XDECREF(members);
    PyObject *cause = PyException_GetCause(exception);
    PyObject *context = PyException_GetContext(exception);
    bool is_due =
        is_disconnect(state, cause, depth + 1) || is_disconnect(state, context, depth + 1);
    Py_XDECREF(cause);
    Py_XDECREF(context);
    return is_due;
}

/* Consumes the current exception of the application. */
static void
report_failure(struct pyl_http_request *request)
{
    PyObject *exception = PyErr_GetRaisedException();
    bool is_quiet = request->is_disconnected && is_disconnect(request->server->state, exception, 0);
    if (!is_quiet) {
        PyErr_SetRaisedException(Py_NewRef(exception));
        pyl_http_server_report(request->server, "Exception in ASGI application");
    }
    Py_DECREF(exception);
}

/* The application is done: whatever it owes the client cannot come any more. */
static void
settle_response(struct pyl_http_request *request, bool has_failed)
{
    if (request->connection == NULL) {
        return;
    }
    if (request->progress == PYL_HTTP_RESPONSE_OPEN) {
        if (!has_failed) {
            pyl_http_server_report(request->server,
                                   "ASGI callable returned without completing response.");
        }
        pyl_http_connection_truncate(request->connection);
    } else if (request->progress != PYL_HTTP_RESPONSE_COMPLETE) {
        if (!has_failed) {
            bool is_started = request->progress != PYL_HTTP_RESPONSE_IDLE;
            pyl_http_server_report(
                request->server, is_started ? "ASGI callable returned without completing response."
                                            : "ASGI callable returned without starting response.");
        }
        pyl_http_send_error(request, 500, "Internal Server Error");
    }
}

/* What the task of the application says. True: it has failed, or was cancelled. */
static bool
report_outcome(struct pyl_http_request *request, PyObject *task)
{
    PyObject *outcome;
    int kind = pyl_future_outcome(task, true, &outcome);
    if (kind == 1 && (PyErr_GivenExceptionMatches(outcome, PyExc_KeyboardInterrupt) ||
                      PyErr_GivenExceptionMatches(outcome, PyExc_SystemExit))) {
        Py_DECREF(outcome); /* on its way through the loop by itself */
    } else if (kind == 1) {
        PyErr_SetRaisedException(outcome);
        report_failure(request);
    } else if (kind == 0) {
        if (outcome != Py_None) {
            PyErr_Format(PyExc_RuntimeError,
                         "ASGI callable should return None, but returned %.200R", outcome);
            pyl_http_server_report(request->server, "Exception in ASGI application");
        }
        Py_DECREF(outcome);
    } else if (kind < 0) {
        pyl_http_server_report(request->server, "Exception in ASGI application");
    }
    return kind != 0;
}

void
pyl_http_request_end(struct pyl_http_request *request, PyObject *task)
{
    bool has_failed = true;
    if (task != NULL) {
        has_failed = report_outcome(request, task);
    } else if (PyErr_Occurred()) {
        report_failure(request);
    }
    settle_response(request, has_failed);
}

void
pyl_http_request_list(struct pyl_http_request *request)
{
    request->server->task_count++;
    pyl_list_append(&request->server->requests, &request->link);
    Py_INCREF(request); /* the list's */
}

void
pyl_http_request_unlist(struct pyl_http_request *request)
{
    request->server->task_count--;
    pyl_list_remove(&request->link);
    Py_DECREF(request);
}

static void
on_task_done(PyObject *task, void *user)
{
    struct pyl_http_request *request = user;
    pyl_list_remove(&request->link); /* and so takes over the list's reference */
    request->server->task_count--;
    Py_CLEAR(request->task);
    settle_response(request, report_outcome(request, task));
    pyl_http_server_check_drained(request->server);
    Py_DECREF(request);
}

/* ---- the start of the application ---- */

static PyObject *
call_new(struct pyl_http_request *request, vectorcallfunc vectorcall)
{
    struct pyl_state *state = request->server->state;
    struct pyl_http_call *call = (struct pyl_http_call *)(void *)pyl_freelist_new(
        pyl_freelist_of(state, PYL_FREELIST_HTTP_CALL), state->http_call_type);
    if (call == NULL) {
        return NULL;
    }
    call->vectorcall = vectorcall;
    call->request = (struct pyl_http_request *)Py_NewRef((PyObject *)request);
    PyObject_GC_Track(call);
    return (PyObject *)call;
}

/* app(scope, receive, send); steals the scope. */
static PyObject *
call_app(struct pyl_http_request *request, PyObject *scope)
{
    PyObject *args[4] = {NULL, scope, call_new(request, pyl_http_receive_call),
                         call_new(request, pyl_http_send_call)};
    PyObject *awaitable = NULL;
    if (args[2] != NULL && args[3] != NULL) {
        awaitable = PyObject_Vectorcall(request->server->app, args + 1,
                                        3 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    }
    Py_DECREF(scope);
    Py_XDECREF(args[2]);
    Py_XDECREF(args[3]);
    if (awaitable != NULL && !PyCoro_CheckExact(awaitable)) {
        Py_SETREF(awaitable,
                  PyObject_CallOneArg(request->server->state->http.await_helper, awaitable));
    }
    return awaitable;
}

/* The same for an application whose call already runs its code, not only the coroutine's steps. */
static PyObject *
call_app_in(PyObject *context, struct pyl_http_request *request, PyObject *scope)
{
    if (PyContext_Enter(context) < 0) {
        Py_DECREF(scope);
        return NULL;
    }
    PyObject *coro = call_app(request, scope);
    PyObject *exception = coro == NULL ? PyErr_GetRaisedException() : NULL;
    (void)PyContext_Exit(context);
    if (exception != NULL) {
        PyErr_SetRaisedException(exception);
    }
    return coro;
}

PyObject *
pyl_http_request_call(struct pyl_http_request *request, struct pyl_loop *view, PyObject *scope)
{
    struct pyl_http_server *server = request->server;
    PyObject *context = PyContext_Copy(server->context);
    if (context == NULL) {
        Py_DECREF(scope);
        return NULL;
    }
    PyObject *coro = server->is_coroutine_function ? call_app(request, scope)
                                                   : call_app_in(context, request, scope);
    PyObject *task = coro != NULL ? pyl_task_new(view, coro, NULL, context, false) : NULL;
    Py_XDECREF(coro);
    Py_DECREF(context);
    return task;
}

/* 0, or -1 with an exception. Steals the scope. */
static int
run_app(struct pyl_http_request *request, PyObject *scope)
{
    PyObject *task = pyl_http_request_call(request, request->server->loop, scope);
    if (task == NULL) {
        return -1;
    }
    pyl_http_request_list(request);
    request->task = task;
    Py_INCREF(task); /* the hook drops request->task */
    pyl_future_set_done_hook(task, on_task_done, request);
    Py_DECREF(task);
    return 0;
}

void
pyl_http_request_run(struct pyl_http_request *request, PyObject *scope)
{
    Py_INCREF(request);
    request->is_stepping = true;
    if (run_app(request, scope) < 0) {
        pyl_http_request_end(request, NULL);
    }
    request->is_stepping = false;
    if (request->progress == PYL_HTTP_RESPONSE_HELD) {
        pyl_http_send_queue_flush(request);
    }
    Py_DECREF(request);
}

static struct pyl_http_request *
request_new(struct pyl_http_connection *connection, const struct pyl_http1_head *head)
{
    struct pyl_http_server *server = connection->server;
    struct pyl_http_request *request = (struct pyl_http_request *)(void *)pyl_freelist_new(
        pyl_freelist_of(server->state, PYL_FREELIST_HTTP_REQUEST),
        server->state->http_request_type);
    if (request == NULL) {
        return NULL;
    }
    memset((char *)request + sizeof(PyObject), 0, sizeof(*request) - sizeof(PyObject));
    request->server = (struct pyl_http_server *)Py_NewRef((PyObject *)server);
    request->connection = connection;
    pyl_list_init(&request->link);
    pyl_list_init(&request->waiters);
    request->method = head->method;
    request->minor_version = head->minor_version;
    request->is_continue_owed = head->is_continue_expected;
    request->flush_job.run = pyl_http_send_run_flush;
    PyObject_GC_Track(request);
    return request;
}

/* The target for the access log, and the scope. New reference or NULL. */
static PyObject *
describe(struct pyl_http_request *request, const struct pyl_http1_head *head)
{
    if (request->server->write_log != NULL) {
        request->target = PyBytes_FromStringAndSize(
            (const char *)pyl_http1_bytes(head, head->target), head->target.size);
        if (request->target == NULL) {
            return NULL;
        }
    }
    return pyl_http_scope_new(request->connection, head);
}

int
pyl_http_request_start(struct pyl_http_connection *connection, const uint8_t *content,
                       size_t content_size, bool is_content_complete)
{
    const struct pyl_http1_head *head = connection->parser.head;
    struct pyl_http_request *request = request_new(connection, head);
    if (request == NULL) {
        PyErr_Clear();
        return -1;
    }
    connection->request = request; /* the reference is the connection's */
    request->is_content_complete = is_content_complete;
    if (content_size > 0 && pyl_http_request_add_content(request, content, content_size) < 0) {
        return -1;
    }
    PyObject *scope = describe(request, head);
    if (scope == NULL) {
        PyErr_Clear();
        return -1;
    }
    struct pyl_http_server *server = connection->server;
    server->request_count++;
    if (PYL_UNLIKELY(server->may_queue) && pyl_http_strand_is_due(server) &&
        pyl_http_strand_queue(request, scope) == 0) {
        return 0;
    }
    pyl_http_request_run(request, scope);
    return 0;
}

/* ---- the types ---- */

static int
request_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct pyl_http_request *request = (struct pyl_http_request *)(void *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT((PyObject *)request->server);
    Py_VISIT(request->task);
    Py_VISIT((PyObject *)request->strand);
    Py_VISIT(request->held);
    Py_VISIT(request->early);
    return 0;
}

static int
request_clear(PyObject *self)
{
    struct pyl_http_request *request = (struct pyl_http_request *)(void *)self;
    if (request->task != NULL) {
        pyl_future_clear_done_hook(request->task);
        Py_CLEAR(request->task);
    }
    Py_CLEAR(request->strand);
    Py_CLEAR(request->held);
    Py_CLEAR(request->early);
    Py_CLEAR(request->piece);
    Py_CLEAR(request->target);
    return 0;
}

static void
request_dealloc(PyObject *self)
{
    struct pyl_http_request *request = (struct pyl_http_request *)(void *)self;
    struct pyl_http_server *server = request->server;
    struct pyl_state *state = server->state;
    PyObject_GC_UnTrack(self);
    (void)request_clear(self);
    pyl_http_send_discard_head(request);
    PyMem_RawFree(request->more);
    pyl_freelist_free(pyl_freelist_of(state, PYL_FREELIST_HTTP_REQUEST), self);
    Py_DECREF(server);
}

static PyType_Slot request_slots[] = {
    {Py_tp_dealloc, request_dealloc},
    {Py_tp_traverse, request_traverse},
    {Py_tp_clear, request_clear},
    {0, NULL},
};

static PyType_Spec request_spec = {
    .name = "pyloop._core.HttpRequest",
    .basicsize = sizeof(struct pyl_http_request),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = request_slots,
};

static int
call_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT((PyObject *)((struct pyl_http_call *)(void *)self)->request);
    return 0;
}

static int
call_clear(PyObject *self)
{
    (void)self; /* the application may still call it; the cycle is broken at the request */
    return 0;
}

static void
call_dealloc(PyObject *self)
{
    struct pyl_http_request *request = ((struct pyl_http_call *)(void *)self)->request;
    PyObject_GC_UnTrack(self);
    pyl_freelist_free(pyl_freelist_of(request->server->state, PYL_FREELIST_HTTP_CALL), self);
    Py_DECREF(request);
}

static PyObject *
call_repr(PyObject *self)
{
    bool is_send = ((struct pyl_http_call *)(void *)self)->vectorcall == pyl_http_send_call;
    return PyUnicode_FromString(is_send ? "<pyloop ASGI send>" : "<pyloop ASGI receive>");
}

static PyMemberDef call_members[] = {
    {"__vectorcalloffset__", Py_T_PYSSIZET, offsetof(struct pyl_http_call, vectorcall), Py_READONLY,
     NULL},
    {NULL},
};

static PyType_Slot call_slots[] = {
    {Py_tp_dealloc, call_dealloc},
    {Py_tp_traverse, call_traverse},
    {Py_tp_clear, call_clear},
    {Py_tp_repr, call_repr},
    {Py_tp_members, call_members},
    {Py_tp_call, PyVectorcall_Call},
    {0, NULL},
};

static PyType_Spec call_spec = {
    .name = "pyloop._core.HttpCall",
    .basicsize = sizeof(struct pyl_http_call),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL |
             Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = call_slots,
};

static int
disconnected_add(PyObject *module, struct pyl_state *state)
{
    PyObject *type = PyErr_NewExceptionWithDoc(
        "pyloop.ClientDisconnected",
        "Raised by an ASGI application's send() when the client has disconnected.",
        PyExc_ConnectionError, NULL);
    if (type == NULL) {
        return -1;
    }
    state->http_disconnected_type = (PyTypeObject *)type;
    return PyModule_AddObjectRef(module, "ClientDisconnected", type);
}

int
pyl_http_request_types_add(PyObject *module, struct pyl_state *state)
{
    pyl_state_add_job_kind(state, pyl_http_send_run_flush,
                           offsetof(struct pyl_http_request, flush_job));
    if (disconnected_add(module, state) < 0 ||
        pyl_add_type(module, &request_spec, NULL, false, &state->http_request_type) < 0) {
        return -1;
    }
    return pyl_add_type(module, &call_spec, NULL, false, &state->http_call_type);
}
