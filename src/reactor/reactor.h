/*
 * reactor.h - the part of a worker that talks to the kernel: choose a backend, submit, wait,
 * dispatch.
 *
 * One reactor belongs to one thread. pyl_reactor_wake() is the only function for other threads.
 */
#ifndef PYL_REACTOR_REACTOR_H
#define PYL_REACTOR_REACTOR_H

#include "base/counter.h"
#include "reactor/backend.h"
#include "reactor/op.h"
#include "reactor/waker.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

enum { PYL_REACTOR_CAUSE_SIZE = 256 }; /* enough for every cause text */

/* Zero means the default everywhere. */
struct pyl_reactor_options {
    const char *backend;       /* NULL or "auto", "io_uring", "epoll", "kqueue", "sim" */
    uint32_t events_max;       /* events per wait(); 1024 */
    uint32_t ring_entries;     /* io_uring submission entries; 256 */
    uint32_t buffer_count;     /* io_uring provided buffers at first, a power of two; 256 */
    uint32_t buffer_size;      /* bytes of each provided buffer */
    uint32_t read_buffer_size; /* bytes of the hot read buffer of readiness backends; 256 KiB */
    uint64_t sim_seed;         /* backend "sim": decides order, split points, errors */
};

/* Written by the owner only, read by anyone relaxed. */
struct pyl_reactor_stats {
    _Atomic uint64_t waits;       /* calls that could block or poll the kernel */
    _Atomic uint64_t events;      /* completions dispatched */
    _Atomic uint64_t submissions; /* ops submitted */
    _Atomic uint64_t starvations; /* receives that found no free ring buffer */
    _Atomic uint64_t wakes;       /* wake-up writes seen */
    _Atomic uint64_t enters;      /* system calls made by the backend to submit and to wait */
    _Atomic uint64_t rearms;      /* multishot receives and accepts that had to be armed again */
    _Atomic uint64_t holdouts;    /* waits that asked for more than one completion: uring_batch.h */
};

struct pyl_packet_memory;

struct pyl_reactor {
    const struct pyl_backend_ops *ops;
    void *backend; /* the backend's own state */
    struct pyl_event *events;
    uint32_t event_count; /* filled by wait(), emptied by dispatch() */
    uint32_t event_next;  /* dispatch position; non-zero only inside or after a stopped dispatch */
    uint32_t events_max;
    struct pyl_list active_ops; /* every op that is not IDLE */
    uint32_t active_count;
    struct pyl_waker waker;
    bool is_forked_child; /* set by pyl_reactor_abandon() */
    bool is_dispatching;
    bool is_dispatch_stopped;
    struct pyl_packet_memory *packet_memory; /* made when the first datagrams are received */
    struct pyl_reactor_stats stats;
};

/*
 * Thread:  any; the thread that first calls pyl_reactor_wait() becomes the owner.
 * Returns: 0; -ENOMEM, -EMFILE; for a forced backend that is not available its probe's error, with
 *          the cause in `cause` (may be NULL); -EINVAL for an unknown name. "auto" never fails
 *          because of io_uring: it falls back, and `cause` then tells why.
 */
PYL_NODISCARD int pyl_reactor_init(struct pyl_reactor *reactor,
                                   const struct pyl_reactor_options *options, char *cause,
                                   size_t cause_size);

/* For probes: as pyl_reactor_init() with the one backend and without asking its probe. */
PYL_NODISCARD int pyl_reactor_init_backend(struct pyl_reactor *reactor,
                                           const struct pyl_backend_ops *ops,
                                           const struct pyl_reactor_options *options);

/* For probes: as pyl_reactor_fini(), but ops may be active; they become IDLE without being
 * called, and their memory and fds must outlive this call. Thread: owner. */
void pyl_reactor_drop(struct pyl_reactor *reactor);

/* Every op must be IDLE (see pyl_reactor_cancel_all). Accepts a zeroed reactor. Thread: owner. */
void pyl_reactor_fini(struct pyl_reactor *reactor);

/* In the child of a fork: closes the inherited descriptors, touches nothing shared with the
 * parent, marks every op IDLE without calling it. Only pyl_reactor_fini() may follow. */
void pyl_reactor_abandon(struct pyl_reactor *reactor);

/* The op must be IDLE. Thread: owner. */
void pyl_reactor_submit(struct pyl_reactor *reactor, struct pyl_op *op);

/* Does nothing to an op that is IDLE or already CANCELLING. Thread: owner. */
void pyl_reactor_cancel(struct pyl_reactor *reactor, struct pyl_op *op);

