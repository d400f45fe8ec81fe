/*
 * task_socket.c - what a task waits for on a socket: the system call first, and only if it would
 * block an op that tells when to try again. Tested by tests/unit/io/test_task.c.
 */
#include "io/task.h"

#include "base/check.h"
#include "reactor/socket_call.h"

#include <errno.h>

static struct pyl_reactor *
reactor_of(const struct pyl_task *task)
{
    return &pyl_task_worker(task)->reactor;
}

/* ---- until it is readable ---- */

static void
poll_again(struct pyl_task *task, int fd, pyl_op_fn *on_complete)
{
    struct pyl_op *op = &task->waiting.io.op;
    op->kind = PYL_OP_POLL;
    op->fd = fd;
    op->flags = 0;
    op->args.poll.events = PYL_POLL_IN;
    op->on_complete = on_complete;
    pyl_reactor_submit(reactor_of(task), op);
}

static void
on_readable(struct pyl_op *op, const struct pyl_event *event)
{
    struct pyl_task *task = PYL_CONTAINER_OF(op, struct pyl_task, waiting.io.op);
    int64_t result = event->result;
    if (result >= 0) {
        result = task->waiting.io.retry(task);
        if (pyl_socket_would_block(result) && !task->is_cancelled) {
            poll_again(task, op->fd, on_readable); /* somebody else was quicker */
            return;
        }
        result = pyl_socket_would_block(result) ? -ECANCELED : result;
    }
    pyl_task_complete(task, result);
}

static void
try_or_poll(struct pyl_task *task, int fd, int64_t (*retry)(struct pyl_task *task))
{
    task->waiting.io.op.fd = fd;
    task->waiting.io.retry = retry;
    int64_t result = retry(task);
    if (pyl_socket_would_block(result)) {
        poll_again(task, fd, on_readable);
    } else {
        pyl_task_complete(task, result);
    }
}

static int64_t
retry_accept(struct pyl_task *task)
{
    int result;
    do {
        result = pyl_socket_accept(task->waiting.io.op.fd);
    } while (result < 0 && pyl_socket_accept_is_transient(result));
    return result;
}

void
pyl_task_accept(struct pyl_task *task, int fd, pyl_task_fn *next)
{
    if (pyl_task_begin(task, PYL_TASK_OP, next)) {
        try_or_poll(task, fd, retry_accept);
    }
}

static int64_t
retry_receive(struct pyl_task *task)
{
    return pyl_reactor_recv_now(reactor_of(task), task->waiting.io.op.fd, task->waiting.io.data,
                                task->waiting.io.size);
}

void
pyl_task_receive(struct pyl_task *task, int fd, void *buffer, size_t size, pyl_task_fn *next)
{
    if (pyl_task_begin(task, PYL_TASK_OP, next)) {
        task->waiting.io.data = buffer;
        task->waiting.io.size = size;
        try_or_poll(task, fd, retry_receive);
    }
}

/* ---- sending ---- */

static void submit_send(struct pyl_task *task);

static void
on_sent(struct pyl_op *op, const struct pyl_event *event)
{
    struct pyl_task *task = PYL_CONTAINER_OF(op, struct pyl_task, waiting.io.op);
    if (event->result < 0) {
        pyl_task_complete(task, event->result);
        return;
    }
    task->waiting.io.done += (size_t)event->result;
    if (task->waiting.io.done == task->waiting.io.size) {
        pyl_task_complete(task, (int64_t)task->waiting.io.size);
    } else if (task->is_cancelled) {
        pyl_task_complete(task, -ECANCELED);
    } else {
        submit_send(task);
    }
}

static void
submit_send(struct pyl_task *task)
{
    struct pyl_op *op = &task->waiting.io.op;
    struct iovec *iov = &task->waiting.io.iov;
    iov->iov_base = task->waiting.io.data + task->waiting.io.done;
    iov->iov_len = task->waiting.io.size - task->waiting.io.done;
    op->kind = PYL_OP_SEND;
    task->waiting.io.message = (struct msghdr){.msg_iov = iov, .msg_iovlen = 1};
    op->args.send.message = &task->waiting.io.message;
    op->on_complete = on_sent;
    pyl_reactor_submit(reactor_of(task), op);
}

void
pyl_task_send(struct pyl_task *task, int fd, const void *data, size_t size, pyl_task_fn *next)
{
    if (!pyl_task_begin(task, PYL_TASK_OP, next)) {
        return;
    }
    task->waiting.io.op.fd = fd;
    task->waiting.io.data = (uint8_t *)(uintptr_t)data; /* only read */
    task->waiting.io.size = size;
    struct iovec iov = {.iov_base = task->waiting.io.data, .iov_len = size};
    int64_t sent = pyl_reactor_send_now(reactor_of(task), fd, &iov, 1);
    if (sent < 0 && !pyl_socket_would_block(sent)) {
        pyl_task_complete(task, sent);
        return;
    }
    task->waiting.io.done = sent > 0 ? (size_t)sent : 0;
    if (task->waiting.io.done == size) {
        pyl_task_complete(task, (int64_t)size);
    } else {
        submit_send(task);
    }
}

/* ---- the rest ---- */

static void
on_connected(struct pyl_connect *connect, int error)
{
    pyl_task_complete(PYL_CONTAINER_OF(connect, struct pyl_task, waiting.connect), error);
}

void
pyl_task_connect(struct pyl_task *task, int fd, const struct pyl_sockaddr *address,
                 int64_t timeout_ns, pyl_task_fn *next)
{
    if (!pyl_task_begin(task, PYL_TASK_CONNECT, next)) {
        return;
    }
    int rc = pyl_connect_start(&task->waiting.connect, pyl_task_worker(task), fd, address,
                               timeout_ns, on_connected);
    if (rc < 0) {
        pyl_task_complete(task, rc);
    }
}

void
pyl_task_close(struct pyl_task *task, int fd)
{
    pyl_reactor_forget(reactor_of(task), fd);
    pyl_reactor_close_now(reactor_of(task), fd);
}
