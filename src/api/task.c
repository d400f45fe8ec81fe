/*
 * task.c - pyloop/task.h: tasks with a state pointer, messages as pointers, timers.
 * Tested by tests/api/test_api.c.
 */
#include "api/api.h"

#include "base/alloc.h"
#include "base/clock.h"

#include <errno.h>
#include <string.h>

/* ---- life ---- */

void
pyloop_task_resume(struct pyl_task *base, int64_t result)
{
    struct pyloop_task *task = PYL_CONTAINER_OF(base, struct pyloop_task, base);
    task->next(task, task->state, result);
}

static void
release_task(struct pyl_task *base)
{
    pyl_free(PYL_CONTAINER_OF(base, struct pyloop_task, base));
}

static void
end_task(struct pyl_task *base)
{
    struct pyloop_task *task = PYL_CONTAINER_OF(base, struct pyloop_task, base);
    if (task->on_end != NULL) {
        task->on_end(task->state);
    }
}

void
pyloop_task_init(struct pyloop_task *task, struct pyloop_runtime *runtime, pyloop_step *first,
                 void *state, void (*release)(struct pyl_task *task))
{
    pyl_task_init(&task->base, release);
    task->runtime = runtime;
    task->next = first;
    task->state = state;
}

struct pyloop_task *
pyloop_task_new(struct pyloop_runtime *runtime, pyloop_step *first, void *state,
                void (*on_end)(void *state))
{
    struct pyloop_task *task = pyl_alloc_zero(sizeof(*task));
    if (task != NULL) {
        pyloop_task_init(task, runtime, first, state, release_task);
        task->base.on_ended = end_task;
        task->on_end = on_end;
    }
    return task;
}

int
pyloop_spawn(struct pyloop_runtime *runtime, pyloop_step *first, void *state,
             void (*on_end)(void *state), struct pyloop_task **ret_task)
{
    struct pyloop_task *task = pyloop_task_new(runtime, first, state, on_end);
    if (task == NULL) {
        return -ENOMEM;
    }
    pyl_task_ref(&task->base); /* the caller's; the task may have ended when spawn returns */
    int rc = pyl_task_spawn(&runtime->base, &task->base, pyloop_task_resume);
    if (rc < 0) {
        pyl_task_unref(&task->base);
    }
    if (rc < 0 || ret_task == NULL) {
        pyl_task_unref(&task->base);
    } else {
        *ret_task = task;
    }
    return rc;
}

void
pyloop_task_cancel(struct pyloop_task *task)
{
    pyl_task_cancel(&task->base);
}

void
pyloop_task_ref(struct pyloop_task *task)
{
    pyl_task_ref(&task->base);
}

void
pyloop_task_unref(struct pyloop_task *task)
{
    pyl_task_unref(&task->base);
}

struct pyloop_runtime *
pyloop_task_runtime(const struct pyloop_task *task)
{
    return task->runtime;
}

uint32_t
pyloop_task_worker(const struct pyloop_task *task)
{
    return task->base.strand.home->index;
}

/* ---- waits ---- */

void
pyloop_sleep(struct pyloop_task *task, int64_t duration_ns, pyloop_step *next)
{
    task->next = next;
    pyl_task_sleep(&task->base, duration_ns, pyloop_task_resume);
}

void
pyloop_yield(struct pyloop_task *task, pyloop_step *next)
{
    task->next = next;
    pyl_task_yield(&task->base, pyloop_task_resume);
}

void
pyloop_accept(struct pyloop_task *task, int fd, pyloop_step *next)
{
    task->next = next;
    pyl_task_accept(&task->base, fd, pyloop_task_resume);
}

static void
on_connected(struct pyl_task *base, int64_t result)
{
    struct pyloop_task *task = PYL_CONTAINER_OF(base, struct pyloop_task, base);
    if (result < 0 && task->connect_fd >= 0) {
        pyl_task_close(base, task->connect_fd);
    }
    pyloop_task_resume(base, result < 0 ? result : task->connect_fd);
}

void
pyloop_connect(struct pyloop_task *task, const struct sockaddr *address, socklen_t size,
               int64_t timeout_ns, pyloop_step *next)
{
    struct pyl_sockaddr copy = {.size = size};
    task->next = next;
    task->connect_fd = -EINVAL;
    if (size <= sizeof(copy.u)) {
        memcpy(&copy.u, address, size);
        task->connect_fd = pyl_socket_open(copy.u.any.sa_family, SOCK_STREAM, 0);
    }
    if (task->connect_fd >= 0) {
        pyl_task_connect(&task->base, task->connect_fd, &copy, timeout_ns, on_connected);
    } else if (pyl_task_begin(&task->base, PYL_TASK_CONNECT, on_connected)) {
        pyl_task_complete(&task->base, task->connect_fd);
    }
}

