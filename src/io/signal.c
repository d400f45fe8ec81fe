/*
 * signal.c - the pipe, and the table of watched signals.
 *
 * The disposition of a signal is a property of the process, and so is the table: the one
 * global of this layer.
 */
#include "io/signal.h"

#include "base/check.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { READ_SIZE = 4096, PIPE_SIZE_MIN = 16384 };

/*
 * unwatch must not let go of a source that a handler on another thread is using: the handler
 * counts itself in and then loads the source, unwatch clears the source and then waits for the
 * count. That is two words in opposite order, so all four accesses are sequentially consistent.
 */
struct watch {
    _Atomic(struct pyl_signal_source *) source; /* owner and handlers, seq_cst */
    _Atomic uint32_t handlers;                  /* handlers inside, any thread, seq_cst */
    struct sigaction before;                    /* owner */
};

/* tidy: global because signal dispositions are the process's. */
static struct watch watches[PYL_SIGNAL_MAX + 1];

static void poll_complete(struct pyl_op *op, const struct pyl_event *event);
static void run_close(struct pyl_job *job);

int
pyl_signal_source_init(struct pyl_signal_source *source, struct pyl_worker *worker,
                       const struct pyl_signal_ops *ops)
{
    int fds[2];
    if ((worker->reactor.ops->features & PYL_BACKEND_SIMULATED) != 0) {
        return -ENOTSUP;
    }
    /* A pipe keeps 65,536 single bytes; a socket pair only some hundred, each with its own header.
     */
    if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0) {
        return -errno;
    }
    memset(source, 0, sizeof(*source));
    source->ops = ops;
    source->worker = worker;
    source->read_fd = fds[0];
    source->write_fd = fds[1];
    atomic_init(&source->pending, 0);
    source->close_job.run = run_close;
    source->poll_op.on_complete = poll_complete;
    source->poll_op.fd = source->read_fd;
    source->poll_op.kind = PYL_OP_POLL;
    source->poll_op.flags = PYL_OP_MULTISHOT;
    source->poll_op.args.poll.events = PYL_POLL_IN;
    pyl_reactor_submit(&worker->reactor, &source->poll_op);
    return 0;
}

static void
deliver(struct pyl_signal_source *source, int number)
{
    if (!source->is_closing) {
        source->ops->on_signal(source, number);
    }
}

/* The numbers that our own handlers marked. */
static void
deliver_marked(struct pyl_signal_source *source)
{
    uint64_t marked = atomic_exchange_explicit(&source->pending, 0, memory_order_acquire);
    while (marked != 0) {
        int number = __builtin_ctzll(marked) + 1;
        marked &= marked - 1;
        deliver(source, number);
    }
}

/* May an outside writer have found no room? The smallest pipes (macOS) hold this much. */
static bool
is_maybe_full(const struct pyl_signal_source *source)
{
    int unread = 0;
    return ioctl(source->read_fd, FIONREAD, &unread) == 0 && unread >= PIPE_SIZE_MIN;
}

/* One read per turn: a storm of signals does not keep the others waiting. */
static void
read_numbers(struct pyl_signal_source *source)
{
    uint8_t numbers[READ_SIZE];
    bool was_full = is_maybe_full(source);
    ssize_t count = read(source->read_fd, numbers, sizeof(numbers));
    /* Read first, look at the marks afterwards: a mark is set before its byte is written. */
    deliver_marked(source);
    for (ssize_t i = 0; i < count; i++) {
        if (numbers[i] > 0 && numbers[i] <= PYL_SIGNAL_MAX) {
            deliver(source, numbers[i]);
        }
    }
    if (was_full && source->ops->on_overflow != NULL && !source->is_closing) {
        source->ops->on_overflow(source);
    }
}

static void
settle(struct pyl_signal_source *source)
{
    if (source->is_closing && !source->is_close_queued && pyl_op_is_idle(&source->poll_op) &&
        !source->worker->is_closing) {
        source->is_close_queued = true;
        pyl_worker_post(source->worker, &source->close_job);
    }
}

