/*
 * task_wait.c - what a task waits for besides sockets: time, processes, blocking calls, files, and
 * what is outside the runtime.
 * Tested by tests/unit/io/test_task.c.
 */
#include "io/pidfd.h"
#include "io/task.h"

#include "base/clock.h"

#include <errno.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- time ---- */

static void
run_timer(struct pyl_job *job)
{
    pyl_task_complete(PYL_CONTAINER_OF(job, struct pyl_task, waiting.timer.job), 0);
}

void
pyl_task_sleep(struct pyl_task *task, int64_t duration_ns, pyl_task_fn *next)
{
    if (!pyl_task_begin(task, PYL_TASK_TIMER, next)) {
        return;
    }
    struct pyl_worker *worker = pyl_task_worker(task);
    int64_t deadline_ns = pyl_clock_after(pyl_reactor_now_ns(&worker->reactor), duration_ns);
    task->waiting.timer.job.run = run_timer;
    int rc = pyl_timer_start(worker, &task->waiting.timer, deadline_ns);
    if (rc < 0) {
        pyl_task_complete(task, rc);
    }
}

void
pyl_task_yield(struct pyl_task *task, pyl_task_fn *next)
{
    if (pyl_task_begin(task, PYL_TASK_TIMER, next)) {
        task->waiting.timer.job.run = run_timer;
        pyl_worker_post(pyl_task_worker(task), &task->waiting.timer.job);
    }
}

/* ---- calls on the blocking pool ---- */

static void
on_call_done(struct pyl_work *work, bool was_run)
{
    struct pyl_task *task = PYL_CONTAINER_OF(work, struct pyl_task, waiting.call.work);
    pyl_task_complete(task, was_run ? task->waiting.call.result : -ECANCELED);
}

static void
submit_work(struct pyl_task *task, void (*run)(struct pyl_work *work))
{
    struct pyl_work *work = &task->waiting.call.work;
    work->run = run;
    work->done = on_call_done;
    int rc = pyl_blocking_submit(&task->runtime->blocking, pyl_task_worker(task), work);
    if (rc < 0) {
        pyl_task_complete(task, rc);
    }
}

static void
run_call(struct pyl_work *work)
{
    struct pyl_task *task = PYL_CONTAINER_OF(work, struct pyl_task, waiting.call.work);
    task->waiting.call.result = task->waiting.call.call(task->waiting.call.argument);
}

void
pyl_task_call(struct pyl_task *task, int64_t (*call)(void *argument), void *argument,
              pyl_task_fn *next)
{
    if (pyl_task_begin(task, PYL_TASK_WORK, next)) {
        task->waiting.call.call = call;
        task->waiting.call.argument = argument;
        submit_work(task, run_call);
    }
}

static void
run_file(struct pyl_work *work)
{
    struct pyl_task *task = PYL_CONTAINER_OF(work, struct pyl_task, waiting.call.work);
    int fd = task->waiting.call.fd;
    uint8_t *data = task->waiting.call.data;
    size_t size = task->waiting.call.size;
    off_t offset = (off_t)task->waiting.call.offset;
    ssize_t count;
    do {
        count = task->waiting.call.is_write ? pwrite(fd, data, size, offset)
                                            : pread(fd, data, size, offset);
    } while (count < 0 && errno == EINTR);
    task->waiting.call.result = count >= 0 ? count : -errno;
}

static void
begin_file(struct pyl_task *task, int fd, const void *data, size_t size, int64_t offset,
           bool is_write, pyl_task_fn *next)
{
    if (pyl_task_begin(task, PYL_TASK_WORK, next)) {
        task->waiting.call.fd = fd;
        task->waiting.call.data = (uint8_t *)(uintptr_t)data; /* of the caller's kind */
        task->waiting.call.size = size;
        task->waiting.call.offset = offset;
        task->waiting.call.is_write = is_write;
        submit_work(task, run_file);
    }
}

void
pyl_task_read_file(struct pyl_task *task, int fd, void *buffer, size_t size, int64_t offset,
                   pyl_task_fn *next)
{
    begin_file(task, fd, buffer, size, offset, false, next);
}

void
pyl_task_write_file(struct pyl_task *task, int fd, const void *data, size_t size, int64_t offset,
                    pyl_task_fn *next)
{
    begin_file(task, fd, data, size, offset, true, next);
}

/* ---- processes ---- */

static int64_t
take_process(pid_t pid, int flags)
{
    int status = 0;
    pid_t found;
    do {
        found = waitpid(pid, &status, flags);
    } while (found < 0 && errno == EINTR);
    return found < 0 ? -errno : found == 0 ? -EAGAIN : status;
}

static void
on_process_ended(struct pyl_op *op, const struct pyl_event *event)
{
    struct pyl_task *task = PYL_CONTAINER_OF(op, struct pyl_task, waiting.io.op);
    pid_t pid = task->waiting.io.pid;
    int64_t result = event->result >= 0 ? take_process(pid, WNOHANG) : event->result;
    pyl_task_close(task, op->fd);
    pyl_task_complete(task, result);
}

static void
run_wait_process(struct pyl_work *work)
{
    struct pyl_task *task = PYL_CONTAINER_OF(work, struct pyl_task, waiting.call.work);
    task->waiting.call.result = take_process(task->waiting.call.pid, 0);
}

void
pyl_task_wait_process(struct pyl_task *task, pid_t pid, pyl_task_fn *next)
{
    if (!pyl_task_begin(task, PYL_TASK_OP, next)) {
        return;
    }
    siginfo_t unused;
    if (waitid(P_PID, (id_t)pid, &unused, WEXITED | WNOHANG | WNOWAIT) < 0) {
        pyl_task_complete(task, -errno); /* not a child: its end could be seen, but not taken */
        return;
    }
    int fd = pyl_pidfd_open(pid);
    if (fd == -ENOSYS) {
        task->wait = PYL_TASK_WORK; /* costs a thread as long as the process runs */
        task->waiting.call.pid = pid;
        submit_work(task, run_wait_process);
    } else if (fd < 0) {
        pyl_task_complete(task, fd);
    } else {
        struct pyl_op *op = &task->waiting.io.op;
        task->waiting.io.pid = pid;
        op->kind = PYL_OP_POLL;
        op->fd = fd;
        op->args.poll.events = PYL_POLL_IN;
        op->on_complete = on_process_ended;
        pyl_reactor_submit(&pyl_task_worker(task)->reactor, op);
    }
}

/* ---- outside the runtime ---- */

static void
run_outside(struct pyl_job *job)
{
    struct pyl_task *task = PYL_CONTAINER_OF(job, struct pyl_task, waiting.outside.job);
    pyl_task_complete(task, task->waiting.outside.result);
}

bool
pyl_task_wait_outside(struct pyl_task *task, void (*cancel)(struct pyl_task *task), void *user,
                      pyl_task_fn *next)
{
    if (!pyl_task_begin(task, PYL_TASK_OUTSIDE, next)) {
        return false;
    }
    task->waiting.outside.job.run = run_outside;
    task->waiting.outside.cancel = cancel;
    task->waiting.outside.user = user;
    return true;
}

void
pyl_task_end_wait(struct pyl_task *task, int64_t result)
{
    task->waiting.outside.result = result;
    pyl_strand_post(&task->strand, &task->waiting.outside.job);
}