void
pyloop_receive(struct pyloop_task *task, int fd, void *buffer, size_t size, pyloop_step *next)
{
    task->next = next;
    pyl_task_receive(&task->base, fd, buffer, size, pyloop_task_resume);
}

void
pyloop_send(struct pyloop_task *task, int fd, const void *data, size_t size, pyloop_step *next)
{
    task->next = next;
    pyl_task_send(&task->base, fd, data, size, pyloop_task_resume);
}

void
pyloop_close(struct pyloop_task *task, int fd)
{
    pyl_task_close(&task->base, fd);
}

void
pyloop_wait_process(struct pyloop_task *task, pid_t pid, pyloop_step *next)
{
    task->next = next;
    pyl_task_wait_process(&task->base, pid, pyloop_task_resume);
}

void
pyloop_call(struct pyloop_task *task, int64_t (*call)(void *argument), void *argument,
            pyloop_step *next)
{
    task->next = next;
    pyl_task_call(&task->base, call, argument, pyloop_task_resume);
}

void
pyloop_read_file(struct pyloop_task *task, int fd, void *buffer, size_t size, int64_t offset,
                 pyloop_step *next)
{
    task->next = next;
    pyl_task_read_file(&task->base, fd, buffer, size, offset, pyloop_task_resume);
}

void
pyloop_write_file(struct pyloop_task *task, int fd, const void *data, size_t size, int64_t offset,
                  pyloop_step *next)
{
    task->next = next;
    pyl_task_write_file(&task->base, fd, data, size, offset, pyloop_task_resume);
}

/* ---- messages ---- */

struct envelope {
    struct pyl_message base;
    void *message;
    void (*on_dropped)(void *message); /* may be NULL */
};

static void
drop_envelope(struct pyl_message *base)
{
    struct envelope *envelope = PYL_CONTAINER_OF(base, struct envelope, base);
    if (envelope->on_dropped != NULL) {
        envelope->on_dropped(envelope->message);
    }
    pyl_free(envelope);
}

int
pyloop_post(struct pyloop_task *task, void *message, void (*on_dropped)(void *message))
{
    struct envelope *envelope = pyl_alloc_zero(sizeof(*envelope));
    if (envelope == NULL) {
        return -ENOMEM;
    }
    envelope->base.on_dropped = drop_envelope;
    envelope->message = message;
    envelope->on_dropped = on_dropped;
    pyl_task_post(&task->base, &envelope->base);
    return 0;
}

void
pyloop_wait_message(struct pyloop_task *task, pyloop_step *next)
{
    task->next = next;
    pyl_task_wait_message(&task->base, pyloop_task_resume);
}

int
pyloop_take_message(struct pyloop_task *task, void **ret_message)
{
    struct pyl_message *base = pyl_task_take_message(&task->base);
    if (base == NULL) {
        return 0;
    }
    struct envelope *envelope = PYL_CONTAINER_OF(base, struct envelope, base);
    *ret_message = envelope->message;
    pyl_free(envelope);
    return 1;
}

/* ---- timers ---- */

struct pyloop_timer {
    struct pyl_task base;
    int64_t deadline_ns;
    void (*fire)(void *argument);
    void *argument;
};

static void
release_timer(struct pyl_task *base)
{
    pyl_free(PYL_CONTAINER_OF(base, struct pyloop_timer, base));
}

static void
fire_timer(struct pyl_task *base, int64_t result)
{
    struct pyloop_timer *timer = PYL_CONTAINER_OF(base, struct pyloop_timer, base);
    if (result == 0 && !base->is_cancelled) {
        timer->fire(timer->argument);
    }
}

/* The time since the call of pyloop_timer_start() counts. */
static void
begin_timer(struct pyl_task *base, int64_t result)
{
    struct pyloop_timer *timer = PYL_CONTAINER_OF(base, struct pyloop_timer, base);
    int64_t left_ns = timer->deadline_ns - pyl_clock_now_ns();
    pyl_task_sleep(base, left_ns, fire_timer);
}

int
pyloop_timer_start(struct pyloop_runtime *runtime, int64_t delay_ns, void (*fire)(void *argument),
                   void *argument, struct pyloop_timer **ret_timer)
{
    struct pyloop_timer *timer = pyl_alloc_zero(sizeof(*timer));
    if (timer == NULL) {
        return -ENOMEM;
    }
    pyl_task_init(&timer->base, release_timer);
    timer->deadline_ns = pyl_clock_after(pyl_clock_now_ns(), delay_ns);
    timer->fire = fire;
    timer->argument = argument;
    pyl_task_ref(&timer->base); /* the caller's */
    int rc = pyl_task_spawn(&runtime->base, &timer->base, begin_timer);
    if (rc < 0) {
        pyl_free(timer);
        return rc;
    }
    *ret_timer = timer;
    return 0;
}

void
pyloop_timer_stop(struct pyloop_timer *timer)
{
    pyl_task_cancel(&timer->base);
    pyl_task_unref(&timer->base);
}
