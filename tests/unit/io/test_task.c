/*
 * test_task.c - native tasks on two real workers: every wait, cancellation, messages, the end.
 * Covers task_socket.c, task_wait.c and pidfd.c.
 */
#include "io/task.h"

#include "base/clock.h"
#include "io/sockaddr.h"
#include "support/read_all.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { BIG = 1 << 20, RESULTS = 8 };

/* A task with what the tests' steps need. */
struct probe {
    struct pyl_task task;
    int fd;
    int64_t results[RESULTS];
    int count;
    int64_t number; /* an argument of the test */
    char buffer[64];
    uint8_t *big;
    struct pyl_sockaddr address;
    struct probe *peer;
};

static struct pyl_runtime runtime;
static sem_t released;
static struct probe probe;
static struct probe other;

static void
release(struct pyl_task *task)
{
    sem_post(&released);
}

static void
start_runtime(void)
{
    struct pyl_runtime_options options = {.workers = 2};
    char cause[PYL_REACTOR_CAUSE_SIZE] = "";
    if (pyl_runtime_init(&runtime, &options, cause, sizeof(cause)) < 0) {
        fprintf(stderr, "SKIPPED: this backend is not available: %s\n", cause);
        cr_skip_test("%s", cause);
    }
    cr_assert_eq(pyl_runtime_start(&runtime), 0);
    cr_assert_eq(sem_init(&released, 0, 0), 0);
    memset(&probe, 0, sizeof(probe));
    memset(&other, 0, sizeof(other));
    pyl_task_init(&probe.task, release);
    pyl_task_init(&other.task, release);
}

static void
end_runtime(void)
{
    pyl_runtime_stop(&runtime);
    cr_assert_eq(pyl_runtime_join(&runtime), 0);
    pyl_runtime_fini(&runtime);
}

TestSuite(task, .init = start_runtime, .fini = end_runtime, .timeout = 30);

static void
await_release(void)
{
    while (sem_wait(&released) < 0) {
    }
}

static void
run_alone(pyl_task_fn *first)
{
    cr_assert_eq(pyl_task_spawn(&runtime, &probe.task, first), 0);
    await_release();
}

static struct probe *
note(struct pyl_task *task, int64_t result)
{
    struct probe *noted = PYL_CONTAINER_OF(task, struct probe, task);
    cr_assert_lt(noted->count, RESULTS);
    noted->results[noted->count++] = result;
    return noted;
}

/* A last step: begins nothing. */
static void
finish(struct pyl_task *task, int64_t result)
{
    (void)note(task, result);
}

/* Goal: a task whose first step waits for nothing ends, with its memory given back once. */
Test(task, step_without_wait_ends)
{
    run_alone(finish);
    cr_assert_eq(probe.count, 1);
    cr_assert_eq(probe.results[0], 0);
}

static void
sleep_then_yield(struct pyl_task *task, int64_t result)
{
    struct probe *self = note(task, result);
    self->number = pyl_clock_now_ns() - self->number;
    pyl_task_yield(task, finish);
}

static void
sleep_first(struct pyl_task *task, int64_t result)
{
    PYL_CONTAINER_OF(task, struct probe, task)->number = pyl_clock_now_ns();
    pyl_task_sleep(task, 5 * PYL_NS_PER_MS, sleep_then_yield);
}

/* Goal: a sleep is never too short; after a yield the task goes on. */
Test(task, sleep_and_yield)
{
    run_alone(sleep_first);
    cr_assert_geq(probe.number, 5 * PYL_NS_PER_MS);
    cr_assert_eq(probe.count, 2);
    cr_assert_eq(probe.results[1], 0);
}

/* ---- sockets ---- */

static void echo_received(struct pyl_task *task, int64_t result);

static void
echo_sent(struct pyl_task *task, int64_t result)
{
    struct probe *self = PYL_CONTAINER_OF(task, struct probe, task);
    cr_assert_gt(result, 0);
    pyl_task_receive(task, self->fd, self->buffer, sizeof(self->buffer), echo_received);
}

