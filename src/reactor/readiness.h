/*
 * readiness.h - lets a readiness interface (epoll, kqueue) behave like a completion backend.
 *
 * Knows, per file descriptor, the ops that wait for it. When the kernel reports readiness, the op
 * is queued as an event, and the system call is made while that event is dispatched, so that one
 * hot buffer serves every receive and data is lent for the callback only. Does not wait: that is
 * the backend's part. Owner thread only.
 *
 * A backend's state begins with struct pyl_readiness: reactor->backend points to it. The functions
 * that take a reactor fit into pyl_backend_ops as they are.
 */
#ifndef PYL_REACTOR_READINESS_H
#define PYL_REACTOR_READINESS_H

#include "reactor/reactor.h"

/*
 * How the kernel watches an fd.
 *
 * EDGE is for fds whose ops are ACCEPT, CONNECT, RECV, SEND: registered once for both directions,
 * and what the kernel said is remembered in `ready` until a call would block. LEVEL and ONESHOT
 * are for fds with a POLL op: they belong to somebody else who reads and writes them behind our
 * back, so nothing is remembered.
 */
enum pyl_watch { PYL_WATCH_NONE, PYL_WATCH_EDGE, PYL_WATCH_LEVEL, PYL_WATCH_ONESHOT };

/* Beside PYL_POLL_*: the peer has shut down, or urgent data came: a short read is not the end. */
enum { PYL_READY_READ_ON = 16 };

struct pyl_ready_fd {
    struct pyl_list ops; /* every op that waits for this fd, oldest first */
    uint32_t generation; /* travels with the registration; an event with another one is stale */
    uint8_t watch;       /* enum pyl_watch: what the kernel was told last */
    uint8_t armed;       /* LEVEL and ONESHOT: PYL_POLL_IN | PYL_POLL_OUT the kernel watches */
    uint8_t ready;       /* EDGE: PYL_POLL_* | PYL_READY_READ_ON not yet used up */
    bool is_tcp;         /* EDGE: a short read means that the receive queue is empty */
};

enum { PYL_READY_CHUNK = 256 };

struct pyl_ready_chunk {
    struct pyl_ready_fd fds[PYL_READY_CHUNK];
};

struct pyl_readiness {
    /* Makes the kernel watch `fd` like this, whatever entry->watch was before; `mask` is meant
     * for LEVEL and ONESHOT. 0 or -errno. */
    int (*watch)(struct pyl_reactor *reactor, int fd, const struct pyl_ready_fd *entry,
                 enum pyl_watch watch, uint8_t mask);
    struct pyl_ready_chunk **chunks; /* by fd; chunks never move, so list heads may live in them */
    uint32_t chunk_count;
    struct pyl_list queue; /* ops with something to report, by op->queue */
    uint8_t *read_buffer;
    uint32_t read_buffer_size;
};

/* Memory for the read buffer; `watch` is set by the caller. 0 or -ENOMEM. */
PYL_NODISCARD int pyl_readiness_init(struct pyl_readiness *readiness,
                                     const struct pyl_reactor_options *options);
/* Accepts a zeroed one. */
void pyl_readiness_fini(struct pyl_readiness *readiness);

/* As the members of pyl_backend_ops. */
void pyl_readiness_submit(struct pyl_reactor *reactor, struct pyl_op *op);
void pyl_readiness_cancel(struct pyl_reactor *reactor, struct pyl_op *op);
void pyl_readiness_forget(struct pyl_reactor *reactor, int fd);
bool pyl_readiness_perform(struct pyl_reactor *reactor, struct pyl_event *slot,
                           struct pyl_event *ret_event);
int64_t pyl_readiness_send_now(struct pyl_reactor *reactor, int fd, const struct iovec *iov,
                               int iov_count);

/* The kernel reported `bits` (PYL_POLL_* | PYL_READY_READ_ON) for a registration; `disarmed`
 * says which directions a ONESHOT registration has lost by that. */
void pyl_readiness_report(struct pyl_reactor *reactor, int fd, uint32_t generation, uint8_t bits,
                          uint8_t disarmed);

/* The kernel refused a registration that watch() had accepted: the ops of that direction fail. */
void pyl_readiness_report_error(struct pyl_reactor *reactor, int fd, uint32_t generation,
                                uint8_t direction, int error);

/* Moves queued ops to reactor->events, as far as there is room. */
void pyl_readiness_collect(struct pyl_reactor *reactor);

static inline bool
pyl_readiness_has_queued(const struct pyl_readiness *readiness)
{
    return !pyl_list_is_empty(&readiness->queue);
}

#endif