static void
poll_complete(struct pyl_op *op, const struct pyl_event *event)
{
    struct pyl_signal_source *source = PYL_CONTAINER_OF(op, struct pyl_signal_source, poll_op);
    if (event->result > 0 && !source->is_closing) {
        read_numbers(source);
    }
    if (pyl_op_is_idle(op) && !source->is_closing && !source->worker->is_closing) {
        pyl_reactor_submit(&source->worker->reactor, op);
    }
    settle(source);
}

static void
unwatch_all(struct pyl_signal_source *source)
{
    for (int number = 1; number <= PYL_SIGNAL_MAX; number++) {
        pyl_signal_unwatch(source, number);
    }
}

void
pyl_signal_source_close(struct pyl_signal_source *source)
{
    if (source->is_closing) {
        return;
    }
    unwatch_all(source);
    source->is_closing = true;
    pyl_reactor_cancel(&source->worker->reactor, &source->poll_op);
    settle(source);
}

static void
close_pipe(struct pyl_signal_source *source)
{
    (void)close(source->read_fd);
    (void)close(source->write_fd);
    source->read_fd = -1;
    source->write_fd = -1;
}

/* The owner may free the source in on_closed. */
static void
run_close(struct pyl_job *job)
{
    struct pyl_signal_source *source = PYL_CONTAINER_OF(job, struct pyl_signal_source, close_job);
    pyl_reactor_forget(&source->worker->reactor, source->read_fd);
    close_pipe(source);
    source->ops->on_closed(source);
}

void
pyl_signal_source_dispose(struct pyl_signal_source *source)
{
    if (source->read_fd < 0) {
        return;
    }
    PYL_CHECK(pyl_op_is_idle(&source->poll_op));
    unwatch_all(source);
    source->is_closing = true;
    close_pipe(source);
}

void
pyl_signal_notify(struct pyl_signal_source *source, int number)
{
    int saved_errno = errno;
    uint8_t byte = 0; /* only wakes: the mark tells the number */
    atomic_fetch_or_explicit(&source->pending, UINT64_C(1) << (number - 1), memory_order_release);
    /* A full pipe has unread bytes, and reading them looks at the marks. */
    (void)!write(source->write_fd, &byte, 1);
    errno = saved_errno;
}

static void
handle_signal(int number)
{
    struct watch *watch = &watches[number];
    (void)atomic_fetch_add(&watch->handlers, 1);
    struct pyl_signal_source *source = atomic_load(&watch->source);
    if (source != NULL) {
        pyl_signal_notify(source, number);
    }
    (void)atomic_fetch_sub(&watch->handlers, 1);
}

int
pyl_signal_watch(struct pyl_signal_source *source, int number)
{
    if (number < 1 || number > PYL_SIGNAL_MAX) {
        return -EINVAL;
    }
    struct watch *watch = &watches[number];
    struct pyl_signal_source *expected = NULL;
    if (!atomic_compare_exchange_strong(&watch->source, &expected, source)) {
        return expected == source ? 0 : -EBUSY;
    }
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    action.sa_handler = handle_signal;
    action.sa_flags = SA_RESTART | SA_ONSTACK;
    (void)sigfillset(&action.sa_mask);
    if (sigaction(number, &action, &watch->before) < 0) {
        int error = -errno;
        atomic_store(&watch->source, NULL);
        return error;
    }
    return 0;
}

void
pyl_signal_unwatch(struct pyl_signal_source *source, int number)
{
    if (number < 1 || number > PYL_SIGNAL_MAX) {
        return;
    }
    struct watch *watch = &watches[number];
    if (atomic_load(&watch->source) != source) {
        return;
    }
    (void)sigaction(number, &watch->before, NULL);
    atomic_store(&watch->source, NULL);
    while (atomic_load(&watch->handlers) > 0) {
        (void)sched_yield();
    }
}
