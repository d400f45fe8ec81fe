/*
 * connect.h - connects a socket to an address, with an optional time limit. Owner thread only.
 *
 * Embedded in its owner's object, which lives until on_done.
 */
#ifndef PYL_IO_CONNECT_H
#define PYL_IO_CONNECT_H

#include "io/sockaddr.h"
#include "reactor/op.h"
#include "sched/worker.h"

struct pyl_connect;

/* Exactly once, later, never from inside start or cancel. error: 0, -ETIMEDOUT, -ECANCELED, or what
 * connect(2) reports. The fd is the callee's again in any case, unknown to the reactor after a
 * failure. */
typedef void pyl_connect_fn(struct pyl_connect *connect, int error);

struct pyl_connect {
    pyl_connect_fn *on_done;
    struct pyl_worker *worker;
    int fd;
    bool is_active; /* between start and on_done */

    bool is_cancelled;
    bool is_timed_out;
    bool has_result;      /* the op has ended with `error`, the timer's job is still queued */
    bool is_timer_queued; /* armed, or its job queued */
    int error;
    struct pyl_sockaddr address;
    struct pyl_op op;
    struct pyl_timer timer;
};

/* The fd is a non-blocking stream socket. timeout_ns 0: as long as the kernel tries. Returns 0;
 * -ENOMEM, and then on_done is not called. */
PYL_NODISCARD int pyl_connect_start(struct pyl_connect *connect, struct pyl_worker *worker, int fd,
                                    const struct pyl_sockaddr *address, int64_t timeout_ns,
                                    pyl_connect_fn *on_done);

/* on_done follows with -ECANCELED, also when the connection was made at that moment. */
void pyl_connect_cancel(struct pyl_connect *connect);

#endif
