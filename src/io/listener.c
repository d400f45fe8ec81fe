/*
 * listener.c - keeps one multishot ACCEPT op submitted while accepting is wanted.
 */
#include "io/listener.h"

#include "base/check.h"

#include <errno.h>
#include <string.h>

static void accept_complete(struct pyl_op *op, const struct pyl_event *event);
static void run_retry(struct pyl_job *job);
static void run_close(struct pyl_job *job);

void
pyl_listener_init(struct pyl_listener *listener, struct pyl_worker *worker, int fd,
                  const struct pyl_listener_ops *ops)
{
    memset(listener, 0, sizeof(*listener));
    listener->ops = ops;
    listener->worker = worker;
    listener->fd = fd;
    listener->accept_op.fd = fd;
    listener->accept_op.kind = PYL_OP_ACCEPT;
    listener->accept_op.flags = PYL_OP_MULTISHOT;
    listener->accept_op.on_complete = accept_complete;
    listener->retry_timer.job.run = run_retry;
    listener->close_job.run = run_close;
}

/* Shortages that pass when somebody else gives something back. */
static bool
is_shortage(int error)
{
    return error == -EMFILE || error == -ENFILE || error == -ENOBUFS || error == -ENOMEM;
}

/* Brings the op in line with what is wanted; a CANCELLING one comes here again when it has ended.
 */
static void
update_accept_op(struct pyl_listener *listener)
{
    struct pyl_op *op = &listener->accept_op;
    if (!listener->is_accepting) {
        pyl_reactor_cancel(&listener->worker->reactor, op);
    } else if (pyl_op_is_idle(op) && !listener->is_retry_pending && !listener->worker->is_closing) {
        pyl_reactor_submit(&listener->worker->reactor, op);
    }
}

static void
settle(struct pyl_listener *listener)
{
    if (listener->is_closing && !listener->is_close_queued && !listener->is_retry_pending &&
        pyl_op_is_idle(&listener->accept_op) && !listener->worker->is_closing) {
        listener->is_close_queued = true;
        pyl_worker_post(listener->worker, &listener->close_job);
    }
}

/* The op has ended with an error. */
static void
handle_failure(struct pyl_listener *listener, int error)
{
    bool will_retry = false;
    if (is_shortage(error) && listener->is_accepting) {
        int64_t now_ns = pyl_reactor_now_ns(&listener->worker->reactor);
        will_retry = pyl_timer_start(listener->worker, &listener->retry_timer,
                                     now_ns + PYL_LISTENER_RETRY_NS) == 0;
        listener->is_retry_pending = will_retry;
    }
    if (!will_retry) {
        listener->is_accepting = false;
    }
    listener->ops->on_error(listener, error, will_retry);
}

static void
accept_complete(struct pyl_op *op, const struct pyl_event *event)
{
    struct pyl_listener *listener = PYL_CONTAINER_OF(op, struct pyl_listener, accept_op);
    if (event->result >= 0) {
        if (listener->is_closing || listener->worker->is_closing) {
            pyl_reactor_close_now(&listener->worker->reactor, event->result);
        } else {
            listener->ops->on_accept(listener, event->result);
        }
    } else if (event->result != -ECANCELED && !listener->is_closing) {
        handle_failure(listener, event->result);
    }
    update_accept_op(listener);
    settle(listener);
}

static void
run_retry(struct pyl_job *job)
{
    struct pyl_listener *listener = PYL_CONTAINER_OF(job, struct pyl_listener, retry_timer.job);
    listener->is_retry_pending = false;
    update_accept_op(listener);
    settle(listener);
}

void
pyl_listener_start(struct pyl_listener *listener)
{
    if (!listener->is_closing) {
        listener->is_accepting = true;
        update_accept_op(listener);
    }
}

/* A retry whose job is already queued stays pending until that has run. */
static void
stop_retry(struct pyl_listener *listener)
{
    if (listener->retry_timer.is_armed) {
        pyl_timer_stop(listener->worker, &listener->retry_timer);
        listener->is_retry_pending = false;
    }
}

void
pyl_listener_stop(struct pyl_listener *listener)
{
    listener->is_accepting = false;
    stop_retry(listener);
    update_accept_op(listener);
}

void
pyl_listener_close(struct pyl_listener *listener)
{
    if (listener->is_closing) {
        return;
    }
    listener->is_closing = true;
    pyl_listener_stop(listener);
    pyl_reactor_forget(&listener->worker->reactor, listener->fd);
    settle(listener);
}

/* The owner may free the listener in on_closed. */
static void
run_close(struct pyl_job *job)
{
    struct pyl_listener *listener = PYL_CONTAINER_OF(job, struct pyl_listener, close_job);
    PYL_DCHECK(!listener->is_closed);
    listener->is_closed = true;
    listener->ops->on_closed(listener);
}
