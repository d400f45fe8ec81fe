/*
 * http_names.c - objects made once and used by every request: methods, versions, event templates,
 * and the names of the usual header fields.
 */
#include "python/http.h"

#include <string.h>

static const char *const KNOWN_NAMES[] = {
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "access-control-request-headers",
    "access-control-request-method",
    "age",
    "authorization",
    "cache-control",
    "cdn-loop",
    "cf-connecting-ip",
    "cf-ipcountry",
    "cf-ray",
    "cf-visitor",
    "connection",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "dnt",
    "expect",
    "forwarded",
    "from",
    "grpc-timeout",
    "host",
    "http2-settings",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "last-event-id",
    "max-forwards",
    "origin",
    "pragma",
    "priority",
    "proxy-authorization",
    "proxy-connection",
    "purpose",
    "range",
    "referer",
    "sec-ch-ua",
    "sec-ch-ua-mobile",
    "sec-ch-ua-platform",
    "sec-fetch-dest",
    "sec-fetch-mode",
    "sec-fetch-site",
    "sec-fetch-user",
    "sec-gpc",
    "sec-websocket-extensions",
    "sec-websocket-key",
    "sec-websocket-protocol",
    "sec-websocket-version",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "true-client-ip",
    "upgrade",
    "upgrade-insecure-requests",
    "user-agent",
    "via",
    "x-api-key",
    "x-amzn-trace-id",
    "x-b3-spanid",
    "x-b3-traceid",
    "x-client-ip",
    "x-correlation-id",
    "x-csrf-token",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-forwarded-server",
    "x-real-ip",
    "x-request-id",
    "x-requested-with",
    "x-scheme",
    "x-user-agent",
};

/* Case does not matter: every byte is folded with 0x20. */
static unsigned
name_hash(const uint8_t *name, size_t size)
{
    unsigned first = name[0] | 0x20;
    unsigned middle = name[size / 2] | 0x20;
    unsigned last = name[size - 1] | 0x20;
    return (unsigned)size * 31 + first * 7 + middle * 101 + last * 13;
}

/* `known` consists of letters, digits and '-' only, and no other token character folds to one of
 * these. */
static bool
name_equals(const uint8_t *name, const uint8_t *known, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if ((name[i] | 0x20) != known[i]) {
            return false;
        }
    }
    return true;
}

PyObject *
pyl_http_field_name(struct pyl_http_state *state, const uint8_t *name, size_t size)
{
    unsigned slot = name_hash(name, size) % PYL_HTTP_NAME_SLOTS;
    while (state->names[slot].bytes != NULL) {
        const struct pyl_http_known_name *known = &state->names[slot];
        if (known->size == size &&
            name_equals(name, (const uint8_t *)PyBytes_AS_STRING(known->bytes), size)) {
            return Py_NewRef(known->bytes);
        }
        slot = (slot + 1) % PYL_HTTP_NAME_SLOTS;
    }
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (bytes == NULL) {
        return NULL;
    }
    uint8_t *lower = (uint8_t *)PyBytes_AS_STRING(bytes);
    for (size_t i = 0; i < size; i++) {
        bool is_upper = name[i] >= 'A' && name[i] <= 'Z';
        lower[i] = is_upper ? (uint8_t)(name[i] | 0x20) : name[i];
    }
    return bytes;
}

static int
init_names(struct pyl_http_state *state)
{
    for (size_t i = 0; i < sizeof(KNOWN_NAMES) / sizeof(KNOWN_NAMES[0]); i++) {
        size_t size = strlen(KNOWN_NAMES[i]);
        unsigned slot = name_hash((const uint8_t *)KNOWN_NAMES[i], size) % PYL_HTTP_NAME_SLOTS;
        while (state->names[slot].bytes != NULL) {
            slot = (slot + 1) % PYL_HTTP_NAME_SLOTS;
        }
        state->names[slot].bytes = PyBytes_FromString(KNOWN_NAMES[i]);
        if (state->names[slot].bytes == NULL) {
            return -1;
        }
        state->names[slot].size = (uint8_t)size;
    }
    return 0;
}

