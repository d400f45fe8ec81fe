/*
 * io_worker.c - the extension module that bench/ioworker measures: one HTTP path, whose sockets are
 * either the Python loop's own or those of a native worker beside it.
 *
 * There every connection is a native task. It receives a request, puts it into a batch, and waits
 * for a message; the Python thread takes the whole batch in one callback of its loop, calls the
 * handler for each request and posts each response to its connection.
 */
#define PY_SSIZE_T_CLEAN
#include <pyloop/python.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEAD_SIZE_MAX = 4096, PATH_SIZE_MAX = 256, RESPONSE_HEAD_SIZE_MAX = 128 };

/* ---- requests and responses ---- */

/* 1 and the path of a request, if these bytes are one with a whole head and no body; else 0. */
static int
parse_request(const char *data, size_t size, char path[PATH_SIZE_MAX])
{
    if (size < 16 || memcmp(data + size - 4, "\r\n\r\n", 4) != 0 || memcmp(data, "GET ", 4) != 0) {
        return 0;
    }
    const char *end = memchr(data + 4, ' ', size - 4);
    if (end == NULL || end - data - 4 >= PATH_SIZE_MAX) {
        return 0;
    }
    memcpy(path, data + 4, (size_t)(end - data - 4));
    path[end - data - 4] = '\0';
    return 1;
}

static int
write_head(char head[RESPONSE_HEAD_SIZE_MAX], Py_ssize_t body_size)
{
    return snprintf(head, RESPONSE_HEAD_SIZE_MAX,
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
                    "content-length: %zd\r\n\r\n",
                    body_size);
}

/* What handler(path) returns, which must be bytes; NULL with an exception. Attached. */
static PyObject *
call_handler(PyObject *handler, const char *path)
{
    PyObject *body = PyObject_CallFunction(handler, "s", path);
    if (body != NULL && !PyBytes_Check(body)) {
        PyErr_SetString(PyExc_TypeError, "the handler must return bytes");
        Py_CLEAR(body);
    }
    return body;
}

PyDoc_STRVAR(answer_doc, "answer(request, handler, /)\n--\n\n"
                         "The response to a whole request (both bytes), for the connections of the "
                         "loop itself.");

static PyObject *
answer(PyObject *module, PyObject *args)
{
    const char *data;
    Py_ssize_t size;
    PyObject *handler;
    char path[PATH_SIZE_MAX];
    if (!PyArg_ParseTuple(args, "y#O", &data, &size, &handler)) {
        return NULL;
    }
    if (!parse_request(data, (size_t)size, path)) {
        PyErr_SetString(PyExc_ValueError, "not a whole request");
        return NULL;
    }
    PyObject *body = call_handler(handler, path);
    if (body == NULL) {
        return NULL;
    }
    char head[RESPONSE_HEAD_SIZE_MAX];
    int head_size = write_head(head, PyBytes_GET_SIZE(body));
    PyObject *response = PyBytes_FromStringAndSize(NULL, head_size + PyBytes_GET_SIZE(body));
    if (response != NULL) {
        memcpy(PyBytes_AS_STRING(response), head, (size_t)head_size);
        memcpy(PyBytes_AS_STRING(response) + head_size, PyBytes_AS_STRING(body),
               (size_t)PyBytes_GET_SIZE(body));
    }
    Py_DECREF(body);
    return response;
}

/* ---- the batch: from the native worker to the Python thread ---- */

struct request {
    struct request *next;
    struct pyloop_task *task; /* a reference */
    char path[PATH_SIZE_MAX];
};

struct response {
    size_t size;
    char data[];
};

struct service {
    struct pyloop_port *port;
    PyObject *handler;
    pthread_mutex_t lock;
    struct request *first; /* guarded by lock, as the next */
    struct request **last;
};

static struct service service = {.lock = PTHREAD_MUTEX_INITIALIZER, .last = &service.first};

static struct request *
take_batch(void)
{
    pthread_mutex_lock(&service.lock);
    struct request *first = service.first;
    service.first = NULL;
    service.last = &service.first;
    pthread_mutex_unlock(&service.lock);
    return first;
}

/* NULL: the connection is to be closed. Attached. */
static struct response *
respond(const struct request *request)
{
    PyObject *body = call_handler(service.handler, request->path);
    if (body == NULL) {
        PyErr_WriteUnraisable(service.handler);
        return NULL;
    }
    char head[RESPONSE_HEAD_SIZE_MAX];
    size_t body_size = (size_t)PyBytes_GET_SIZE(body);
    size_t head_size = (size_t)write_head(head, PyBytes_GET_SIZE(body));
    struct response *response = malloc(sizeof(*response) + head_size + body_size);
    if (response != NULL) {
        response->size = head_size + body_size;
        memcpy(response->data, head, head_size);
        memcpy(response->data + head_size, PyBytes_AS_STRING(body), body_size);
    }
    Py_DECREF(body);
    return response;
}

/* Attached, in the loop's thread. */
static void
answer_batch(void *argument)
{
    struct request *request = take_batch();
    while (request != NULL) {
        struct request *next = request->next;
        struct response *response = respond(request);
        if (response == NULL || pyloop_post(request->task, response, free) < 0) {
            free(response);
            pyloop_task_cancel(request->task);
        }
        pyloop_task_unref(request->task);
        free(request);
        request = next;
    }
}

