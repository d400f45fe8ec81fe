/*
 * http_block.c - memory of response bytes: blocks from a free list, and the application's own bytes
 * objects queued without a copy.
 *
 * What a stream gives back is told apart by the lowest bit of the owner pointer: set for a block.
 */
#include "python/http.h"

#include <string.h>

static struct pyl_http_connection *
connection_of(struct pyl_stream *stream)
{
    return PYL_CONTAINER_OF(stream, struct pyl_http_connection, stream);
}

struct pyl_http_block *
pyl_http_block_new(size_t size)
{
    if (size > UINT32_MAX / 2) {
        return NULL;
    }
    if (size < PYL_HTTP_BLOCK_SIZE) {
        size = PYL_HTTP_BLOCK_SIZE;
    }
    struct pyl_http_block *block = PyMem_RawMalloc(sizeof(*block) + size);
    if (block != NULL) {
        block->capacity = (uint32_t)size;
        block->size = 0;
    }
    return block;
}

struct pyl_http_block *
pyl_http_block_take(struct pyl_http_server *server, size_t size)
{
    struct pyl_http_block *block = server->free_blocks;
    if (size > PYL_HTTP_BLOCK_SIZE || block == NULL) {
        return pyl_http_block_new(size);
    }
    server->free_blocks = block->next_free;
    server->free_block_count--;
    block->size = 0;
    return block;
}

void
pyl_http_block_give(struct pyl_http_server *server, struct pyl_http_block *block)
{
    if (block->capacity != PYL_HTTP_BLOCK_SIZE ||
        server->free_block_count >= PYL_HTTP_FREE_BLOCKS_MAX) {
        PyMem_RawFree(block);
        return;
    }
    block->next_free = server->free_blocks;
    server->free_blocks = block;
    server->free_block_count++;
}

void
pyl_http_release(struct pyl_stream *stream, void *owner)
{
    uintptr_t bits = (uintptr_t)owner;
    if ((bits & 1) != 0) {
        pyl_http_block_give(connection_of(stream)->server, (struct pyl_http_block *)(bits - 1));
    } else {
        Py_DECREF((PyObject *)owner);
    }
}

void
pyl_http_write_block(struct pyl_http_connection *connection, struct pyl_http_block *block)
{
    void *owner = (void *)((uintptr_t)block | 1);
    if (pyl_stream_write(&connection->stream, block->data, block->size, owner) < 0) {
        pyl_http_block_give(connection->server, block);
        pyl_http_connection_abort(connection);
    }
}

void
pyl_http_write_bytes(struct pyl_http_connection *connection, PyObject *bytes, size_t start,
                     size_t size)
{
    if (pyl_stream_write(&connection->stream, PyBytes_AS_STRING(bytes) + start, size, bytes) < 0) {
        Py_DECREF(bytes);
        pyl_http_connection_abort(connection);
    }
}

void
pyl_http_write_static(struct pyl_http_connection *connection, const char *data, size_t size)
{
    if (pyl_stream_write(&connection->stream, data, size, NULL) < 0) {
        pyl_http_connection_abort(connection);
    }
}