static int
init_methods(struct pyl_http_state *state)
{
    for (unsigned i = 0; i < PYL_HTTP_METHODS; i++) {
        const char *name = pyl_http1_method_name(i);
        if (name == NULL) {
            continue;
        }
        state->methods[i] = PyUnicode_InternFromString(name);
        if (state->methods[i] == NULL) {
            return -1;
        }
    }
    return 0;
}

/* `asyncio.create_task(receive())` and applications that return any awaitable need a coroutine. */
static PyObject *
make_await_helper(void)
{
    static const char SOURCE[] = "async def await_any(awaitable):\n"
                                 "    return await awaitable\n";
    PyObject *names = PyDict_New();
    if (names == NULL) {
        return NULL;
    }
    PyObject *helper = NULL;
    PyObject *result = NULL;
    if (PyDict_SetItemString(names, "__builtins__", PyEval_GetBuiltins()) == 0) {
        result = PyRun_String(SOURCE, Py_file_input, names, names);
    }
    if (result != NULL) {
        helper = Py_XNewRef(PyDict_GetItemString(names, "await_any"));
    }
    Py_XDECREF(result);
    Py_DECREF(names);
    return helper;
}

int
pyl_http_state_init(struct pyl_state *module_state)
{
    struct pyl_http_state *state = &module_state->http;
    state->version_10 = PyUnicode_InternFromString("1.0");
    state->version_11 = PyUnicode_InternFromString("1.1");
    state->slash = PyUnicode_InternFromString("/");
    state->slash_bytes = PyBytes_FromString("/");
    state->empty_bytes = PyBytes_FromString("");
    if (state->version_10 == NULL || state->version_11 == NULL || state->slash == NULL ||
        state->slash_bytes == NULL || state->empty_bytes == NULL) {
        return -1;
    }
    state->asgi = Py_BuildValue("{s:s,s:s}", "version", "3.0", "spec_version", "2.5");
    state->request_event = Py_BuildValue("{s:s,s:O,s:O}", "type", "http.request", "body",
                                         state->empty_bytes, "more_body", Py_False);
    state->start_type = PyUnicode_FromString("http.response.start");
    state->disconnect_event = Py_BuildValue("{s:s}", "type", "http.disconnect");
    state->await_helper = make_await_helper();
    if (state->asgi == NULL || state->request_event == NULL || state->disconnect_event == NULL ||
        state->start_type == NULL || state->await_helper == NULL) {
        return -1;
    }
    if (init_methods(state) < 0 || init_names(state) < 0) {
        return -1;
    }
    return 0;
}

int
pyl_http_state_traverse(struct pyl_http_state *state, visitproc visit, void *arg)
{
    Py_VISIT(state->asgi);
    Py_VISIT(state->request_event);
    Py_VISIT(state->disconnect_event);
    Py_VISIT(state->start_type);
    Py_VISIT(state->await_helper);
    return 0;
}

void
pyl_http_state_clear(struct pyl_http_state *state)
{
    for (unsigned i = 0; i < PYL_HTTP_METHODS; i++) {
        Py_CLEAR(state->methods[i]);
    }
    for (unsigned i = 0; i < PYL_HTTP_NAME_SLOTS; i++) {
        Py_CLEAR(state->names[i].bytes);
    }
    Py_CLEAR(state->version_10);
    Py_CLEAR(state->version_11);
    Py_CLEAR(state->slash);
    Py_CLEAR(state->slash_bytes);
    Py_CLEAR(state->empty_bytes);
    Py_CLEAR(state->asgi);
    Py_CLEAR(state->request_event);
    Py_CLEAR(state->disconnect_event);
    Py_CLEAR(state->start_type);
    Py_CLEAR(state->await_helper);
}
