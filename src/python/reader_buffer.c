/*
 * reader_buffer.c - see reader_buffer.h.
 */
#include "python/reader_buffer.h"

#include <string.h>

/* A loop that is closed has given its pool back. */
static struct pyl_bytes_pool *
pool_of(struct pyl_loop *loop)
{
    return loop != NULL && loop->is_worker_open && !pyl_loop_is_foreign_thread(loop)
               ? &loop->bytes_pool
               : NULL;
}

static PyObject *
new_bytes(struct pyl_loop *loop, size_t size)
{
    struct pyl_bytes_pool *pool = pool_of(loop);
    PyObject *bytes = pool != NULL ? pyl_bytes_pool_take(pool, size) : NULL;
    return bytes != NULL ? bytes : PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
}

void
pyl_reader_buffer_clear(struct pyl_reader_buffer *buffer, struct pyl_loop *loop)
{
    PyObject *bytes = buffer->bytes;
    *buffer = (struct pyl_reader_buffer){0};
    if (bytes == NULL) {
        return;
    }
    struct pyl_bytes_pool *pool = pool_of(loop);
    if (pool != NULL) {
        pyl_bytes_pool_release(pool, bytes);
    } else {
        Py_DECREF(bytes);
    }
}

/* Room for `size` more bytes at the end. 0 or -1. */
static int
reserve(struct pyl_reader_buffer *buffer, size_t size)
{
    size_t capacity = (size_t)PyBytes_GET_SIZE(buffer->bytes);
    size_t used = pyl_reader_buffer_size(buffer);
    if (size <= capacity - buffer->end) {
        return 0;
    }
    char *memory = PyBytes_AS_STRING(buffer->bytes);
    if (buffer->begin != 0) {
        memmove(memory, memory + buffer->begin, used);
        buffer->begin = 0;
        buffer->end = used;
        /* Only if it freed a good part: else the next piece would move everything again. */
        if (size <= capacity - used && used <= capacity / 2) {
            return 0;
        }
    }
    if (size > (size_t)PY_SSIZE_T_MAX / 2 - used) {
        PyErr_NoMemory();
        return -1;
    }
    size_t wanted = used + (size > used ? size : used);
    if (_PyBytes_Resize(&buffer->bytes, (Py_ssize_t)wanted) < 0) {
        *buffer = (struct pyl_reader_buffer){0}; /* _PyBytes_Resize() freed it */
        return -1;
    }
    return 0;
}

int
pyl_reader_buffer_append(struct pyl_reader_buffer *buffer, struct pyl_loop *loop, const void *data,
                         size_t size)
{
    if (size == 0) {
        return 0;
    }
    if (buffer->bytes == NULL) {
        buffer->bytes = new_bytes(loop, size);
        if (buffer->bytes == NULL) {
            return -1;
        }
        buffer->begin = buffer->end = 0;
    } else if (reserve(buffer, size) < 0) {
        return -1;
    }
    memcpy(PyBytes_AS_STRING(buffer->bytes) + buffer->end, data, size);
    buffer->end += size;
    return 0;
}

/* Everything, as the object it stands in. */
static PyObject *
hand_over(struct pyl_reader_buffer *buffer)
{
    PyObject *bytes = buffer->bytes;
    size_t size = buffer->end;
    *buffer = (struct pyl_reader_buffer){0};
    if (size != (size_t)PyBytes_GET_SIZE(bytes) && _PyBytes_Resize(&bytes, (Py_ssize_t)size) < 0) {
        return NULL;
    }
    return bytes;
}

PyObject *
pyl_reader_buffer_take(struct pyl_reader_buffer *buffer, struct pyl_loop *loop, size_t size)
{
    size_t used = pyl_reader_buffer_size(buffer);
    if (size >= used && used != 0 && buffer->begin == 0) {
        return hand_over(buffer);
    }
    size = size < used ? size : used;
    PyObject *bytes = PyBytes_FromStringAndSize(pyl_reader_buffer_data(buffer), (Py_ssize_t)size);
    if (bytes != NULL) {
        pyl_reader_buffer_skip(buffer, loop, size);
    }
    return bytes;
}

void
pyl_reader_buffer_skip(struct pyl_reader_buffer *buffer, struct pyl_loop *loop, size_t size)
{
    if (size >= pyl_reader_buffer_size(buffer)) {
        pyl_reader_buffer_clear(buffer, loop);
    } else {
        buffer->begin += size;
    }
}

Py_ssize_t
pyl_reader_buffer_find(const struct pyl_reader_buffer *buffer, const char *needle, size_t size,
                       size_t start)
{
    size_t used = pyl_reader_buffer_size(buffer);
    if (start > used || size > used - start) {
        return -1;
    }
    const char *data = pyl_reader_buffer_data(buffer);
    const char *found = size == 1 ? memchr(data + start, needle[0], used - start)
                                  : memmem(data + start, used - start, needle, size);
    return found != NULL ? found - data : -1;
}
