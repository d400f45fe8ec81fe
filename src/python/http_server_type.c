/*
 * http_server_type.c - the type HttpServer: memory, construction, methods.
 *
 *   server = _core.HttpServer(loop, app, on_error, **options)
 *   server.listen(sock) ...
 *   server.drain(); await server.wait_drained()      no new requests; wait for the last response
 *   server.cancel(); server.abort()                  when patience ends
 */
#include "python/http.h"

#include "python/views.h"

#include <string.h>

static struct pyl_http_server *
server_of(PyObject *self)
{
    return (struct pyl_http_server *)(void *)self;
}

/* ---- memory ---- */

static int
server_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct pyl_http_server *server = server_of(self);
    Py_VISIT(Py_TYPE(self));
    Py_VISIT((PyObject *)server->loop);
    Py_VISIT(server->app);
    Py_VISIT(server->context);
    Py_VISIT(server->scope_template);
    Py_VISIT(server->app_state);
    Py_VISIT(server->states);
    Py_VISIT(server->on_error);
    Py_VISIT(server->write_log);
    Py_VISIT(server->drained);
    Py_VISIT(server->listeners);
    if (server->requests.next != NULL) {
        for (struct pyl_list *link = server->requests.next; link != &server->requests;
             link = link->next) {
            Py_VISIT((PyObject *)PYL_CONTAINER_OF(link, struct pyl_http_request, link));
        }
    }
    return 0;
}

/* Drops the list's references; their tasks end unheard. */
static void
drop_requests(struct pyl_http_server *server)
{
    while (server->requests.next != NULL && !pyl_list_is_empty(&server->requests)) {
        struct pyl_http_request *request =
            PYL_CONTAINER_OF(server->requests.next, struct pyl_http_request, link);
        pyl_list_remove(&request->link);
        server->task_count--;
        if (request->task != NULL) {
            pyl_future_clear_done_hook(request->task);
            Py_CLEAR(request->task);
        }
        Py_CLEAR(request->strand); /* it sees that, and says nothing */
        Py_DECREF(request);
    }
}

static int
server_clear(PyObject *self)
{
    struct pyl_http_server *server = server_of(self);
    drop_requests(server);
    Py_CLEAR(server->app);
    Py_CLEAR(server->context);
    Py_CLEAR(server->scope_template);
    Py_CLEAR(server->app_state);
    Py_CLEAR(server->states);
    Py_CLEAR(server->root_path);
    Py_CLEAR(server->root_path_raw);
    Py_CLEAR(server->on_error);
    Py_CLEAR(server->write_log);
    Py_CLEAR(server->drained);
    Py_CLEAR(server->listeners);
    pyl_http_headers_forget(server);
    return 0;
}

static void
server_dealloc(PyObject *self)
{
    struct pyl_http_server *server = server_of(self);
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    (void)server_clear(self);
    while (server->free_blocks != NULL) {
        struct pyl_http_block *block = server->free_blocks;
        server->free_blocks = block->next_free;
        PyMem_RawFree(block);
    }
    PyMem_RawFree(server->log);
    pyl_http1_shared_fini(&server->shared);
    Py_CLEAR(server->loop);
    type->tp_free(self);
    Py_DECREF(type);
}

/* ---- construction ---- */

static int
set_seconds(struct pyl_http_server *server, enum pyl_http_timeout kind, double seconds)
{
    if (!(seconds >= 0 && seconds <= 1e9)) {
        PyErr_SetString(PyExc_ValueError, "a timeout must be a number of seconds, 0 or more");
        return -1;
    }
    server->options.timeout_ns[kind] = (int64_t)(seconds * 1e9);
    return 0;
}