static void
echo_received(struct pyl_task *task, int64_t result)
{
    struct probe *self = PYL_CONTAINER_OF(task, struct probe, task);
    if (result > 0) {
        pyl_task_send(task, self->fd, self->buffer, (size_t)result, echo_sent);
    } else {
        pyl_task_close(task, self->fd);
        (void)note(task, result);
    }
}

static void
echo_start(struct pyl_task *task, int64_t result)
{
    echo_sent(task, 1);
}

static void
open_pair(int fds[2])
{
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    cr_assert_eq(fcntl(fds[0], F_SETFL, O_NONBLOCK), 0);
}

/* Goal: bytes come back as they were sent, the end is told as 0. */
Test(task, receive_and_send)
{
    int fds[2];
    open_pair(fds);
    probe.fd = fds[0];
    cr_assert_eq(pyl_task_spawn(&runtime, &probe.task, echo_start), 0);
    for (int i = 0; i < 20; i++) {
        char text[16];
        char answer[16];
        int size = snprintf(text, sizeof(text), "message %d", i);
        cr_assert_eq(write(fds[1], text, (size_t)size), size);
        cr_assert_eq(read_all(fds[1], answer, (size_t)size), (size_t)size);
        cr_assert_eq(memcmp(text, answer, (size_t)size), 0);
    }
    close(fds[1]);
    await_release();
    cr_assert_eq(probe.results[0], 0);
}

static void
send_big(struct pyl_task *task, int64_t result)
{
    struct probe *self = PYL_CONTAINER_OF(task, struct probe, task);
    pyl_task_send(task, self->fd, self->big, BIG, finish);
}

/* Goal: a send that the socket cannot take at once is completed as the reader makes room. */
Test(task, big_send_is_complete)
{
    int fds[2];
    open_pair(fds);
    probe.fd = fds[0];
    probe.big = malloc(BIG);
    uint8_t *read_back = malloc(BIG);
    for (int i = 0; i < BIG; i++) {
        probe.big[i] = (uint8_t)(i * 7 >> 3);
    }
    cr_assert_eq(pyl_task_spawn(&runtime, &probe.task, send_big), 0);
    cr_assert_eq(read_all(fds[1], read_back, BIG), BIG);
    await_release();
    cr_assert_eq(probe.results[0], BIG);
    cr_assert_eq(memcmp(probe.big, read_back, BIG), 0);
    close(fds[0]);
    close(fds[1]);
    free(probe.big);
    free(read_back);
}

/* Goal: what fails at once is a result like any other. */
Test(task, send_to_closed_peer_fails)
{
    int fds[2];
    open_pair(fds);
    close(fds[1]);
    probe.fd = fds[0];
    probe.big = calloc(1, BIG);
    run_alone(send_big);
    cr_assert_eq(probe.results[0], -EPIPE);
    close(fds[0]);
    free(probe.big);
}

static void
accepted(struct pyl_task *task, int64_t result)
{
    struct probe *self = note(task, result);
    cr_assert_geq(result, 0);
    self->fd = (int)result;
    echo_sent(task, 1);
}

static void
accept_first(struct pyl_task *task, int64_t result)
{
    pyl_task_accept(task, (int)PYL_CONTAINER_OF(task, struct probe, task)->number, accepted);
}

static void
answered(struct pyl_task *task, int64_t result)
{
    struct probe *self = note(task, result);
    pyl_task_close(task, self->fd);
}

static void
asked(struct pyl_task *task, int64_t result)
{
    struct probe *self = note(task, result);
    memset(self->buffer, 0, sizeof(self->buffer));
    pyl_task_receive(task, self->fd, self->buffer, sizeof(self->buffer), answered);
}

static void
connected(struct pyl_task *task, int64_t result)
{
    struct probe *self = note(task, result);
    memcpy(self->buffer, "hello", 5);
    pyl_task_send(task, self->fd, self->buffer, 5, asked);
}