static void
drop_batch(void *argument)
{
    struct request *request = take_batch();
    while (request != NULL) {
        struct request *next = request->next;
        pyloop_task_unref(request->task);
        free(request);
        request = next;
    }
}

/* 0, or -errno: the request was not handed over. On the native worker. */
static int
hand_over(struct request *request)
{
    pthread_mutex_lock(&service.lock);
    int was_empty = service.first == NULL;
    *service.last = request;
    service.last = &request->next;
    pthread_mutex_unlock(&service.lock);
    /* While the batch is not empty, a call that takes it is on its way. */
    if (!was_empty) {
        return 0;
    }
    int error = pyloop_port_call(service.port, answer_batch, drop_batch, NULL);
    if (error < 0) {
        drop_batch(NULL);
    }
    return error;
}

/* ---- connections: native tasks ---- */

struct connection {
    int fd;
    size_t filled;
    struct response *response; /* being sent */
    char head[HEAD_SIZE_MAX];
};

static void received(struct pyloop_task *task, void *state, int64_t result);

static void
end_connection(void *state)
{
    struct connection *connection = state;
    free(connection->response);
    free(connection);
}

static void
receive_more(struct pyloop_task *task, struct connection *connection)
{
    pyloop_receive(task, connection->fd, connection->head + connection->filled,
                   HEAD_SIZE_MAX - connection->filled, received);
}

static void
sent(struct pyloop_task *task, void *state, int64_t result)
{
    struct connection *connection = state;
    if (result < 0) {
        pyloop_close(task, connection->fd);
        return;
    }
    free(connection->response);
    connection->response = NULL;
    connection->filled = 0;
    receive_more(task, connection);
}

static void
answered(struct pyloop_task *task, void *state, int64_t result)
{
    struct connection *connection = state;
    void *message;
    if (result < 0 || !pyloop_take_message(task, &message)) {
        pyloop_close(task, connection->fd);
        return;
    }
    connection->response = message;
    pyloop_send(task, connection->fd, connection->response->data, connection->response->size, sent);
}

static void
received(struct pyloop_task *task, void *state, int64_t result)
{
    struct connection *connection = state;
    if (result <= 0) {
        pyloop_close(task, connection->fd);
        return;
    }
    connection->filled += (size_t)result;
    struct request *request = malloc(sizeof(*request));
    int is_whole =
        request != NULL && parse_request(connection->head, connection->filled, request->path);
    if (!is_whole) {
        free(request);
        if (request == NULL || connection->filled == HEAD_SIZE_MAX) {
            pyloop_close(task, connection->fd);
        } else {
            receive_more(task, connection);
        }
        return;
    }
    request->next = NULL;
    request->task = task;
    pyloop_task_ref(task);
    if (hand_over(request) < 0) {
        pyloop_close(task, connection->fd);
        return;
    }
    pyloop_wait_message(task, answered);
}

static void
begin_connection(struct pyloop_task *task, void *state, int64_t result)
{
    receive_more(task, state);
}

static void
accepted(struct pyloop_task *task, void *state, int64_t result)
{
    int listener = (int)(intptr_t)state;
    if (result == -ECANCELED) {
        pyloop_close(task, listener);
        return;
    }
    if (result >= 0) {
        struct connection *connection = calloc(1, sizeof(*connection));
        if (connection != NULL) {
            connection->fd = (int)result;
        }
        if (connection == NULL || pyloop_spawn(pyloop_task_runtime(task), begin_connection,
                                               connection, end_connection, NULL) < 0) {
            free(connection);
            pyloop_close(task, (int)result);
        }
    }
    pyloop_accept(task, listener, accepted);
}

static void
begin_accepting(struct pyloop_task *task, void *state, int64_t result)
{
    pyloop_accept(task, (int)(intptr_t)state, accepted);
}

/* ---- the module ---- */

PyDoc_STRVAR(serve_doc, "serve(fd, handler, /)\n--\n\n"
                        "Serves the connections of a listening, non-blocking socket, which it "
                        "takes, on the native worker of the running loop until the loop is "
                        "closed. Once in a process.");

static PyObject *
serve(PyObject *module, PyObject *args)
{
    int fd;
    PyObject *handler;
    if (!PyArg_ParseTuple(args, "iO", &fd, &handler)) {
        return NULL;
    }
    if (service.port != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "it serves already");
        return NULL;
    }
    struct pyloop_runtime *runtime = pyloop_runtime_running();
    if (runtime == NULL || (service.port = pyloop_port_running()) == NULL) {
        return NULL;
    }
    service.handler = Py_NewRef(handler);
    int error = pyloop_spawn(runtime, begin_accepting, (void *)(intptr_t)fd, NULL, NULL);
    if (error < 0) {
        errno = -error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"answer", answer, METH_VARARGS, answer_doc},
    {"serve", serve, METH_VARARGS, serve_doc},
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
    .m_name = "bench_io_worker",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit_bench_io_worker(void);

PyMODINIT_FUNC
PyInit_bench_io_worker(void)
{
    return PyModuleDef_Init(&definition);
}
