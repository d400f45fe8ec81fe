/*
 * reader_buffer.h - the bytes a StreamReader has received and not given out yet.
 *
 * They stand in one bytes object that nobody else holds, made as large as the first piece: a
 * message that arrives in one piece and is read in one piece is copied once, from the socket's
 * buffer, and handed over as it is. An empty buffer holds no memory.
 *
 * Loop thread, or the critical section of the reader.
 */
#ifndef PYL_PYTHON_READER_BUFFER_H
#define PYL_PYTHON_READER_BUFFER_H

#include "python/loop.h"

struct pyl_reader_buffer {
    PyObject *bytes; /* owned by us alone; NULL: empty */
    size_t begin;    /* the bytes are [begin, end) of it */
    size_t end;
};

static inline size_t
pyl_reader_buffer_size(const struct pyl_reader_buffer *buffer)
{
    return buffer->end - buffer->begin;
}

static inline const char *
pyl_reader_buffer_data(const struct pyl_reader_buffer *buffer)
{
    return buffer->bytes == NULL ? "" : PyBytes_AS_STRING(buffer->bytes) + buffer->begin;
}

/* loop: whose pool may lend and take memory, or NULL. 0, or -1 with MemoryError. */
int pyl_reader_buffer_append(struct pyl_reader_buffer *buffer, struct pyl_loop *loop,
                             const void *data, size_t size);
/* The first `size` bytes, at most all, which leave the buffer. New reference or NULL. */
PyObject *pyl_reader_buffer_take(struct pyl_reader_buffer *buffer, struct pyl_loop *loop,
                                 size_t size);
/* Forgets the first `size` bytes, at most all. */
void pyl_reader_buffer_skip(struct pyl_reader_buffer *buffer, struct pyl_loop *loop, size_t size);
/* Forgets everything and frees the memory. */
void pyl_reader_buffer_clear(struct pyl_reader_buffer *buffer, struct pyl_loop *loop);
/* The place of `needle` at or behind `start`, or -1. */
Py_ssize_t pyl_reader_buffer_find(const struct pyl_reader_buffer *buffer, const char *needle,
                                  size_t size, size_t start);

#endif