static void
connect_first(struct pyl_task *task, int64_t result)
{
    struct probe *self = PYL_CONTAINER_OF(task, struct probe, task);
    self->fd = pyl_socket_open(AF_INET, SOCK_STREAM, 0);
    pyl_task_connect(task, self->fd, &self->address, 0, connected);
}

/* Goal: a task accepts, on another worker one connects, and they talk. */
Test(task, accept_and_connect)
{
    struct pyl_socket_listen_options options = {.backlog = 1};
    struct pyl_sockaddr address;
    cr_assert_eq(pyl_sockaddr_parse(&address, "127.0.0.1", 0), 0);
    int listen_fd = pyl_socket_listen(&address, &options);
    cr_assert_geq(listen_fd, 0);
    cr_assert_eq(pyl_socket_local_address(listen_fd, &other.address), 0);
    probe.number = listen_fd;
    cr_assert_eq(pyl_task_spawn_on(&runtime, 0, &probe.task, accept_first), 0);
    cr_assert_eq(pyl_task_spawn_on(&runtime, 1, &other.task, connect_first), 0);
    await_release();
    await_release();
    cr_assert_eq(other.results[0], 0);
    cr_assert_eq(other.results[1], 5);
    cr_assert_eq(other.results[2], 5);
    cr_assert_eq(memcmp(other.buffer, "hello", 5), 0);
    cr_assert_eq(probe.results[1], 0, "the end of the stream");
    close(listen_fd);
}

/* ---- processes, calls, files ---- */

static void
wait_process(struct pyl_task *task, int64_t result)
{
    pid_t pid = (pid_t)PYL_CONTAINER_OF(task, struct probe, task)->number;
    pyl_task_wait_process(task, pid, finish);
}

/* Goal: the status of a child that ends while it is waited for; somebody else's process is refused.
 */
Test(task, process_status_is_told)
{
    int gate[2];
    cr_assert_eq(pipe(gate), 0);
    pid_t pid = fork();
    if (pid == 0) {
        char byte;
        close(gate[1]);
        _exit(read(gate[0], &byte, 1) == 0 ? 3 : 4);
    }
    probe.number = pid;
    cr_assert_eq(pyl_task_spawn(&runtime, &probe.task, wait_process), 0);
    close(gate[0]);
    close(gate[1]);
    await_release();
    cr_assert(WIFEXITED((int)probe.results[0]));
    cr_assert_eq(WEXITSTATUS((int)probe.results[0]), 3);
    other.number = getppid();
    cr_assert_eq(pyl_task_spawn(&runtime, &other.task, wait_process), 0);
    await_release();
    cr_assert_eq(other.results[0], -ECHILD);
}

static int64_t
add_one(void *argument)
{
    return *(int64_t *)argument + 1;
}

static void
call_first(struct pyl_task *task, int64_t result)
{
    struct probe *self = PYL_CONTAINER_OF(task, struct probe, task);
    pyl_task_call(task, add_one, &self->number, finish);
}

/* Goal: the result of a blocking call. */
Test(task, call_result_is_told)
{
    probe.number = 41;
    run_alone(call_first);
    cr_assert_eq(probe.results[0], 42);
}

static void
file_written(struct pyl_task *task, int64_t result)
{
    struct probe *self = note(task, result);
    memset(self->buffer, 0, sizeof(self->buffer));
    pyl_task_read_file(task, self->fd, self->buffer, sizeof(self->buffer), 3, finish);
}

static void
file_first(struct pyl_task *task, int64_t result)
{
    struct probe *self = PYL_CONTAINER_OF(task, struct probe, task);
    memcpy(self->buffer, "abc", 3);
    pyl_task_write_file(task, self->fd, self->buffer, 3, 4, file_written);
}

