/*
 * stress_task.c - tasks on four workers that talk over socket pairs, sleep, call the blocking pool
 * and send each other messages, while other threads cancel some of them at any moment. Every task
 * ends once, every message is taken or dropped once.
 */
#include "stress.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "io/task.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { WORKERS = 4, TASKS = 400, THREADS = 2, LAPS = 20 };

static struct pyl_runtime runtime;
static _Atomic int64_t tasks_alive;
static _Atomic int64_t messages_alive;

/* One of two ends: sends a byte, waits for one, sleeps, calls, posts to its peer. */
struct walker {
    struct pyl_task task;
    struct walker *peer;
    int fd;
    int laps;
    uint8_t byte;
};

static void
message_dropped(struct pyl_message *message)
{
    pyl_free(message);
    atomic_fetch_sub(&messages_alive, 1);
}

static void
walker_release(struct pyl_task *task)
{
    pyl_free(PYL_CONTAINER_OF(task, struct walker, task));
    atomic_fetch_sub(&tasks_alive, 1);
}

static void
walker_end(struct walker *walker)
{
    pyl_task_close(&walker->task, walker->fd);
    pyl_task_unref(&walker->peer->task);
}

static int64_t
short_call(void *argument)
{
    return 7;
}

static void walk(struct pyl_task *task, int64_t result);

static void
on_called(struct pyl_task *task, int64_t result)
{
    STRESS_CHECK(result == 7 || result == -ECANCELED);
    walk(task, result == 7 ? 1 : result);
}

static void
on_received(struct pyl_task *task, int64_t result)
{
    struct walker *walker = PYL_CONTAINER_OF(task, struct walker, task);
    STRESS_CHECK(result == 0 || result == 1 || result == -ECANCELED || result == -ECONNRESET);
    struct pyl_message *message = pyl_task_take_message(task);
    if (message != NULL) {
        message_dropped(message);
    }
    if (result != 1) {
        walker_end(walker);
    } else if (walker->laps % 3 == 0) {
        pyl_task_call(task, short_call, NULL, on_called);
    } else if (walker->laps % 3 == 1) {
        pyl_task_sleep(task, 10 * PYL_NS_PER_US, walk);
    } else {
        pyl_task_yield(task, walk);
    }
}

static void
on_sent(struct pyl_task *task, int64_t result)
{
    struct walker *walker = PYL_CONTAINER_OF(task, struct walker, task);
    STRESS_CHECK(result == 1 || result == -ECANCELED || result == -EPIPE || result == -ECONNRESET);
    if (result == 1) {
        pyl_task_receive(task, walker->fd, &walker->byte, 1, on_received);
    } else {
        walker_end(walker);
    }
}

static void
walk(struct pyl_task *task, int64_t result)
{
    struct walker *walker = PYL_CONTAINER_OF(task, struct walker, task);
    if (result < 0 || walker->laps++ == LAPS) {
        walker_end(walker);
        return;
    }
    struct pyl_message *message = pyl_alloc_zero(sizeof(*message));
    STRESS_CHECK(message != NULL);
    message->on_dropped = message_dropped;
    atomic_fetch_add(&messages_alive, 1);
    pyl_task_post(&walker->peer->task, message);
    pyl_task_send(task, walker->fd, "x", 1, on_sent);
}

static struct walker *
walker_new(int fd)
{
    struct walker *walker = pyl_alloc_zero(sizeof(*walker));
    STRESS_CHECK(walker != NULL && fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
    pyl_task_init(&walker->task, walker_release);
    walker->fd = fd;
    atomic_fetch_add(&tasks_alive, 1);
    return walker;
}

/* Starts pairs, and cancels one end of every third one when it has gone a little way. */
static void *
run_thread(void *argument)
{
    for (int i = 0; i < TASKS / 2 / THREADS; i++) {
        int fds[2];
        STRESS_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
        struct walker *one = walker_new(fds[0]);
        struct walker *two = walker_new(fds[1]);
        one->peer = two;
        two->peer = one;
        pyl_task_ref(&one->task);
        pyl_task_ref(&two->task);
        pyl_task_ref(&one->task); /* ours */
        STRESS_CHECK(pyl_task_spawn(&runtime, &one->task, walk) == 0);
        STRESS_CHECK(pyl_task_spawn(&runtime, &two->task, walk) == 0);
        for (int spin = 0; spin < i % 7; spin++) {
            sched_yield();
        }
        if (i % 3 == 0) {
            pyl_task_cancel(&one->task);
        }
        pyl_task_unref(&one->task);
    }
    return NULL;
}

int
main(void)
{
    struct pyl_runtime_options options = {.workers = WORKERS};
    char cause[PYL_REACTOR_CAUSE_SIZE] = "";
    if (pyl_runtime_init(&runtime, &options, cause, sizeof(cause)) < 0) {
        fprintf(stderr, "SKIPPED: %s\n", cause);
        return 77;
    }
    STRESS_CHECK(pyl_runtime_start(&runtime) == 0);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        STRESS_CHECK(pthread_create(&threads[i], NULL, run_thread, NULL) == 0);
    }
    for (int i = 0; i < THREADS; i++) {
        STRESS_CHECK(pthread_join(threads[i], NULL) == 0);
    }
    while (atomic_load(&tasks_alive) > TASKS / 20) { /* the last ones meet the end of the runtime */
        sched_yield();
    }
    pyl_runtime_stop(&runtime);
    STRESS_CHECK(pyl_runtime_join(&runtime) == 0);
    STRESS_CHECK(atomic_load(&tasks_alive) == 0);
    STRESS_CHECK(atomic_load(&messages_alive) == 0);
    pyl_runtime_fini(&runtime);
    printf("%d tasks\n", TASKS);
    return 0;
}
