/*
 * task.c - the life of a native task: steps, cancellation, messages, references.
 *
 * Invariant: in every state but PYL_TASK_NOTHING exactly one thing will call pyl_task_complete() or
 * run step_job, so a task is neither forgotten nor stepped twice.
 */
#include "io/task.h"

#include "base/check.h"

#include <errno.h>
#include <string.h>

/* ---- steps ---- */

static void
run_step(struct pyl_job *job)
{
    struct pyl_task *task = PYL_CONTAINER_OF(job, struct pyl_task, step_job);
    PYL_DCHECK(task->wait == PYL_TASK_STEP);
    task->wait = PYL_TASK_NOTHING;
    task->next(task, task->result);
    if (task->wait == PYL_TASK_NOTHING) {
        pyl_strand_end(&task->strand);
    }
}

void
pyl_task_complete(struct pyl_task *task, int64_t result)
{
    PYL_DCHECK(task->wait > PYL_TASK_STEP);
    task->wait = PYL_TASK_STEP;
    task->result = result;
    pyl_strand_post(&task->strand, &task->step_job);
}

bool
pyl_task_begin(struct pyl_task *task, enum pyl_task_wait wait, pyl_task_fn *next)
{
    PYL_CHECK(task->wait == PYL_TASK_NOTHING); /* one wait per step */
    task->next = next;
    task->wait = (uint8_t)wait;
    memset(&task->waiting, 0, sizeof(task->waiting));
    if (task->is_cancelled) {
        pyl_task_complete(task, -ECANCELED);
        return false;
    }
    return true;
}

/* ---- cancellation ---- */

static void
cancel_wait(struct pyl_task *task)
{
    struct pyl_worker *worker = pyl_task_worker(task);
    if (task->is_cancelled) {
        return; /* by the other one of cancel and stop: the wait was told */
    }
    task->is_cancelled = true;
    switch ((enum pyl_task_wait)task->wait) {
    case PYL_TASK_NOTHING:
    case PYL_TASK_STEP:
        break;
    case PYL_TASK_OP:
        pyl_reactor_cancel(&worker->reactor, &task->waiting.io.op);
        break;
    case PYL_TASK_TIMER:
        if (task->waiting.timer.is_armed) { /* else it is due, and its job on its way */
            pyl_timer_stop(worker, &task->waiting.timer);
            pyl_task_complete(task, -ECANCELED);
        }
        break;
    case PYL_TASK_CONNECT:
        pyl_connect_cancel(&task->waiting.connect);
        break;
    case PYL_TASK_WORK:
        (void)pyl_work_cancel(&task->waiting.call.work);
        break;
    case PYL_TASK_MESSAGE:
        pyl_task_complete(task, -ECANCELED);
        break;
    case PYL_TASK_OUTSIDE:
        task->waiting.outside.cancel(task);
        break;
    }
}

static void
run_cancel(struct pyl_job *job)
{
    cancel_wait(PYL_CONTAINER_OF(job, struct pyl_task, cancel_job));
}

void
pyl_task_cancel(struct pyl_task *task)
{
    if (!atomic_exchange_explicit(&task->is_cancel_posted, true, memory_order_relaxed)) {
        pyl_strand_post(&task->strand, &task->cancel_job);
    }
}

static void
on_stop(struct pyl_strand *strand)
{
    cancel_wait(PYL_CONTAINER_OF(strand, struct pyl_task, strand));
}

/* ---- life ---- */

static void run_message(struct pyl_job *job);

static void
drop_messages(struct pyl_job_queue *jobs)
{
    struct pyl_job *job;
    while ((job = pyl_job_queue_pop(jobs)) != NULL) {
        struct pyl_message *message = PYL_CONTAINER_OF(job, struct pyl_message, job);
        if (job->run == run_message && message->on_dropped != NULL) {
            message->on_dropped(message);
        }
    }
}

void
pyl_task_unref(struct pyl_task *task)
{
    /* Acquire-release: whoever frees it comes after what all others did with it. */
    if (atomic_fetch_sub_explicit(&task->references, 1, memory_order_acq_rel) == 1) {
        struct pyl_job_queue left = {0};
        pyl_strand_take_rest(&task->strand, &left);
        drop_messages(&left);
        task->release(task);
    }
}

void
pyl_task_ref(struct pyl_task *task)
{
    (void)atomic_fetch_add_explicit(&task->references, 1, memory_order_relaxed);
}

static void
on_ended(struct pyl_strand *strand)
{
    struct pyl_task *task = PYL_CONTAINER_OF(strand, struct pyl_task, strand);
    drop_messages(&task->mailbox);
    if (task->on_ended != NULL) {
        task->on_ended(task);
    }
    pyl_task_unref(task);
}

static const struct pyl_strand_ops task_strand_ops = {on_stop, on_ended};

void
pyl_task_init(struct pyl_task *task, void (*release)(struct pyl_task *task))
{
    memset(task, 0, sizeof(*task));
    pyl_strand_init(&task->strand, &task_strand_ops);
    task->release = release;
    task->step_job.run = run_step;
    task->cancel_job.run = run_cancel;
    atomic_init(&task->is_cancel_posted, false);
    atomic_init(&task->references, 1);
}

static void
prepare_spawn(struct pyl_runtime *runtime, struct pyl_task *task, pyl_task_fn *first)
{
    task->runtime = runtime;
    task->next = first;
    task->result = 0;
    task->wait = PYL_TASK_STEP;
}

int
pyl_task_spawn(struct pyl_runtime *runtime, struct pyl_task *task, pyl_task_fn *first)
{
    prepare_spawn(runtime, task, first);
    return pyl_runtime_spawn(runtime, &task->strand, &task->step_job);
}

int
pyl_task_spawn_on(struct pyl_runtime *runtime, uint32_t lane, struct pyl_task *task,
                  pyl_task_fn *first)
{
    prepare_spawn(runtime, task, first);
    return pyl_runtime_spawn_on(runtime, lane, &task->strand, &task->step_job);
}

/* ---- messages ---- */

static void
run_message(struct pyl_job *job)
{
    struct pyl_task *task = PYL_CONTAINER_OF(job, struct pyl_message, job)->to;
    pyl_job_queue_push(&task->mailbox, job);
    if (task->wait == PYL_TASK_MESSAGE) {
        pyl_task_complete(task, 1);
    }
}

void
pyl_task_post(struct pyl_task *task, struct pyl_message *message)
{
    message->to = task;
    message->job.run = run_message;
    pyl_strand_post(&task->strand, &message->job);
}

void
pyl_task_wait_message(struct pyl_task *task, pyl_task_fn *next)
{
    if (pyl_task_begin(task, PYL_TASK_MESSAGE, next) && task->mailbox.count > 0) {
        pyl_task_complete(task, 1);
    }
}

struct pyl_message *
pyl_task_take_message(struct pyl_task *task)
{
    struct pyl_job *job = pyl_job_queue_pop(&task->mailbox);
    return job != NULL ? PYL_CONTAINER_OF(job, struct pyl_message, job) : NULL;
}
