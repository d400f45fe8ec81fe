/*
 * http_state.h - constants that every HTTP server of the module shares.
 */
#ifndef PYL_PYTHON_HTTP_STATE_H
#define PYL_PYTHON_HTTP_STATE_H

#include "python/compat.h"

#include "base/platform.h"

#include <stdint.h>

enum { PYL_HTTP_METHODS = 47, PYL_HTTP_NAME_SLOTS = 256 };

struct pyl_http_known_name {
    PyObject *bytes; /* lower-case; NULL: free slot */
    uint8_t size;
};

struct pyl_http_state {
    PyObject *methods[PYL_HTTP_METHODS]; /* str by llhttp's number, NULL where there is none */
    PyObject *version_10;
    PyObject *version_11;
    PyObject *slash;       /* "/" */
    PyObject *slash_bytes; /* b"/" */
    PyObject *empty_bytes;
    PyObject *asgi;          /* templates, copied before they are given away */
    PyObject *request_event; /* {"type": "http.request", "body": b"", "more_body": False} */
    PyObject *disconnect_event;
    PyObject *start_type;   /* "http.response.start" */
    PyObject *await_helper; /* wraps an awaitable that is no coroutine */
    struct pyl_http_known_name names[PYL_HTTP_NAME_SLOTS]; /* open addressing */
};

/* For the slots of the module; clear comes before the types of the state are cleared. */
int pyl_http_state_traverse(struct pyl_http_state *state, visitproc visit, void *arg);
void pyl_http_state_clear(struct pyl_http_state *state);

#endif