/* Goal: a file is written and read at offsets. */
Test(task, file_round_trip)
{
    FILE *file = tmpfile();
    cr_assert_not_null(file);
    probe.fd = fileno(file);
    run_alone(file_first);
    cr_assert_eq(probe.results[0], 3);
    cr_assert_eq(probe.results[1], 4);
    cr_assert_eq(memcmp(probe.buffer, "\0abc", 4), 0);
    fclose(file);
}

/* ---- cancellation ---- */

static void
receive_first(struct pyl_task *task, int64_t result)
{
    struct probe *self = PYL_CONTAINER_OF(task, struct probe, task);
    pyl_task_receive(task, self->fd, self->buffer, sizeof(self->buffer), finish);
}

static void
sleep_for_ever(struct pyl_task *task, int64_t result)
{
    pyl_task_sleep(task, PYL_NEVER_NS, finish);
}

static void
message_first(struct pyl_task *task, int64_t result)
{
    pyl_task_wait_message(task, finish);
}

static void
expect_cancelled(pyl_task_fn *first)
{
    cr_assert_eq(pyl_task_spawn(&runtime, &probe.task, first), 0);
    pyl_task_cancel(&probe.task);
    pyl_task_cancel(&probe.task);
    await_release();
    cr_assert_eq(probe.count, 1);
    cr_assert_eq(probe.results[0], -ECANCELED);
}

/* Goal: each kind of wait ends early. */
Test(task, receive_is_cancelled)
{
    int fds[2];
    open_pair(fds);
    probe.fd = fds[0];
    expect_cancelled(receive_first);
    close(fds[0]);
    close(fds[1]);
}

Test(task, sleep_is_cancelled)
{
    expect_cancelled(sleep_for_ever);
}

Test(task, wait_for_message_is_cancelled)
{
    expect_cancelled(message_first);
}

static void
try_again(struct pyl_task *task, int64_t result)
{
    (void)note(task, result);
    pyl_task_sleep(task, PYL_NEVER_NS, finish);
}

static void
sleep_twice(struct pyl_task *task, int64_t result)
{
    pyl_task_sleep(task, PYL_NEVER_NS, try_again);
}

/* Goal: a cancelled task cannot wait any more. */
Test(task, later_waits_are_cancelled)
{
    cr_assert_eq(pyl_task_spawn(&runtime, &probe.task, sleep_twice), 0);
    pyl_task_cancel(&probe.task);
    await_release();
    cr_assert_eq(probe.count, 2);
    cr_assert_eq(probe.results[1], -ECANCELED);
}

/* Goal: the end of the runtime cancels what waits; nothing else would end these. */
Test(task, end_of_runtime_cancels)
{
    cr_assert_eq(pyl_task_spawn_on(&runtime, 0, &probe.task, sleep_for_ever), 0);
    cr_assert_eq(pyl_task_spawn_on(&runtime, 1, &other.task, message_first), 0);
    pyl_runtime_stop(&runtime);
    await_release();
    await_release();
    cr_assert_eq(probe.results[0], -ECANCELED);
    cr_assert_eq(other.results[0], -ECANCELED);
}

/* ---- messages ---- */

enum { MESSAGES = 3 };

static struct pyl_message messages[MESSAGES + 1];
static _Atomic int dropped;

static void
count_dropped(struct pyl_message *message)
{
    atomic_fetch_add(&dropped, 1);
}

static void
take_all(struct pyl_task *task, int64_t result)
{
    struct probe *self = PYL_CONTAINER_OF(task, struct probe, task);
    struct pyl_message *message;
    while ((message = pyl_task_take_message(task)) != NULL) {
        self->results[self->count++] = message - messages;
    }
    if (self->count < MESSAGES) {
        pyl_task_wait_message(task, take_all);
    }
}

static void
post_all(struct pyl_task *task, int64_t result)
{
    struct probe *self = PYL_CONTAINER_OF(task, struct probe, task);
    for (int i = 0; i < MESSAGES; i++) {
        pyl_task_post(&self->peer->task, &messages[i]);
    }
}

/* Goal: messages arrive in order; one that comes after the end is dropped with the last reference.
 */
