/*
 * datagram.h - a datagram socket (UDP, Unix): receiving, and a queue whose datagrams leave together
 * at the end of the turn.
 *
 * The socket is embedded in its owner's object, which must live until on_closed. Owner thread only.
 * It never closes its fd.
 *
 * Nothing of it is in the kernel but polls for readiness: what is read and sent is copied during
 * the call, so a quiet socket holds no buffer, a write is released as soon as it was sent, and the
 * fd is free the moment the socket is closed.
 *
 * From pyl_worker_fini() on, it makes no call but release: see pyl_datagram_dispose().
 */
#ifndef PYL_IO_DATAGRAM_H
#define PYL_IO_DATAGRAM_H

#include "io/sockaddr.h"
#include "reactor/op.h"
#include "sched/worker.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pyl_datagram_socket;

struct pyl_datagram_ops {
    /* At most PYL_PACKETS_MAX times per turn and socket. `data` is lent until the call returns;
     * `source` as well, and its size is 0 for a sender without a name. The callback may send, stop
     * reading and close: after that no other datagram is delivered. */
    void (*on_datagram)(struct pyl_datagram_socket *socket, const uint8_t *data, size_t size,
                        const struct sockaddr *source, socklen_t source_size);
    /* Receiving failed, or one datagram could not be sent and was dropped (negative errno). The
     * socket goes on. Of sending it may also be called inside pyl_datagram_flush(). */
    void (*on_error)(struct pyl_datagram_socket *socket, int error);
    /* The queue, which the kernel had refused to take, got shorter. Look at
     * pyl_datagram_queued_size(). Never runs inside a call of the owner's. */
    void (*on_progress)(struct pyl_datagram_socket *socket);
    /* Last call, after pyl_datagram_close(): the memory is the callee's. */
    void (*on_closed)(struct pyl_datagram_socket *socket);
    /* The bytes of a datagram are no longer needed: exactly once each, in order, at any time. May
     * not call the socket. */
    void (*release)(struct pyl_datagram_socket *socket, void *owner);
};

/* One queued datagram: bytes, whoever keeps them alive, and where they go (size 0: to the address
 * the socket is connected to). */
struct pyl_datagram_write {
    const uint8_t *data;
    size_t size;
    void *owner;
    struct pyl_sockaddr address;
};

struct pyl_datagram_socket {
    const struct pyl_datagram_ops *ops;
    struct pyl_worker *worker;
    int fd;
    int batch;       /* how many datagrams the next receive asks for */
    size_t size_max; /* of one that is received */
    size_t overhead; /* counted for each queued datagram beside its bytes */
    bool is_reading; /* wanted by the owner */
    bool is_closed;
    bool is_sending;          /* the queue is being sent: not again from a callback */
    bool is_progress_pending; /* on_progress is owed */
    bool was_blocked;         /* since the queue was empty, the kernel has refused to take it */
    bool is_flush_queued;     /* flush_job is in worker->deferred */
    bool is_read_queued;      /* read_job is in worker->ready */
    bool is_close_queued;     /* close_job as well */
    struct pyl_op read_op;    /* POLL in */
    struct pyl_op write_op;   /* POLL out, while the kernel takes nothing */
    struct pyl_job flush_job; /* end of turn: sends */
    struct pyl_job read_job;  /* receives */
    struct pyl_job close_job;
    /* Ring of queued datagrams, a power of two of slots or none. */
    struct pyl_datagram_write *writes;
    uint32_t write_first;
    uint32_t write_count;
    uint32_t write_capacity;
    size_t queued_size;
};

struct pyl_datagram_options {
    size_t size_max; /* longer datagrams are cut; 0: PYL_PACKET_SIZE_MAX */
    size_t overhead; /* see pyl_datagram_socket */
};

/* The fd is a non-blocking datagram socket. Nothing is read before pyl_datagram_read_start(). */
void pyl_datagram_init(struct pyl_datagram_socket *socket, struct pyl_worker *worker, int fd,
                       const struct pyl_datagram_options *options,
                       const struct pyl_datagram_ops *ops);

/* Both may be called at any time; after close: nothing. */
void pyl_datagram_read_start(struct pyl_datagram_socket *socket);
void pyl_datagram_read_stop(struct pyl_datagram_socket *socket);

/*
 * Queues a datagram, also an empty one; sent at the end of the turn or by flush. `address` NULL: to
 * where the socket is connected.
 *
 * Owns:    on success the socket holds `data` until release(owner). On failure nothing is kept.
 * Returns: 0; -EBADF after close; -ENOMEM.
 */
PYL_NODISCARD int pyl_datagram_send(struct pyl_datagram_socket *socket, const void *data,
                                    size_t size, void *owner, const struct pyl_sockaddr *address);

/* Sends what is queued now, until the kernel takes no more. */
void pyl_datagram_flush(struct pyl_datagram_socket *socket);

/* Bytes not yet taken by the kernel, with the overhead. */
static inline size_t
pyl_datagram_queued_size(const struct pyl_datagram_socket *socket)
{
    return socket->queued_size;
}

/* Releases what is queued without sending it. */
void pyl_datagram_drop_queue(struct pyl_datagram_socket *socket);

/* Drops the queue and ends for good. The fd is the caller's when this returns: closed then, it is
 * closed, and its number may be reused. on_closed comes later, from a job. */
void pyl_datagram_close(struct pyl_datagram_socket *socket);

/* For a socket whose worker was closed or abandoned, so that no job can run any more: releases the
 * queue and frees memory. Harmless after on_closed, and for a zeroed one. */
void pyl_datagram_dispose(struct pyl_datagram_socket *socket);

#endif