/* Everything in the scope that does not depend on the request, or is often the same. */
static int
make_scope_template(struct pyl_http_server *server)
{
    struct pyl_state *state = server->state;
    PyObject *path = PyUnicode_Concat(server->root_path, state->http.slash);
    PyObject *raw_path = PyNumber_Add(server->root_path_raw, state->http.slash_bytes);
    if (path != NULL && raw_path != NULL) {
        server->scope_template = Py_BuildValue(
            "{s:s,s:O,s:O,s:O,s:O,s:s,s:O,s:O,s:O,s:O,s:O,s:O}", "type", "http", "asgi", Py_None,
            "http_version", state->http.version_11, "server", Py_None, "client", Py_None, "scheme",
            "http", "method", state->http.methods[HTTP_GET], "root_path", server->root_path, "path",
            path, "raw_path", raw_path, "query_string", state->http.empty_bytes, "headers",
            Py_None);
    }
    Py_XDECREF(path);
    Py_XDECREF(raw_path);
    if (server->scope_template == NULL) {
        return -1;
    }
    server->template_local = Py_None;
    /* Last, so that a copy has room for it. */
    return server->app_state == NULL
               ? 0
               : PyDict_SetItem(server->scope_template, state->str.state, Py_None);
}

static void
init_plain(struct pyl_http_server *server)
{
    pyl_list_init(&server->connections);
    pyl_list_init(&server->requests);
    for (int kind = 0; kind < PYL_HTTP_TIMEOUT_KINDS; kind++) {
        pyl_list_init(&server->waiting[kind]);
    }
    server->tick.job.run = pyl_http_server_run_tick;
    server->log_job.run = pyl_http_log_run;
    server->options.timeout_ns[PYL_HTTP_TIMEOUT_LINGER] = PYL_HTTP_LINGER_NS;
    server->options.timeout_ns[PYL_HTTP_TIMEOUT_CLOSE] = PYL_HTTP_CLOSE_NS;
}

struct server_args {
    PyObject *loop;
    PyObject *app;
    PyObject *on_error;
    PyObject *state;
    PyObject *root_path;
    PyObject *write_log;
    PyObject *states;
    double timeout_keep_alive;
    double timeout_head;
    Py_ssize_t limit_concurrency;
    unsigned long long body_size_max;
    int has_server_header;
    int has_date_header;
    long long behind_ns;
};

static int
parse_args(PyObject *args, PyObject *kwargs, struct server_args *ret)
{
    static const char *const NAMES[] = {"loop",
                                        "app",
                                        "on_error",
                                        "state",
                                        "root_path",
                                        "access_log",
                                        "timeout_keep_alive",
                                        "timeout_headers",
                                        "limit_concurrency",
                                        "limit_body_size",
                                        "server_header",
                                        "date_header",
                                        "states",
                                        "_behind_ns",
                                        NULL};
    *ret = (struct server_args){.state = Py_None,
                                .write_log = Py_None,
                                .states = Py_None,
                                .behind_ns = -1,
                                .timeout_keep_alive = 5,
                                .timeout_head = 30,
                                .has_server_header = 1,
                                .has_date_header = 1};
    return PyArg_ParseTupleAndKeywords(
               args, kwargs, "OOO|$OUOddnKppOL:HttpServer", (char **)(uintptr_t)NAMES, &ret->loop,
               &ret->app, &ret->on_error, &ret->state, &ret->root_path, &ret->write_log,
               &ret->timeout_keep_alive, &ret->timeout_head, &ret->limit_concurrency,
               &ret->body_size_max, &ret->has_server_header, &ret->has_date_header, &ret->states,
               &ret->behind_ns)
               ? 0
               : -1;
}

/* None, or a tuple with a state for each view of the loop. */
static bool
are_states(const struct pyl_loop *loop, PyObject *states)
{
    if (states == Py_None) {
        return true;
    }
    Py_ssize_t count = loop->views != NULL ? (Py_ssize_t)loop->views->runtime.lane_count : 1;
    bool is_right = PyTuple_Check(states) && PyTuple_GET_SIZE(states) == count;
    for (Py_ssize_t i = 0; is_right && i < count; i++) {
        PyObject *one = PyTuple_GET_ITEM(states, i);
        is_right = one == Py_None || PyDict_Check(one);
    }
    return is_right;
}