Test(task, messages_arrive_in_order)
{
    messages[MESSAGES].on_dropped = count_dropped;
    probe.peer = &other;
    pyl_task_ref(&other.task);
    cr_assert_eq(pyl_task_spawn_on(&runtime, 1, &other.task, take_all), 0);
    cr_assert_eq(pyl_task_spawn_on(&runtime, 0, &probe.task, post_all), 0);
    await_release(); /* the sender; of the other one a reference is left */
    pyl_runtime_stop(&runtime);
    cr_assert_eq(pyl_runtime_join(&runtime), 0);
    cr_assert_eq(other.count, MESSAGES);
    for (int i = 0; i < MESSAGES; i++) {
        cr_assert_eq(other.results[i], i);
    }
    pyl_task_post(&other.task, &messages[MESSAGES]);
    cr_assert_eq(atomic_load(&dropped), 0);
    pyl_task_unref(&other.task);
    await_release();
    cr_assert_eq(atomic_load(&dropped), 1);
}

/* ---- outside ---- */

static sem_t waits;
static sem_t told;

static void
await(sem_t *event)
{
    while (sem_wait(event) < 0) {
    }
}

static void
leave_wait(struct pyl_task *task)
{
    PYL_CONTAINER_OF(task, struct probe, task)->number++;
    sem_post(&told);
}

static void
leave_and_end_wait(struct pyl_task *task)
{
    leave_wait(task);
    pyl_task_complete(task, -ECANCELED);
}

static void
wait_outside(struct pyl_task *task, int64_t result)
{
    struct probe *self = note(task, result);
    bool is_waiting = pyl_task_wait_outside(
        task, self->peer == NULL ? leave_wait : leave_and_end_wait, self, finish);
    cr_assert(is_waiting);
    cr_assert_eq(task->waiting.outside.user, self);
    sem_post(&waits);
}

static void
start_wait_outside(void)
{
    cr_assert_eq(sem_init(&waits, 0, 0), 0);
    cr_assert_eq(sem_init(&told, 0, 0), 0);
    pyl_task_ref(&probe.task);
    cr_assert_eq(pyl_task_spawn_on(&runtime, 0, &probe.task, wait_outside), 0);
    await(&waits);
}

/* Goal: another thread ends the wait, also after a cancellation that did not. */
Test(task, wait_is_ended_from_outside)
{
    start_wait_outside();
    pyl_task_cancel(&probe.task);
    pyl_task_end_wait(&probe.task, 42);
    pyl_task_unref(&probe.task);
    await_release();
    cr_assert_eq(probe.count, 2);
    cr_assert_eq(probe.results[1], 42);
    cr_assert_eq(probe.number, 1);
}

/* Goal: what is told of the cancellation may end the wait itself. */
Test(task, wait_for_outside_is_cancelled)
{
    probe.peer = &other;
    start_wait_outside();
    pyl_task_cancel(&probe.task);
    pyl_task_unref(&probe.task);
    await_release();
    cr_assert_eq(probe.number, 1);
    cr_assert_eq(probe.results[1], -ECANCELED);
}

static void
wait_for_nobody(struct pyl_task *task, int64_t result)
{
    pyl_task_wait_message(task, finish);
    sem_post(&waits);
}

/* Goal: one that was told of its cancellation is not told again when the runtime ends. */
Test(task, wait_for_outside_is_told_once)
{
    start_wait_outside();
    cr_assert_eq(pyl_task_spawn_on(&runtime, 0, &other.task, wait_for_nobody), 0);
    await(&waits);
    pyl_task_cancel(&probe.task);
    await(&told);
    pyl_runtime_stop(&runtime);
    await_release(); /* of the other one: their worker has told both of the end */
    cr_assert_eq(other.results[0], -ECANCELED);
    pyl_task_end_wait(&probe.task, 42);
    pyl_task_unref(&probe.task);
    await_release();
    cr_assert_eq(probe.number, 1);
    cr_assert_eq(probe.results[1], 42);
}
