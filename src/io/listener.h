/*
 * listener.h - accepts connections on a listening socket. Owner thread only.
 *
 * When descriptors or memory run out (EMFILE, ENFILE, ENOBUFS, ENOMEM) it reports once, pauses for
 * PYL_LISTENER_RETRY_NS and tries again: it never spins.
 */
#ifndef PYL_IO_LISTENER_H
#define PYL_IO_LISTENER_H

#include "reactor/op.h"
#include "sched/worker.h"

#define PYL_LISTENER_RETRY_NS INT64_C(1000000000) /* asyncio's ACCEPT_RETRY_DELAY, 1 s */

struct pyl_listener;

struct pyl_listener_ops {
    /* A new connection: non-blocking, close-on-exec, owned by the callee. */
    void (*on_accept)(struct pyl_listener *listener, int fd);
    /* Accepting failed. Out of descriptors or memory: accepting resumes by itself, and this is
     * called once per attempt. Anything else: the listener has stopped. */
    void (*on_error)(struct pyl_listener *listener, int error, bool will_retry);
    /* Last call, after pyl_listener_close(): the memory is the callee's. */
    void (*on_closed)(struct pyl_listener *listener);
};

struct pyl_listener {
    const struct pyl_listener_ops *ops;
    struct pyl_worker *worker;
    int fd;
    bool is_accepting; /* wanted by the owner */
    bool is_closing;
    bool is_closed;
    bool is_retry_pending; /* retry_timer is armed, or its job queued */
    bool is_close_queued;
    struct pyl_op accept_op;
    struct pyl_timer retry_timer;
    struct pyl_job close_job;
};

/* The fd is bound, listening and non-blocking; the listener never closes it. */
void pyl_listener_init(struct pyl_listener *listener, struct pyl_worker *worker, int fd,
                       const struct pyl_listener_ops *ops);
/* start and stop may alternate; a connection already accepted by the kernel is still delivered
 * after stop, and closed after close. */
void pyl_listener_start(struct pyl_listener *listener);
void pyl_listener_stop(struct pyl_listener *listener);
/* Stops for good. The fd is the caller's when this returns: closed then, it is closed, and its
 * number may be reused. on_closed comes later, from a job. Does nothing the second time. */
void pyl_listener_close(struct pyl_listener *listener);

#endif