static int
check_args(struct pyl_state *state, const struct server_args *args)
{
    if (pyl_loop_cast(state, args->loop) == NULL) {
        PyErr_SetString(PyExc_TypeError, "HttpServer() needs a pyloop.Loop");
    } else if (!PyCallable_Check(args->app) || !PyCallable_Check(args->on_error)) {
        PyErr_SetString(PyExc_TypeError, "app and on_error must be callable");
    } else if (args->state != Py_None && !PyDict_Check(args->state)) {
        PyErr_SetString(PyExc_TypeError, "state must be a dict or None");
    } else if (!are_states(pyl_loop_cast(state, args->loop), args->states)) {
        PyErr_SetString(PyExc_TypeError,
                        "states must be a tuple with a dict or None for each view");
    } else if (args->limit_concurrency < 0) {
        PyErr_SetString(PyExc_ValueError, "limit_concurrency must be 0 or more");
    } else {
        return 0;
    }
    return -1;
}

static bool
is_coroutine_function(PyObject *callable)
{
    if (!PyFunction_Check(callable)) {
        return false;
    }
    PyCodeObject *code = (PyCodeObject *)(void *)PyFunction_GET_CODE(callable);
    return (code->co_flags & CO_COROUTINE) != 0;
}

/* An async function, or an instance whose __call__ is one. */
static bool
is_plain_application(PyObject *app)
{
    if (is_coroutine_function(app)) {
        return true;
    }
    PyObject *call = PyObject_GetAttrString((PyObject *)Py_TYPE(app), "__call__");
    bool is_plain = call != NULL && is_coroutine_function(call);
    PyErr_Clear();
    Py_XDECREF(call);
    return is_plain;
}

/* Whether, and when, requests become strands. On builds with a GIL another lane would not run them
 * any sooner; there only who gives a time (the tests) gets it. */
static void
init_strands(struct pyl_http_server *server, long long behind_ns)
{
    const struct pyl_views *views = server->loop->views;
    bool is_wanted = PYL_FREE_THREADED || behind_ns >= 0;
    server->may_queue = is_wanted && views != NULL && pyl_steal_is_on(&views->runtime);
    server->behind_ns = behind_ns >= 0 ? behind_ns : PYL_RUNTIME_STEAL_DELAY_NS;
}

static int
server_init(struct pyl_http_server *server, const struct server_args *args)
{
    struct pyl_http1_limits limits = {.body_size_max = args->body_size_max};
    init_plain(server);
    pyl_http1_shared_init(&server->shared, &limits);
    server->loop = (struct pyl_loop *)(void *)Py_NewRef(args->loop);
    server->app = Py_NewRef(args->app);
    server->is_coroutine_function = is_plain_application(args->app);
    server->on_error = Py_NewRef(args->on_error);
    server->app_state = args->state == Py_None ? NULL : Py_NewRef(args->state);
    server->write_log = args->write_log == Py_None ? NULL : Py_NewRef(args->write_log);
    server->states = args->states == Py_None ? NULL : Py_NewRef(args->states);
    init_strands(server, args->behind_ns);
    server->options.limit_concurrency = args->limit_concurrency;
    server->options.has_server_header = args->has_server_header != 0;
    server->options.has_date_header = args->has_date_header != 0;
    server->listeners = PyList_New(0);
    server->context = PyContext_CopyCurrent();
    server->root_path = args->root_path != NULL ? Py_NewRef(args->root_path) : PyUnicode_New(0, 0);
    if (server->listeners == NULL || server->context == NULL || server->root_path == NULL) {
        return -1;
    }
    server->root_path_raw = PyUnicode_AsUTF8String(server->root_path);
    if (server->root_path_raw == NULL ||
        set_seconds(server, PYL_HTTP_TIMEOUT_IDLE, args->timeout_keep_alive) < 0 ||
        set_seconds(server, PYL_HTTP_TIMEOUT_HEAD, args->timeout_head) < 0) {
        return -1;
    }
    return make_scope_template(server);
}

