/*
 * backend.h - the contract between reactor.c and one kernel interface, and nothing else.
 *
 * Common rules. All functions but probe belong to the thread that owns the reactor. -EINTR and
 * -EAGAIN never leave a backend. No callback runs inside any of these functions.
 */
#ifndef PYL_REACTOR_BACKEND_H
#define PYL_REACTOR_BACKEND_H

#include "reactor/op.h"
#include "reactor/packet.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct pyl_reactor_options;

/* pyl_backend_ops.features */
enum {
    /* Ops are batched and enter the kernel with wait(): several sends of one turn cost one system
     * call. Without it a sender does best to try sendmsg(2) itself and submit only the rest. */
    PYL_BACKEND_BATCHES = 1,
    /* No real kernel: virtual clock, fds are handles of the simulation. */
    PYL_BACKEND_SIMULATED = 2,
};

struct pyl_backend_ops {
    const char *name;  /* "epoll": for users, logs and test ids */
    uint32_t features; /* PYL_BACKEND_* */

    /* Usable here and now (kernel, sysctl, seccomp, memlock)? Runs a behaviour test where a version
     * says too little; no lasting side effect. 0 or -errno, and then one sentence that names
     * the cause in `cause` (always terminated). Any thread. */
    int (*probe)(char *cause, size_t cause_size);

    int (*init)(struct pyl_reactor *reactor, const struct pyl_reactor_options *options);

    /* No op is active any more. Accepts a half-initialised reactor. After a fork, in the child, it
     * is called with reactor->is_forked_child set and then only closes file descriptors. */
    void (*fini)(struct pyl_reactor *reactor);

    /* Takes the op. Never fails and never completes inline: an error becomes an event. */
    void (*submit)(struct pyl_reactor *reactor, struct pyl_op *op);

    /* Asks for an early end of an ACTIVE op. The terminal event still comes: -ECANCELED, or the
     * op's own result if that was first. Completions already on their way are still delivered. */
    void (*cancel)(struct pyl_reactor *reactor, struct pyl_op *op);

    /* The fd is about to be closed or handed away; no op on it is ACTIVE, and only those that
     * let go of it may still be CANCELLING: their terminal event must not depend on the fd any
     * more. */
    void (*forget)(struct pyl_reactor *reactor, int fd);

    /* Appends events to reactor->events, waiting at most timeout_ns (0: poll only; negative: no
     * limit) and not at all when events are already there. Returns 0, also early and empty when
     * interrupted or woken; -errno only when the backend is beyond use. */
    int (*wait)(struct pyl_reactor *reactor, int64_t timeout_ns);

    /* Dispatch time, for an event with PYL_EVENT_READY: makes the system call and fills
     * *ret_event. Clears READY in *slot when it is done with it; a slot that keeps READY is
     * performed again after the callback. Returns false when there is nothing to deliver. NULL
     * where there are none. */
    bool (*perform)(struct pyl_reactor *reactor, struct pyl_event *slot,
                    struct pyl_event *ret_event);

    /* Gives back the ring buffer of an event with PYL_EVENT_BUFFER. NULL where there are none. */
    void (*release)(struct pyl_reactor *reactor, const struct pyl_event *event);

    /* See pyl_reactor_send_now() and pyl_reactor_now_ns(); now_ns NULL: the monotonic clock. */
    int64_t (*send_now)(struct pyl_reactor *reactor, int fd, const struct iovec *iov,
                        int iov_count);
    int64_t (*now_ns)(struct pyl_reactor *reactor);

    /* See pyl_reactor_recv_now(), _recv_packets(), _send_packets(), _shutdown_now() and
     * _close_now(). NULL: the system's call. */
    int64_t (*recv_now)(struct pyl_reactor *reactor, int fd, void *buffer, size_t size);
    int (*recv_packets)(struct pyl_reactor *reactor, int fd, struct pyl_packet *packets, int count);
    int (*send_packets)(struct pyl_reactor *reactor, int fd, const struct pyl_packet *packets,
                        int count);
    int (*shutdown_now)(struct pyl_reactor *reactor, int fd);
    void (*close_now)(struct pyl_reactor *reactor, int fd);
};

/* NULL-terminated, in order of preference; written by meson.build from what the system has. */
extern const struct pyl_backend_ops *const pyl_backends[];

extern const struct pyl_backend_ops pyl_backend_uring;
extern const struct pyl_backend_ops pyl_backend_epoll;
extern const struct pyl_backend_ops pyl_backend_kqueue;
extern const struct pyl_backend_ops pyl_backend_sim;

#endif
