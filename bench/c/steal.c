/*
 * steal.c - what stealing costs where there is nothing to gain: two workers, uniform short tasks.
 *
 *   steal [PAIRS]     prints the medians of the pairs' ratios, stealing on ÷ off
 *
 * Tasks come from outside through the queue that all workers share, so that both workers have work
 * all the time, with stealing or without.
 */
#include <pyloop/task.h>

#include <inttypes.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { TASKS = 20000, STEPS = 20, ARITHMETIC = 500, PAIRS = 15, PAIRS_MAX = 1000 };

struct sample {
    double wall_ns;
    double cpu_ns; /* of the process */
};

static struct {
    _Atomic uint32_t left; /* tasks; the last one posts */
    sem_t has_ended;
} batch;

static double
now_ns(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

/* Some 1 us of work, then the others' turn. */
static void
step(struct pyloop_task *task, void *state, int64_t result)
{
    uint32_t *left = state;
    if (result < 0 || *left == 0) {
        return;
    }
    (*left)--;
    volatile uint32_t value = 0;
    for (uint32_t i = 0; i < ARITHMETIC; i++) {
        value = value * 31 + i;
    }
    pyloop_yield(task, step);
}

static void
count_end(void *state)
{
    (void)state;
    if (atomic_fetch_sub(&batch.left, 1) == 1) {
        sem_post(&batch.has_ended);
    }
}

static void
fail(const char *what)
{
    fprintf(stderr, "steal: %s\n", what);
    exit(1);
}

static struct sample
run(int64_t steal_delay_ns)
{
    static uint32_t left[TASKS];
    struct pyloop_runtime_options options = {
        .struct_size = sizeof(options), .workers = 2, .steal_delay_ns = steal_delay_ns};
    struct pyloop_runtime *runtime;
    if (pyloop_runtime_start(&options, &runtime, NULL, 0) < 0) {
        fail("no runtime");
    }
    atomic_store(&batch.left, TASKS);
    double wall = now_ns(CLOCK_MONOTONIC), cpu = now_ns(CLOCK_PROCESS_CPUTIME_ID);
    for (int i = 0; i < TASKS; i++) {
        left[i] = STEPS;
        if (pyloop_spawn(runtime, step, &left[i], count_end, NULL) < 0) {
            fail("no task");
        }
    }
    sem_wait(&batch.has_ended);
    struct sample sample = {now_ns(CLOCK_MONOTONIC) - wall, now_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu};
    pyloop_runtime_stop(runtime);
    if (pyloop_runtime_join(runtime) < 0) {
        fail("the runtime failed");
    }
    return sample;
}

static int
compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void
print(const char *what, double *ratios, int count)
{
    qsort(ratios, (size_t)count, sizeof(ratios[0]), compare);
    printf("%s, stealing on / off: %.3f [%.3f-%.3f]\n", what, ratios[count / 2], ratios[count / 4],
           ratios[count - 1 - count / 4]);
}

int
main(int argc, char **argv)
{
    static double wall[PAIRS_MAX], cpu[PAIRS_MAX];
    int pairs = argc > 1 ? atoi(argv[1]) : PAIRS;
    if (pairs < 1 || pairs > PAIRS_MAX) {
        fail("usage: steal [PAIRS]");
    }
    sem_init(&batch.has_ended, 0, 0);
    (void)run(0);
    for (int i = 0; i < pairs; i++) {
        struct sample on, off;
        if (i % 2 == 0) { /* either goes first half of the time */
            on = run(0);
            off = run(-1);
        } else {
            off = run(-1);
            on = run(0);
        }
        wall[i] = on.wall_ns / off.wall_ns;
        cpu[i] = on.cpu_ns / off.cpu_ns;
    }
    printf("%d pairs of %d tasks with %d steps\n", pairs, TASKS, STEPS);
    print("wall", wall, pairs);
    print("CPU", cpu, pairs);
    return 0;
}
