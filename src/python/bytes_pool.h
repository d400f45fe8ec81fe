/*
 * bytes_pool.h - bytes objects that nobody else holds, kept for the next read of about their size.
 *
 * A message that is read, answered and dropped would otherwise cost a malloc and a free each time:
 * above 512 bytes Python has no free lists. An object is pooled only while its reference count is
 * one, that is ours; nobody can see it change. Sizes are in classes an eighth of a power of two
 * wide, and an object is used again for a size of its class that it can hold, so at most an eighth
 * is wasted.
 *
 * One pool per loop, loop thread only. On free-threaded builds, whose reference counts are divided,
 * nothing is pooled.
 */
#ifndef PYL_PYTHON_BYTES_POOL_H
#define PYL_PYTHON_BYTES_POOL_H

#include "python/compat.h"

#include "base/platform.h"

enum {
    PYL_BYTES_POOL_MIN_BITS = 9,  /* 512 bytes: smaller ones are Python's own allocator's */
    PYL_BYTES_POOL_MAX_BITS = 18, /* 256 KiB: a full read */
    PYL_BYTES_POOL_CLASSES = (PYL_BYTES_POOL_MAX_BITS - PYL_BYTES_POOL_MIN_BITS) * 8,
    PYL_BYTES_POOL_MAX = 512 * 1024, /* bytes in all */
};

struct pyl_bytes_pool {
    PyObject *classes[PYL_BYTES_POOL_CLASSES]; /* linked through the first bytes */
    size_t size;
};

/* The class of a size, or -1. */
static inline int
pyl_bytes_pool_class(size_t size)
{
    if (size < (1u << PYL_BYTES_POOL_MIN_BITS) || size >= (1u << PYL_BYTES_POOL_MAX_BITS)) {
        return -1;
    }
    unsigned bits = (unsigned)(sizeof(unsigned long) * 8 - 1) - (unsigned)__builtin_clzl(size);
    return (int)((bits - PYL_BYTES_POOL_MIN_BITS) * 8 + ((size >> (bits - 3)) & 7));
}

/* An object of that size from the pool, contents undefined, or NULL without an exception. */
static inline PyObject *
pyl_bytes_pool_take(struct pyl_bytes_pool *pool, size_t size)
{
    int index = pyl_bytes_pool_class(size);
    PyObject *bytes = index < 0 ? NULL : pool->classes[index];
    if (bytes == NULL || (size_t)PyBytes_GET_SIZE(bytes) < size) {
        return NULL;
    }
    memcpy(&pool->classes[index], PyBytes_AS_STRING(bytes), sizeof(PyObject *));
    pool->size -= (size_t)PyBytes_GET_SIZE(bytes);
    pyl_bytes_reset(bytes, size);
    return bytes;
}

/* A new bytes object with these bytes, from the pool if it has one; NULL with an exception. */
static inline PyObject *
pyl_bytes_pool_make(struct pyl_bytes_pool *pool, const void *data, size_t size)
{
    PyObject *bytes = pyl_bytes_pool_take(pool, size);
    if (bytes == NULL) {
        return PyBytes_FromStringAndSize(data, (Py_ssize_t)size);
    }
    memcpy(PyBytes_AS_STRING(bytes), data, size);
    return bytes;
}

/* The same with what a bytes-like object holds now. pool NULL: without one. */
static inline PyObject *
pyl_bytes_pool_copy(struct pyl_bytes_pool *pool, PyObject *object)
{
    Py_buffer view;
    if (PyObject_GetBuffer(object, &view, PyBUF_SIMPLE) < 0) {
        PyErr_Clear(); /* not contiguous: the bytes of its items, one after the other */
        return PyBytes_FromObject(object);
    }
    PyObject *bytes = pool != NULL ? pyl_bytes_pool_make(pool, view.buf, (size_t)view.len)
                                   : PyBytes_FromStringAndSize(view.buf, view.len);
    PyBuffer_Release(&view);
    return bytes;
}

/* Gives up a reference: Py_DECREF, or if it was the last, perhaps the pool. */
static inline void
pyl_bytes_pool_release(struct pyl_bytes_pool *pool, PyObject *bytes)
{
    if (PYL_FREE_THREADED || Py_REFCNT(bytes) != 1 || !PyBytes_CheckExact(bytes)) {
        Py_DECREF(bytes);
        return;
    }
    size_t size = (size_t)PyBytes_GET_SIZE(bytes);
    int index = pyl_bytes_pool_class(size);
    if (index < 0 || pool->size + size > PYL_BYTES_POOL_MAX) {
        Py_DECREF(bytes);
        return;
    }
    pool->size += size;
    memcpy(PyBytes_AS_STRING(bytes), &pool->classes[index], sizeof(PyObject *));
    pool->classes[index] = bytes;
}

/* Frees everything. The pool may be used on. */
static inline void
pyl_bytes_pool_clear(struct pyl_bytes_pool *pool)
{
    for (int i = 0; i < PYL_BYTES_POOL_CLASSES; i++) {
        while (pool->classes[i] != NULL) {
            PyObject *bytes = pool->classes[i];
            memcpy(&pool->classes[i], PyBytes_AS_STRING(bytes), sizeof(PyObject *));
            Py_DECREF(bytes);
        }
    }
    pool->size = 0;
}

#endif
