/*
 * op.h - one submitted I/O operation.
 *
 * An op is embedded in the object that needs it; the submitter fills the public part and hands it
 * to pyl_reactor_submit(). Every op ends with exactly one terminal completion (an event without
 * PYL_EVENT_MORE); a multishot op has any number of completions before it. Completions arrive from
 * pyl_reactor_dispatch(), never from inside submit or cancel. Until the terminal completion the
 * op, its buffers and its fd belong to the reactor: none may be freed, reused or closed.
 *
 *   IDLE --submit--> ACTIVE --terminal event is dispatched--> IDLE
 *                      |                                        ^
 *                      +--cancel--> CANCELLING ------------------+
 */
#ifndef PYL_REACTOR_OP_H
#define PYL_REACTOR_OP_H

#include "base/list.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

enum pyl_op_kind {
    /* Multishot. result: a new fd, non-blocking and close-on-exec, owned by the receiver. Ends
     * with -EMFILE, -ENFILE, -ENOBUFS, -ENOMEM (the submitter decides when to submit again) or
     * another error; transient ones (ECONNABORTED, EPROTO, ...) are skipped inside. */
    PYL_OP_ACCEPT,
    /* One shot. result: 0 or -errno. */
    PYL_OP_CONNECT,
    /* Multishot. result > 0: event->data holds that many bytes, lent until the callback returns;
     * 0: end of stream (terminal); < 0: error (terminal). */
    PYL_OP_RECV,
    /* One shot sendmsg(2) with MSG_NOSIGNAL. result: bytes taken, possibly fewer than given. */
    PYL_OP_SEND,
    /* Level-triggered readiness. result: mask of PYL_POLL_*. One shot, or with PYL_OP_MULTISHOT
     * one completion per turn as long as the fd is ready. */
    PYL_OP_POLL,
};

enum { PYL_POLL_IN = 1, PYL_POLL_OUT = 2, PYL_POLL_ERROR = 4, PYL_POLL_HANGUP = 8 };

/* pyl_op.flags, set by the submitter */
enum {
    PYL_OP_MULTISHOT = 1,
    PYL_OP_TCP = 2, /* the fd is a TCP socket; without it a backend that wants to know asks */
};

enum pyl_op_state { PYL_OP_IDLE, PYL_OP_ACTIVE, PYL_OP_CANCELLING };

struct pyl_op;
struct pyl_event;
struct pyl_reactor;

typedef void pyl_op_fn(struct pyl_op *op, const struct pyl_event *event);

struct pyl_op {
    /* Set by the submitter. */
    pyl_op_fn *on_complete;
    int fd;
    uint8_t kind;  /* enum pyl_op_kind */
    uint8_t flags; /* PYL_OP_MULTISHOT */
    union {
        struct {
            const struct sockaddr *address; /* lives until completion */
            socklen_t address_size;
        } connect;
        struct {
            const struct msghdr *message; /* lives until completion, with all it refers to */
        } send;
        struct {
            uint32_t events; /* PYL_POLL_IN | PYL_POLL_OUT */
        } poll;
    } args;

    /* Private to the reactor; zero before the first submit. */
    uint8_t state;          /* enum pyl_op_state */
    uint8_t backend_bits;   /* backend's own flags */
    int32_t backend_value;  /* backend's own small number */
    struct pyl_list active; /* reactor->active_ops: what a shutdown has to cancel */
    struct pyl_list wait;   /* readiness: the fd's list */
    struct pyl_list queue;  /* backend: something to report or to arm in the next wait() */
    uint64_t backend_data[2];
};

enum {
    PYL_EVENT_MORE = 1,   /* the op stays active: more completions follow */
    PYL_EVENT_BUFFER = 2, /* data is a ring buffer; reactor.c releases it after the callback */
    PYL_EVENT_READY = 4,  /* internal: pyl_backend_ops.perform still makes the system call */
};

struct pyl_event {
    struct pyl_op *op;
    int32_t result;
    uint16_t flags; /* PYL_EVENT_* */
    uint16_t buffer_id;
    const uint8_t *data; /* PYL_OP_RECV with result > 0, otherwise NULL */
};

/* Descriptors of users, who close them right after remove_reader() or Server.close() and expect
 * that they are closed: a cancelled op of these kinds is done with its fd at once. */
static inline bool
pyl_op_lets_go_of_fd(const struct pyl_op *op)
{
    return op->kind == PYL_OP_POLL || op->kind == PYL_OP_ACCEPT;
}

static inline bool
pyl_op_is_idle(const struct pyl_op *op)
{
    return op->state == PYL_OP_IDLE;
}

#endif
