/*
 * http_log.c - the access log: lines are put together in C and written once a turn.
 *
 * uvicorn's format: INFO:     127.0.0.1:5000 - "GET /path?query HTTP/1.1" 200 OK
 * Targets cannot forge a line: the parser lets printable ASCII through and nothing else.
 */
#include "python/http.h"

#include <stdio.h>
#include <string.h>

enum { LOG_FLUSH_SIZE = 64 * 1024 };

/* Room for `size` more bytes, or NULL: a line is lost rather than a request. */
static uint8_t *
log_room(struct pyl_http_server *server, size_t size)
{
    size_t needed = server->log_size + size;
    if (needed > server->log_capacity) {
        size_t capacity = needed < 4096 ? 4096 : needed * 2;
        uint8_t *log = PyMem_RawRealloc(server->log, capacity);
        if (log == NULL) {
            return NULL;
        }
        server->log = log;
        server->log_capacity = capacity;
    }
    return server->log + server->log_size;
}

static uint8_t *
put(uint8_t *out, const char *text, size_t size)
{
    memcpy(out, text, size);
    return out + size;
}

/* "INFO:     " and the client. Writes at most 32 bytes and the host. */
static uint8_t *
put_client(uint8_t *out, PyObject *client, const char *host, size_t host_size)
{
    char port[16];
    out = put(out, "INFO:     ", 10);
    if (client == NULL) {
        return put(out, "- - \"", 5);
    }
    int size = snprintf(port, sizeof(port), ":%ld", PyLong_AsLong(PyTuple_GET_ITEM(client, 1)));
    out = put(out, host, host_size);
    out = put(out, port, (size_t)size);
    return put(out, " - \"", 4);
}

static void
queue_log(struct pyl_http_server *server, uint8_t *end)
{
    server->log_size = (size_t)(end - server->log);
    if (server->log_size > LOG_FLUSH_SIZE) {
        pyl_http_log_flush(server);
    } else if (!server->is_log_queued) {
        server->is_log_queued = true;
        Py_INCREF(server);
        pyl_worker_defer(server->loop->worker, &server->log_job);
    }
}

static const char *
get_host(PyObject *client, size_t *ret_size)
{
    Py_ssize_t size = 0;
    const char *host = "";
    if (client != NULL) {
        host = PyUnicode_AsUTF8AndSize(PyTuple_GET_ITEM(client, 0), &size);
    }
    *ret_size = (size_t)size;
    return host;
}

void
pyl_http_log_access(struct pyl_http_request *request, PyObject *client)
{
    struct pyl_http_server *server = request->server;
    if (server->write_log == NULL || request->target == NULL) {
        return;
    }
    size_t host_size;
    const char *host = get_host(client, &host_size);
    size_t target_size = (size_t)PyBytes_GET_SIZE(request->target);
    const char *method = pyl_http1_method_name(request->method);
    const char *phrase = pyl_http1_phrase(request->response.status);
    uint8_t *out = host != NULL ? log_room(server, host_size + target_size + 160) : NULL;
    if (out == NULL) {
        PyErr_Clear();
        return;
    }
    out = put_client(out, client, host, host_size);
    out = put(out, method, strlen(method));
    *out++ = ' ';
    out = put(out, PyBytes_AS_STRING(request->target), target_size);
    out = put(out, request->minor_version == 0 ? " HTTP/1.0\" " : " HTTP/1.1\" ", 11);
    unsigned status = request->response.status;
    *out++ = (uint8_t)('0' + status / 100);
    *out++ = (uint8_t)('0' + status / 10 % 10);
    *out++ = (uint8_t)('0' + status % 10);
    *out++ = ' ';
    out = put(out, phrase, strlen(phrase));
    *out++ = '\n';
    queue_log(server, out);
}

void
pyl_http_log_refusal(struct pyl_http_server *server, PyObject *client, unsigned status,
                     const char *reason)
{
    size_t host_size;
    const char *host = get_host(client, &host_size);
    uint8_t *out = NULL;
    if (server->write_log != NULL && host != NULL) {
        out = log_room(server, host_size + strlen(reason) + 160);
    }
    if (out == NULL) {
        PyErr_Clear();
        return;
    }
    out = put_client(out, client, host, host_size);
    int size = snprintf((char *)out, strlen(reason) + 160, "-\" %u %s (%s)\n", status,
                        pyl_http1_phrase(status), reason);
    queue_log(server, out + size);
}

void
pyl_http_log_flush(struct pyl_http_server *server)
{
    if (server->log_size == 0 || server->write_log == NULL) {
        return;
    }
    PyObject *lines =
        PyBytes_FromStringAndSize((const char *)server->log, (Py_ssize_t)server->log_size);
    server->log_size = 0;
    PyObject *result = lines != NULL ? PyObject_CallOneArg(server->write_log, lines) : NULL;
    Py_XDECREF(lines);
    if (result == NULL) {
        /* It would fail again for every request. */
        Py_CLEAR(server->write_log);
        pyl_http_server_report(server, "Writing the access log failed; it is off from now on");
    }
    Py_XDECREF(result);
}

void
pyl_http_log_run(struct pyl_job *job)
{
    struct pyl_http_server *server = PYL_CONTAINER_OF(job, struct pyl_http_server, log_job);
    server->is_log_queued = false;
    pyl_http_log_flush(server);
    Py_DECREF(server);
}
