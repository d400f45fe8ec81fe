/*
 * connect.c - one CONNECT op and one timer; done when the op has ended and the timer is out of
 * every queue.
 */
#include "io/connect.h"

#include "base/check.h"
#include "base/clock.h"

#include <errno.h>
#include <string.h>

static void
finish(struct pyl_connect *connect)
{
    int error = connect->error;
    if (connect->is_cancelled) {
        error = -ECANCELED;
    } else if (connect->is_timed_out && error == -ECANCELED) {
        error = -ETIMEDOUT;
    }
    if (error < 0) {
        pyl_reactor_forget(&connect->worker->reactor, connect->fd);
    }
    connect->is_active = false;
    connect->on_done(connect, error);
}

static void
connect_complete(struct pyl_op *op, const struct pyl_event *event)
{
    struct pyl_connect *connect = PYL_CONTAINER_OF(op, struct pyl_connect, op);
    connect->error = event->result;
    if (connect->timer.is_armed) {
        pyl_timer_stop(connect->worker, &connect->timer);
        connect->is_timer_queued = false;
    }
    if (connect->is_timer_queued && !connect->worker->is_closing) {
        connect->has_result = true; /* run_timeout() is in the ready queue and finishes */
    } else {
        finish(connect);
    }
}

static void
run_timeout(struct pyl_job *job)
{
    struct pyl_connect *connect = PYL_CONTAINER_OF(job, struct pyl_connect, timer.job);
    connect->is_timer_queued = false;
    if (connect->has_result) {
        finish(connect);
        return;
    }
    connect->is_timed_out = true;
    pyl_reactor_cancel(&connect->worker->reactor, &connect->op);
}

int
pyl_connect_start(struct pyl_connect *connect, struct pyl_worker *worker, int fd,
                  const struct pyl_sockaddr *address, int64_t timeout_ns, pyl_connect_fn *on_done)
{
    memset(connect, 0, sizeof(*connect));
    connect->on_done = on_done;
    connect->worker = worker;
    connect->fd = fd;
    connect->address = *address;
    connect->timer.job.run = run_timeout;
    connect->op.kind = PYL_OP_CONNECT;
    connect->op.fd = fd;
    connect->op.on_complete = connect_complete;
    connect->op.args.connect.address = &connect->address.u.any;
    connect->op.args.connect.address_size = address->size;
    if (timeout_ns > 0) {
        int64_t now_ns = pyl_reactor_now_ns(&worker->reactor);
        int rc = pyl_timer_start(worker, &connect->timer, pyl_clock_after(now_ns, timeout_ns));
        if (rc < 0) {
            return rc;
        }
        connect->is_timer_queued = true;
    }
    connect->is_active = true;
    pyl_reactor_submit(&worker->reactor, &connect->op);
    return 0;
}

void
pyl_connect_cancel(struct pyl_connect *connect)
{
    if (connect->is_active) {
        connect->is_cancelled = true;
        pyl_reactor_cancel(&connect->worker->reactor, &connect->op);
    }
}
