/*
 * http_server.c - what the connections of one server share: timeouts, the date, error reports, the
 * orderly end. The type is in http_server_type.c.
 */
#include "python/http.h"

#include <string.h>
#include <time.h>

#define TICK_NS INT64_C(500000000)

/* ---- timeouts ---- */

static bool
has_waiting(const struct pyl_http_server *server)
{
    for (int kind = 0; kind < PYL_HTTP_TIMEOUT_KINDS; kind++) {
        if (!pyl_list_is_empty(&server->waiting[kind])) {
            return true;
        }
    }
    return false;
}

static void
arm_tick(struct pyl_http_server *server)
{
    struct pyl_worker *worker = server->loop->worker;
    if (!server->is_tick_armed && !server->loop->is_closed) {
        if (pyl_timer_start(worker, &server->tick, worker->now_ns + TICK_NS) == 0) {
            server->is_tick_armed = true;
            Py_INCREF(server);
        }
        /* Out of memory: the next connection tries again. */
    }
}

void
pyl_http_server_wait(struct pyl_http_server *server, struct pyl_http_connection *connection,
                     enum pyl_http_timeout kind)
{
    pyl_list_remove(&connection->timeout_link);
    connection->timeout_kind = (uint8_t)kind;
    if (kind == PYL_HTTP_TIMEOUT_NONE) {
        return;
    }
    connection->since_ns = server->loop->worker->now_ns;
    pyl_list_append(&server->waiting[kind], &connection->timeout_link);
    if (PYL_UNLIKELY(!server->is_tick_armed)) {
        arm_tick(server);
    }
}

static void
expire_due(struct pyl_http_server *server, int kind)
{
    struct pyl_list due;
    struct pyl_list *list = &server->waiting[kind];
    int64_t since_max = server->loop->worker->now_ns - server->options.timeout_ns[kind];
    pyl_list_init(&due);
    /* First collected: an expired connection may come into the same list again. */
    while (!pyl_list_is_empty(list)) {
        struct pyl_http_connection *connection =
            PYL_CONTAINER_OF(list->next, struct pyl_http_connection, timeout_link);
        if (connection->since_ns > since_max) {
            break;
        }
        pyl_list_remove(&connection->timeout_link);
        pyl_list_append(&due, &connection->timeout_link);
    }
    while (!pyl_list_is_empty(&due)) {
        struct pyl_http_connection *connection =
            PYL_CONTAINER_OF(due.next, struct pyl_http_connection, timeout_link);
        pyl_list_remove(&connection->timeout_link);
        Py_INCREF(connection);
        pyl_http_connection_expire(connection);
        Py_DECREF(connection);
    }
}

void
pyl_http_server_run_tick(struct pyl_job *job)
{
    struct pyl_http_server *server = PYL_CONTAINER_OF(job, struct pyl_http_server, tick.job);
    server->is_tick_armed = false;
    for (int kind = 0; kind < PYL_HTTP_TIMEOUT_KINDS; kind++) {
        expire_due(server, kind);
    }
    if (has_waiting(server)) {
        arm_tick(server);
    }
    Py_DECREF(server);
}

/* ---- date and server lines ---- */

static void
put_two_digits(char *out, int number)
{
    out[0] = (char)('0' + number / 10);
    out[1] = (char)('0' + number % 10);
}

/* "date: Sun, 06 Nov 1994 08:49:37 GMT\r\n" */
static size_t
write_date(char *out, time_t now)
{
    static const char DAYS[] = "SunMonTueWedThuFriSat";
    static const char MONTHS[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    struct tm tm;
    (void)gmtime_r(&now, &tm);
    memcpy(out, "date: Sun, 06 Nov 1994 08:49:37 GMT\r\n", 37);
    memcpy(out + 6, DAYS + (size_t)tm.tm_wday * 3, 3);
    put_two_digits(out + 11, tm.tm_mday);
    memcpy(out + 14, MONTHS + (size_t)tm.tm_mon * 3, 3);
    put_two_digits(out + 18, (tm.tm_year + 1900) / 100);
    put_two_digits(out + 20, (tm.tm_year + 1900) % 100);
    put_two_digits(out + 23, tm.tm_hour);
    put_two_digits(out + 26, tm.tm_min);
    put_two_digits(out + 29, tm.tm_sec);
    return 37;
}

static void
refresh_defaults(struct pyl_http_server *server, int64_t now_ns)
{
    static const char SERVER[] = "server: pyloop\r\n";
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    server->date_until_ns = now_ns + INT64_C(1000000000) - now.tv_nsec;
    server->date_size = 0;
    if (server->options.has_date_header) {
        server->date_size = (uint32_t)write_date((char *)server->defaults, now.tv_sec);
    }
    server->defaults_size = server->date_size;
    if (server->options.has_server_header) {
        memcpy(server->defaults + server->date_size, SERVER, sizeof(SERVER) - 1);
        server->defaults_size += (uint32_t)sizeof(SERVER) - 1;
    }
}

const uint8_t *
pyl_http_server_defaults(struct pyl_http_server *server, bool has_date, bool has_server,
                         size_t *ret_size)
{
    int64_t now_ns = server->loop->worker->now_ns;
    if (now_ns >= server->date_until_ns) {
        refresh_defaults(server, now_ns);
    }
    const uint8_t *start = server->defaults;
    const uint8_t *end = server->defaults + server->defaults_size;
    if (!has_date) {
        start += server->date_size;
    }
    if (!has_server) {
        end = server->defaults + server->date_size;
    }
    *ret_size = (size_t)(end - start);
    return start;
}

/* ---- reports and the end ---- */

void
pyl_http_server_report(struct pyl_http_server *server, const char *message)
{
    if (PyErr_ExceptionMatches(PyExc_KeyboardInterrupt) ||
        PyErr_ExceptionMatches(PyExc_SystemExit)) {
        pyl_loop_report(server->loop, message, NULL, NULL);
        return;
    }
    PyObject *exception = PyErr_GetRaisedException();
    PyObject *result = PyObject_CallFunction(server->on_error, "sO", message,
                                             exception != NULL ? exception : Py_None);
    if (result == NULL) {
        pyl_loop_report(server->loop, "The error handler of the HTTP server failed", NULL, NULL);
    }
    Py_XDECREF(result);
    Py_XDECREF(exception);
}

void
pyl_http_server_check_drained(struct pyl_http_server *server)
{
    if (server->drained == NULL || server->connection_count > 0 || server->task_count > 0) {
        return;
    }
    PyObject *drained = server->drained;
    server->drained = NULL;
    if (pyl_future_set_result(drained, Py_None) < 0) {
        pyl_http_server_report(server, "Ending the HTTP server failed");
    }
    Py_DECREF(drained);
}
