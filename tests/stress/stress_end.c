/*
 * stress_end.c - threads that are no workers post to tasks and cancel them while the runtime is
 * stopped, joined and freed. Every message is taken or dropped once, every task is released once,
 * and whoever posts touches no worker that is gone (ThreadSanitizer and AddressSanitizer see it).
 */
#include "stress.h"

#include "base/alloc.h"
#include "io/task.h"

#include <pthread.h>
#include <sched.h>

enum { WORKERS = 2, TASKS = 4, THREADS = 3, ROUNDS = 400, POSTS = 40, POSTS_AFTER = 3 };

static _Atomic int64_t tasks_alive;
static _Atomic int64_t messages_alive;
static _Atomic uint32_t taken;

struct target {
    struct pyl_task task;
    uint32_t left; /* ends when so many messages have come, or is cancelled */
};

struct thread {
    pthread_t id;
    struct target *targets[TASKS]; /* a reference to each */
    uint32_t number;
    pthread_barrier_t *start;
    _Atomic bool *is_joined;
};

static void
message_dropped(struct pyl_message *message)
{
    pyl_free(message);
    atomic_fetch_sub(&messages_alive, 1);
}

static void
target_release(struct pyl_task *task)
{
    pyl_free(PYL_CONTAINER_OF(task, struct target, task));
    atomic_fetch_sub(&tasks_alive, 1);
}

static void
on_message(struct pyl_task *task, int64_t result)
{
    struct target *target = PYL_CONTAINER_OF(task, struct target, task);
    struct pyl_message *message;
    while ((message = pyl_task_take_message(task)) != NULL) {
        message_dropped(message);
        atomic_fetch_add(&taken, 1);
        target->left -= target->left > 0;
    }
    if (result >= 0 && target->left > 0) {
        pyl_task_wait_message(task, on_message);
    }
}

static void
post(struct target *target)
{
    struct pyl_message *message = pyl_alloc_zero(sizeof(*message));
    STRESS_CHECK(message != NULL);
    message->on_dropped = message_dropped;
    atomic_fetch_add(&messages_alive, 1);
    pyl_task_post(&target->task, message);
}

/* Posts while the runtime ends, and some more when it is gone. */
static void *
run_thread(void *argument)
{
    struct thread *thread = argument;
    (void)pthread_barrier_wait(thread->start);
    for (uint32_t i = 0; i < POSTS; i++) {
        post(thread->targets[(i + thread->number) % TASKS]);
        if (i % 7 == thread->number) {
            pyl_task_cancel(&thread->targets[i % TASKS]->task);
        }
    }
    while (!atomic_load(thread->is_joined)) {
        sched_yield();
    }
    for (uint32_t i = 0; i < POSTS_AFTER; i++) {
        post(thread->targets[i % TASKS]);
        pyl_task_cancel(&thread->targets[i % TASKS]->task);
    }
    for (uint32_t i = 0; i < TASKS; i++) {
        pyl_task_unref(&thread->targets[i]->task);
    }
    return NULL;
}

static struct target *
start_target(struct pyl_runtime *runtime, uint32_t left)
{
    struct target *target = pyl_alloc_zero(sizeof(*target));
    STRESS_CHECK(target != NULL);
    pyl_task_init(&target->task, target_release);
    target->left = left;
    atomic_fetch_add(&tasks_alive, 1);
    for (int i = 0; i < THREADS; i++) {
        pyl_task_ref(&target->task);
    }
    STRESS_CHECK(pyl_task_spawn(runtime, &target->task, on_message) == 0);
    return target;
}

static void
run_round(struct pyl_runtime *runtime, uint32_t number)
{
    struct thread threads[THREADS];
    struct target *targets[TASKS];
    pthread_barrier_t start;
    _Atomic bool is_joined = false;
    STRESS_CHECK(pthread_barrier_init(&start, NULL, THREADS + 1) == 0);
    for (uint32_t i = 0; i < TASKS; i++) {
        targets[i] = start_target(runtime, 1 + (number + i) % 16);
    }
    for (uint32_t i = 0; i < THREADS; i++) {
        threads[i].number = i;
        threads[i].start = &start;
        threads[i].is_joined = &is_joined;
        for (uint32_t j = 0; j < TASKS; j++) {
            threads[i].targets[j] = targets[j];
        }
        STRESS_CHECK(pthread_create(&threads[i].id, NULL, run_thread, &threads[i]) == 0);
    }
    (void)pthread_barrier_wait(&start);
    for (uint32_t spin = 0; spin < number % 5; spin++) {
        sched_yield();
    }
    pyl_runtime_stop(runtime);
    STRESS_CHECK(pyl_runtime_join(runtime) == 0);
    pyl_runtime_fini(runtime);
    atomic_store(&is_joined, true);
    for (int i = 0; i < THREADS; i++) {
        STRESS_CHECK(pthread_join(threads[i].id, NULL) == 0);
    }
    (void)pthread_barrier_destroy(&start);
}

int
main(void)
{
    for (uint32_t i = 0; i < ROUNDS; i++) {
        struct pyl_runtime runtime;
        struct pyl_runtime_options options = {.workers = 1 + i % WORKERS};
        char cause[PYL_REACTOR_CAUSE_SIZE] = "";
        if (pyl_runtime_init(&runtime, &options, cause, sizeof(cause)) < 0) {
            fprintf(stderr, "SKIPPED: %s\n", cause);
            return 77;
        }
        STRESS_CHECK(pyl_runtime_start(&runtime) == 0);
        run_round(&runtime, i);
    }
    STRESS_CHECK(atomic_load(&tasks_alive) == 0);
    STRESS_CHECK(atomic_load(&messages_alive) == 0);
    printf("%d runtimes, %u messages taken\n", ROUNDS, atomic_load(&taken));
    return 0;
}
