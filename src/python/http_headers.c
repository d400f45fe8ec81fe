/*
 * http_headers.c - scope["headers"]: a fresh list of (name, value) pairs.
 *
 * Clients repeat themselves, each in its next request and all of one kind among each other. So
 * recent pairs are kept and shared: they are tuples of bytes, which nobody can change. Credentials
 * are not kept.
 */
#include "python/http.h"

#include <string.h>

enum { KEPT_VALUE_SIZE_MAX = 256 };

/* Cheap on purpose: a few bytes of the name and of the value. */
static unsigned
slot_of(const uint8_t *name, size_t name_size, const uint8_t *value, size_t value_size)
{
    unsigned hash = (unsigned)(name_size * 31 + value_size * 257);
    hash += (unsigned)(name[0] | 0x20) * 7 + (unsigned)(name[name_size / 2] | 0x20) * 101;
    if (value_size > 0) {
        hash += value[0] * 13u + value[value_size / 2] * 59u + value[value_size - 1] * 211u;
    }
    return (hash ^ hash >> 8) % PYL_HTTP_PAIR_SLOTS;
}

/* The kept name is lower-case. */
static bool
is_same_name(const uint8_t *name, const uint8_t *kept, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        bool is_upper = name[i] >= 'A' && name[i] <= 'Z';
        if ((is_upper ? (name[i] | 0x20) : name[i]) != kept[i]) {
            return false;
        }
    }
    return true;
}

static bool
is_pair(PyObject *pair, const uint8_t *name, size_t name_size, const uint8_t *value,
        size_t value_size)
{
    PyObject *kept_name = PyTuple_GET_ITEM(pair, 0);
    PyObject *kept_value = PyTuple_GET_ITEM(pair, 1);
    return (size_t)PyBytes_GET_SIZE(kept_name) == name_size &&
           (size_t)PyBytes_GET_SIZE(kept_value) == value_size &&
           memcmp(PyBytes_AS_STRING(kept_value), value, value_size) == 0 &&
           is_same_name(name, (const uint8_t *)PyBytes_AS_STRING(kept_name), name_size);
}

static bool
is_secret(const uint8_t *name, size_t size)
{
    return pyl_http1_equals(name, size, "authorization") ||
           pyl_http1_equals(name, size, "cookie") ||
           pyl_http1_equals(name, size, "proxy-authorization") ||
           pyl_http1_equals(name, size, "x-api-key") ||
           pyl_http1_equals(name, size, "x-csrf-token");
}

static PyObject *
pair_new(struct pyl_http_state *state, const uint8_t *name, size_t name_size, const uint8_t *value,
         size_t value_size)
{
    PyObject *pair = PyTuple_New(2);
    if (pair == NULL) {
        return NULL;
    }
    PyObject *name_bytes = pyl_http_field_name(state, name, name_size);
    PyObject *value_bytes = PyBytes_FromStringAndSize((const char *)value, (Py_ssize_t)value_size);
    PyTuple_SET_ITEM(pair, 0, name_bytes);
    PyTuple_SET_ITEM(pair, 1, value_bytes);
    if (name_bytes == NULL || value_bytes == NULL) {
        Py_DECREF(pair);
        return NULL;
    }
    return pair;
}

static PyObject *
get_pair(struct pyl_http_server *server, const struct pyl_http1_head *head,
         const struct pyl_http1_field *field)
{
    const uint8_t *name = pyl_http1_bytes(head, field->name);
    const uint8_t *value = pyl_http1_bytes(head, field->value);
    size_t name_size = field->name.size;
    size_t value_size = field->value.size;
    PyObject **slot = &server->pairs[slot_of(name, name_size, value, value_size)];
    if (*slot != NULL && is_pair(*slot, name, name_size, value, value_size)) {
        return Py_NewRef(*slot);
    }
    PyObject *pair = pair_new(&server->state->http, name, name_size, value, value_size);
    if (pair != NULL && value_size <= KEPT_VALUE_SIZE_MAX && !is_secret(name, name_size)) {
        Py_XSETREF(*slot, Py_NewRef(pair));
    }
    return pair;
}

PyObject *
pyl_http_headers_new(struct pyl_http_server *server, const struct pyl_http1_head *head)
{
    PyObject *headers = PyList_New(head->field_count);
    if (headers == NULL) {
        return NULL;
    }
    for (uint32_t i = 0; i < head->field_count; i++) {
        PyObject *pair = get_pair(server, head, &head->fields[i]);
        if (pair == NULL) {
            Py_DECREF(headers);
            return NULL;
        }
        PyList_SET_ITEM(headers, i, pair);
    }
    return headers;
}

void
pyl_http_headers_forget(struct pyl_http_server *server)
{
    for (int i = 0; i < PYL_HTTP_PAIR_SLOTS; i++) {
        Py_CLEAR(server->pairs[i]);
    }
}