/* Cancels every active op; their terminal events come from later wait/dispatch rounds. */
void pyl_reactor_cancel_all(struct pyl_reactor *reactor);

/* To be called before close(2), dup2(2) over, or giving away of an fd that ops were submitted for.
 * Every op on it is IDLE, or CANCELLING and one that lets go of its fd at once, see op.h.
 * Thread: owner. */
void pyl_reactor_forget(struct pyl_reactor *reactor, int fd);

/* Collects events; see pyl_backend_ops.wait. Thread: owner; may run without the GIL. */
PYL_NODISCARD int pyl_reactor_wait(struct pyl_reactor *reactor, int64_t timeout_ns);

/* Runs the callbacks of the collected events in order. A callback may submit, cancel, and call
 * pyl_reactor_stop_dispatch(), after which the rest stays for the next call. Thread: owner. */
void pyl_reactor_dispatch(struct pyl_reactor *reactor);
/* The same, and calls on_delivered after each callback. */
void pyl_reactor_dispatch_watched(struct pyl_reactor *reactor,
                                  void (*on_delivered)(struct pyl_reactor *));
void pyl_reactor_stop_dispatch(struct pyl_reactor *reactor);

static inline bool
pyl_reactor_has_events(const struct pyl_reactor *reactor)
{
    return reactor->event_count != reactor->event_next;
}

/* Makes a wait() that blocks, or the next one, return at once. Any thread, any signal handler. */
static inline void
pyl_reactor_wake(struct pyl_reactor *reactor)
{
    pyl_waker_wake(&reactor->waker);
}

/* One non-blocking sendmsg(2) beside the backend, allowed while no SEND op is active on the fd.
 * Returns the byte count, -EAGAIN (the one place where it is visible), or -errno. The
 * simulation answers from its own peers. Thread: owner. */
PYL_NODISCARD int64_t pyl_reactor_send_now(struct pyl_reactor *reactor, int fd,
                                           const struct iovec *iov, int iov_count);

/* One non-blocking recv(2) beside the backend, for a reader that was told by a PYL_OP_POLL; no
 * RECV op is active on the fd. Returns the byte count, 0 at the end, -EAGAIN, or -errno.
 * Thread: owner. */
PYL_NODISCARD int64_t pyl_reactor_recv_now(struct pyl_reactor *reactor, int fd, void *buffer,
                                           size_t size);

/* Receives what waits on a datagram socket, at most `count` (up to PYL_PACKETS_MAX) datagrams of up
 * to `size_max` bytes (up to PYL_PACKET_SIZE_MAX), without waiting, for a reader that was told by a
 * PYL_OP_POLL. Returns how many are in *ret_packets, lent until the next call for any fd; -EAGAIN;
 * or -errno, which is -ENOMEM or about the socket. Large packets come fewer at a time.
 * Thread: owner. */
PYL_NODISCARD int pyl_reactor_recv_packets(struct pyl_reactor *reactor, int fd, size_t size_max,
                                           int count, const struct pyl_packet **ret_packets);

/* Sends datagrams, up to PYL_PACKETS_MAX, in order, without waiting. Returns how many the kernel
 * took, or -EAGAIN or -errno when that concerns the first. Thread: owner. */
PYL_NODISCARD int pyl_reactor_send_packets(struct pyl_reactor *reactor, int fd,
                                           const struct pyl_packet *packets, int count);

/* shutdown(2) of the writing side. 0 or -errno. Thread: owner. */
PYL_NODISCARD int pyl_reactor_shutdown_now(struct pyl_reactor *reactor, int fd);

/* close(2), after pyl_reactor_forget() if ops were submitted for the fd. Here because the fds of a
 * simulation are not the kernel's. Thread: owner. */
void pyl_reactor_close_now(struct pyl_reactor *reactor, int fd);

/* For backends: wait() has seen the waker's signal. */
static inline void
pyl_reactor_note_wake(struct pyl_reactor *reactor)
{
    pyl_waker_clear(&reactor->waker);
    pyl_counter_add(&reactor->stats.wakes, 1);
}

/* Nanoseconds of the reactor's clock: CLOCK_MONOTONIC, or virtual time under "sim". */
int64_t pyl_reactor_now_ns(struct pyl_reactor *reactor);

/* Can the named backend be used here? NULL or "auto": can any, and then `cause` tells why the
 * first choice was not taken (empty when it was). The verdict on each backend is found once per
 * process; PYLOOP_BACKEND is read every time. 0 or -errno with the cause. Any thread. */
int pyl_reactor_probe(const char *backend, char *cause, size_t cause_size);

#endif
