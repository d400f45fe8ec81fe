/*
 * stress_fair.c - 100,000 strands that are always ready circulate on one worker while a task on the
 * same worker echoes over a socket. I/O is looked at all the time, and its work waits its turn in
 * the queue like any other: an answer takes about one round of the queue, not more than three.
 */
#include "stress.h"

#include "base/alloc.h"
#include "io/task.h"

#include <fcntl.h>
#include <semaphore.h>
#include <sys/socket.h>

enum { STRANDS = PYL_TSAN ? 10000 : 100000, EXCHANGES = 10 };

static struct pyl_runtime runtime;
static _Atomic uint64_t jobs_run;
static _Atomic bool is_ending;
static sem_t ended;

struct circling {
    struct pyl_strand strand;
    struct pyl_job job;
};

static void
run_circling(struct pyl_job *job)
{
    struct circling *circling = PYL_CONTAINER_OF(job, struct circling, job);
    uint64_t count = atomic_load_explicit(&jobs_run, memory_order_relaxed);
    atomic_store_explicit(&jobs_run, count + 1, memory_order_relaxed);
    if (atomic_load_explicit(&is_ending, memory_order_relaxed)) {
        pyl_strand_end(&circling->strand);
    } else {
        /* From outside the strand, as another strand would: it goes to the end of the queue. */
        pyl_lane_current()->current = NULL;
        pyl_strand_post(&circling->strand, job);
    }
}

static void
on_ended(struct pyl_strand *strand)
{
}

static const struct pyl_strand_ops circling_ops = {NULL, on_ended};

/* ---- the two tasks ---- */

struct talker {
    struct pyl_task task;
    int fd;
    char byte;
    int exchanges;       /* of the one that asks */
    uint64_t asked_jobs; /* jobs_run when it asked */
    uint64_t most_jobs;
};

static struct talker asking;
static struct talker answering;

static uint64_t
jobs_now(void)
{
    return atomic_load_explicit(&jobs_run, memory_order_relaxed);
}

static void on_question(struct pyl_task *task, int64_t result);
static void ask(struct pyl_task *task, int64_t result);

static void
await_question(struct pyl_task *task, int64_t result)
{
    pyl_task_receive(task, answering.fd, &answering.byte, 1, on_question);
}

static void
on_question(struct pyl_task *task, int64_t result)
{
    if (result == 1) {
        pyl_task_send(task, answering.fd, &answering.byte, 1, await_question);
    } else {
        pyl_task_close(task, answering.fd);
    }
}

static void
on_answer(struct pyl_task *task, int64_t result)
{
    STRESS_CHECK(result == 1);
    uint64_t jobs = jobs_now() - asking.asked_jobs;
    asking.most_jobs = jobs > asking.most_jobs ? jobs : asking.most_jobs;
    ask(task, 0);
}

static void
await_answer(struct pyl_task *task, int64_t result)
{
    pyl_task_receive(task, asking.fd, &asking.byte, 1, on_answer);
}

static void
ask(struct pyl_task *task, int64_t result)
{
    if (asking.exchanges++ == EXCHANGES) {
        pyl_task_close(task, asking.fd);
        return;
    }
    asking.asked_jobs = jobs_now();
    pyl_task_send(task, asking.fd, "x", 1, await_answer);
}

static void
release(struct pyl_task *task)
{
    STRESS_CHECK(sem_post(&ended) == 0);
}

static void
await_ended(void)
{
    while (sem_wait(&ended) < 0) {
    }
}

/* Both tasks come through the injector, from which a busy worker takes its share. */
static void
talk(void)
{
    int fds[2];
    STRESS_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    STRESS_CHECK(fcntl(fds[0], F_SETFL, O_NONBLOCK) == 0);
    STRESS_CHECK(fcntl(fds[1], F_SETFL, O_NONBLOCK) == 0);
    asking.fd = fds[0];
    answering.fd = fds[1];
    pyl_task_init(&asking.task, release);
    pyl_task_init(&answering.task, release);
    STRESS_CHECK(pyl_task_spawn(&runtime, &answering.task, await_question) == 0);
    STRESS_CHECK(pyl_task_spawn(&runtime, &asking.task, ask) == 0);
    await_ended();
    await_ended();
    printf("at most %llu jobs between question and answer, of %d ready ones\n",
           (unsigned long long)asking.most_jobs, STRANDS);
    STRESS_CHECK(asking.most_jobs <= 3 * (uint64_t)STRANDS);
}

int
main(void)
{
    struct pyl_runtime_options options = {.workers = 1};
    char cause[PYL_REACTOR_CAUSE_SIZE] = "";
    if (pyl_runtime_init(&runtime, &options, cause, sizeof(cause)) < 0) {
        fprintf(stderr, "SKIPPED: %s\n", cause);
        return 77;
    }
    STRESS_CHECK(sem_init(&ended, 0, 0) == 0);
    STRESS_CHECK(pyl_runtime_start(&runtime) == 0);
    struct circling *circling = pyl_alloc_array(STRANDS, sizeof(*circling));
    STRESS_CHECK(circling != NULL);
    for (int i = 0; i < STRANDS; i++) {
        circling[i].job = (struct pyl_job){.run = run_circling};
        pyl_strand_init(&circling[i].strand, &circling_ops);
        struct pyl_strand *strand = &circling[i].strand;
        STRESS_CHECK(pyl_runtime_spawn_on(&runtime, 0, strand, &circling[i].job) == 0);
    }
    talk();
    atomic_store(&is_ending, true);
    pyl_runtime_stop(&runtime);
    STRESS_CHECK(pyl_runtime_join(&runtime) == 0);
    pyl_runtime_fini(&runtime);
    pyl_free(circling);
    return 0;
}