static PyObject *
server_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    struct pyl_state *state = pyl_state_of_type(type);
    struct server_args parsed;
    if (parse_args(args, kwargs, &parsed) < 0 || check_args(state, &parsed) < 0) {
        return NULL;
    }
    struct pyl_http_server *server = server_of(type->tp_alloc(type, 0));
    if (server == NULL) {
        return NULL;
    }
    server->state = state;
    if (server_init(server, &parsed) < 0) {
        Py_DECREF(server);
        return NULL;
    }
    return (PyObject *)server;
}

/* ---- methods ---- */

/* Every item a listener of a server. 0 or -1. */
static int
check_peers(struct pyl_http_server *server, PyObject *peers)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(peers); i++) {
        if (!Py_IS_TYPE(PyTuple_GET_ITEM(peers, i), server->state->http_listener_type)) {
            PyErr_SetString(PyExc_TypeError, "peers are what join() returned");
            return -1;
        }
    }
    return 0;
}

static PyObject *
method_listen(PyObject *self, PyObject *args)
{
    struct pyl_http_server *server = server_of(self);
    PyObject *sock;
    PyObject *peers = NULL;
    if (!PyArg_ParseTuple(args, "O|O!:listen", &sock, &PyTuple_Type, &peers) ||
        pyl_loop_check_usable(server->loop) < 0 ||
        (peers != NULL && check_peers(server, peers) < 0) ||
        pyl_http_listen(server, sock, peers) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
method_join(PyObject *self, PyObject *sock)
{
    struct pyl_http_server *server = server_of(self);
    return pyl_loop_check_usable(server->loop) < 0 ? NULL : pyl_http_listener_join(server, sock);
}

/* Calls `function` for each connection; it may close them. */
static void
for_each_connection(struct pyl_http_server *server,
                    void (*function)(struct pyl_http_connection *connection))
{
    struct pyl_list left;
    pyl_list_move_all(&left, &server->connections);
    while (!pyl_list_is_empty(&left)) {
        struct pyl_http_connection *connection =
            PYL_CONTAINER_OF(left.next, struct pyl_http_connection, link);
        pyl_list_remove(&connection->link);
        pyl_list_append(&server->connections, &connection->link);
        Py_INCREF(connection);
        function(connection);
        Py_DECREF(connection);
    }
}

static PyObject *
method_drain(PyObject *self, PyObject *unused)
{
    struct pyl_http_server *server = server_of(self);
    (void)unused;
    server->is_draining = true;
    int rc = pyl_http_stop_listening(server);
    PyObject *exception = rc < 0 ? PyErr_GetRaisedException() : NULL;
    for_each_connection(server, pyl_http_connection_drain);
    if (exception != NULL) {
        PyErr_SetRaisedException(exception);
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
method_wait_drained(PyObject *self, PyObject *unused)
{
    struct pyl_http_server *server = server_of(self);
    (void)unused;
    if (server->drained != NULL && !pyl_future_is_done(server->drained)) {
        PyErr_SetString(PyExc_RuntimeError, "wait_drained() is already waiting");
        return NULL;
    }
    PyObject *future = pyl_future_new(server->loop);
    if (future == NULL) {
        return NULL;
    }
    Py_XSETREF(server->drained, Py_NewRef(future));
    pyl_http_server_check_drained(server);
    return future;
}

/* A task, or a strand. 0 or -1. */
static int
cancel_one(struct pyl_state *state, PyObject *running)
{
    if (Py_IS_TYPE(running, state->http_strand_type)) {
        return pyl_http_strand_cancel((struct pyl_http_strand *)(void *)running);
    }
    return pyl_task_request_cancel(running, NULL) < 0 ? -1 : 0;
}

static PyObject *
method_cancel(PyObject *self, PyObject *unused)
{
    struct pyl_http_server *server = server_of(self);
    (void)unused;
    PyObject *tasks = PyList_New(0);
    struct pyl_list *link = server->requests.next;
    for (; tasks != NULL && link != &server->requests; link = link->next) {
        struct pyl_http_request *request = PYL_CONTAINER_OF(link, struct pyl_http_request, link);
        PyObject *running = request->strand != NULL ? (PyObject *)request->strand : request->task;
        if (running != NULL && PyList_Append(tasks, running) < 0) {
            Py_CLEAR(tasks);
            break;
        }
    }
    if (tasks == NULL) {
        return NULL;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(tasks); i++) {
        if (cancel_one(server->state, PyList_GET_ITEM(tasks, i)) < 0) {
            Py_DECREF(tasks);
            return NULL;
        }
    }
    Py_ssize_t count = PyList_GET_SIZE(tasks);
    Py_DECREF(tasks);
    return PyLong_FromSsize_t(count);
}

static PyObject *
method_abort(PyObject *self, PyObject *unused)
{
    (void)unused;
    for_each_connection(server_of(self), pyl_http_connection_abort);
    Py_RETURN_NONE;
}

static PyObject *
method_flush_log(PyObject *self, PyObject *unused)
{
    (void)unused;
    pyl_http_log_flush(server_of(self));
    Py_RETURN_NONE;
}

static PyMethodDef server_methods[] = {
    {"listen", method_listen, METH_VARARGS,
     "listen(sock, peers=())\n\nAccept on a listening socket, which drain() closes. In parallel "
     "mode the peers, which join() made in other views, get their part of the connections."},
    {"join", method_join, METH_O,
     "join(sock)\n\nA peer for the listen() of another view. In this server's own thread."},
    {"drain", method_drain, METH_NOARGS,
     "Stop accepting, close idle connections, end the others after their response."},
    {"wait_drained", method_wait_drained, METH_NOARGS,
     "A future that is done when no connection and no application call is left."},
    {"cancel", method_cancel, METH_NOARGS,
     "Cancel every application call that still runs. Returns how many."},
    {"abort", method_abort, METH_NOARGS, "Close every connection, dropping what is queued."},
    {"flush_log", method_flush_log, METH_NOARGS, "Write what the access log has collected."},
    {NULL},
};

static PyObject *
get_connections(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromSsize_t(server_of(self)->connection_count);
}

static PyObject *
get_tasks(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromSsize_t(server_of(self)->task_count);
}

static PyObject *
get_requests(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLongLong(server_of(self)->request_count);
}

static PyGetSetDef server_getset[] = {
    {"connections", get_connections, NULL, "Open connections.", NULL},
    {"tasks", get_tasks, NULL, "Application calls that have not returned.", NULL},
    {"requests", get_requests, NULL, "Requests given to the application so far.", NULL},
    {NULL},
};

static PyType_Slot server_slots[] = {
    {Py_tp_new, server_new},
    {Py_tp_dealloc, server_dealloc},
    {Py_tp_traverse, server_traverse},
    {Py_tp_clear, server_clear},
    {Py_tp_methods, server_methods},
    {Py_tp_getset, server_getset},
    {0, NULL},
};

static PyType_Spec server_spec = {
    .name = "pyloop._core.HttpServer",
    .basicsize = sizeof(struct pyl_http_server),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = server_slots,
};

int
pyl_http_types_add(PyObject *module, struct pyl_state *state)
{
    pyl_state_add_job_kind(state, pyl_http_server_run_tick,
                           offsetof(struct pyl_http_server, tick.job));
    pyl_state_add_job_kind(state, pyl_http_log_run, offsetof(struct pyl_http_server, log_job));
    if (pyl_http_state_init(state) < 0 || pyl_http_wait_types_add(module, state) < 0 ||
        pyl_http_request_types_add(module, state) < 0 ||
        pyl_http_strand_type_add(module, state) < 0 ||
        pyl_http_remote_types_add(module, state) < 0 ||
        pyl_http_connection_type_add(module, state) < 0 ||
        pyl_http_listener_type_add(module, state) < 0) {
        return -1;
    }
    return pyl_add_type(module, &server_spec, NULL, true, &state->http_server_type);
}
