/*
 * test_api.c - the C interface: options, tasks and their ends, waits, messages, timers, the TCP
 * server.
 */
#include <pyloop/tcp.h>

#include "support/read_all.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct pyloop_runtime *runtime;
static sem_t done;
static int64_t result_seen;
static _Atomic int ends;

static void
start(void)
{
    struct pyloop_runtime_options options = {.struct_size = sizeof(options), .workers = 2};
    char cause[PYLOOP_CAUSE_SIZE] = "";
    int rc = pyloop_runtime_start(&options, &runtime, cause, sizeof(cause));
    if (rc < 0) {
        cr_skip_test("%s", cause);
    }
    cr_assert_eq(sem_init(&done, 0, 0), 0);
}

static void
end(void)
{
    pyloop_runtime_stop(runtime);
    cr_assert_eq(pyloop_runtime_join(runtime), 0);
}

TestSuite(api, .init = start, .fini = end, .timeout = 30);

static void
await_done(void)
{
    while (sem_wait(&done) < 0) {
    }
}

static int64_t
now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void
finish(struct pyloop_task *task, void *state, int64_t result)
{
    result_seen = result;
}

static void
count_end(void *state)
{
    ends++;
    sem_post(&done);
}

static void
wait_for_ever(struct pyloop_task *task, void *state, int64_t result)
{
    pyloop_wait_message(task, finish);
}

/* Goal: bad options are refused. */
Test(api, bad_options)
{
    struct pyloop_runtime *none = NULL;
    struct pyloop_runtime_options options = {0};
    cr_assert_eq(pyloop_runtime_start(&options, &none, NULL, 0), -EINVAL, "no struct_size");
    options.struct_size = sizeof(options);
    options.workers = 65;
    cr_assert_eq(pyloop_runtime_start(&options, &none, NULL, 0), -EINVAL);
    char cause[PYLOOP_CAUSE_SIZE] = "";
    options.workers = 1;
    options.backend = "steam";
    cr_assert_eq(pyloop_runtime_start(&options, &none, cause, sizeof(cause)), -EINVAL);
    cr_assert_not_null(strstr(cause, "steam"));
    cr_assert_null(none);
}

/* Goal: a newer caller is served as long as it asks for nothing that this library does not know. */
Test(api, structs_of_newer_callers)
{
    struct {
        struct pyloop_runtime_options known;
        uint64_t later;
    } options = {.known = {.struct_size = sizeof(options), .workers = 1}};
    struct pyloop_runtime *other = NULL;
    cr_assert_eq(pyloop_runtime_start(&options.known, &other, NULL, 0), 0);
    pyloop_runtime_stop(other);
    cr_assert_eq(pyloop_runtime_join(other), 0);
    options.later = 1;
    cr_assert_eq(pyloop_runtime_start(&options.known, &other, NULL, 0), -EINVAL);

    struct {
        struct pyloop_worker_stats known;
        uint64_t later;
    } stats = {.later = 1};
    cr_assert_eq(pyloop_runtime_get_stats(runtime, 0, &stats.known, sizeof(stats)), 0);
    cr_assert_eq(stats.later, 0);
    size_t small = sizeof(stats.known) - 1;
    cr_assert_eq(pyloop_runtime_get_stats(runtime, 0, &stats.known, small), -EINVAL);
}

/* Goal: counters can be read of each worker and of no other. */
Test(api, stats)
{
    struct pyloop_worker_stats stats;
    cr_assert_eq(pyloop_runtime_workers(runtime), 2);
    cr_assert_eq(pyloop_spawn(runtime, finish, NULL, count_end, NULL), 0);
    await_done();
    uint64_t activations = 0;
    for (uint32_t i = 0; i < 2; i++) {
        cr_assert_eq(pyloop_runtime_get_stats(runtime, i, &stats, sizeof(stats)), 0);
        activations += stats.activations;
    }
    cr_assert_eq(activations, 1);
    cr_assert_eq(pyloop_runtime_get_stats(runtime, 2, &stats, sizeof(stats)), -EINVAL);
}

/* Goal: a task is cancelled by its reference, which stays valid after the runtime. */
Test(api, task_is_cancelled)
{
    struct pyloop_task *task;
    result_seen = 1;
    cr_assert_eq(pyloop_spawn(runtime, wait_for_ever, NULL, count_end, &task), 0);
    pyloop_task_cancel(task);
    await_done();
    cr_assert_eq(result_seen, -ECANCELED);
    end();
    pyloop_task_cancel(task);
    pyloop_task_unref(task);
    start();
}

/* Goal: the end of the runtime cancels and counts; nothing is spawned from outside after that. */
Test(api, stop_ends_tasks)
{
    for (int i = 0; i < 10; i++) {
        cr_assert_eq(pyloop_spawn(runtime, wait_for_ever, NULL, count_end, NULL), 0);
    }
    pyloop_runtime_stop(runtime);
    cr_assert_eq(pyloop_spawn(runtime, finish, NULL, count_end, NULL), -ECANCELED);
    for (int i = 0; i < 10; i++) {
        await_done();
    }
    cr_assert_eq(ends, 10);
}

/* ---- waits ---- */

static void
run_task(pyloop_step *first, void *state)
{
    result_seen = INT64_MIN;
    cr_assert_eq(pyloop_spawn(runtime, first, state, count_end, NULL), 0);
    await_done();
}

static void
wait_process_first(struct pyloop_task *task, void *state, int64_t result)
{
    pyloop_wait_process(task, *(pid_t *)state, finish);
}

/* Goal: the end of a child is told and the child is taken; what is no child is refused. */
Test(api, wait_process)
{
    pid_t child = fork();
    cr_assert_geq(child, 0);
    if (child == 0) {
        _exit(7);
    }
    run_task(wait_process_first, &child);
    cr_assert_geq(result_seen, 0);
    cr_assert(WIFEXITED((int)result_seen));
    cr_assert_eq(WEXITSTATUS((int)result_seen), 7);
    cr_assert_eq(waitpid(child, NULL, WNOHANG), -1);
    run_task(wait_process_first, &child);
    cr_assert_eq(result_seen, -ECHILD);
}

struct blocking_call {
    int fd;
    pthread_t thread;
    pthread_t worker;
};

static int64_t
read_byte(void *argument)
{
    struct blocking_call *call = argument;
    char byte;
    call->thread = pthread_self();
    return read(call->fd, &byte, 1) == 1 ? byte : -errno;
}

static void
call_first(struct pyloop_task *task, void *state, int64_t result)
{
    struct blocking_call *call = state;
    call->worker = pthread_self();
    pyloop_call(task, read_byte, call, finish);
}

/* Goal: a call that blocks runs on a thread that is no worker, and its value is the result. */
Test(api, call_may_block)
{
    int ends_of_pipe[2];
    cr_assert_eq(pipe(ends_of_pipe), 0);
    struct blocking_call call = {.fd = ends_of_pipe[0]};
    cr_assert_eq(pyloop_spawn(runtime, call_first, &call, count_end, NULL), 0);
    for (int i = 0; i < 4; i++) { /* the workers are free meanwhile */
        run_task(finish, NULL);
    }
    cr_assert_eq(write(ends_of_pipe[1], "z", 1), 1);
    await_done();
    cr_assert_eq(result_seen, 'z');
    cr_assert_not(pthread_equal(call.thread, call.worker));
    cr_assert_not(pthread_equal(call.thread, pthread_self()));
    close(ends_of_pipe[0]);
    run_task(call_first, &call);
    cr_assert_eq(result_seen, -EBADF);
    close(ends_of_pipe[1]);
}

struct file {
    int fd;
    char text[16];
    int64_t written;
    int64_t read;
};

static void
file_read_again(struct pyloop_task *task, void *state, int64_t result)
{
    struct file *file = state;
    file->read = result;
    pyloop_read_file(task, file->fd, file->text, sizeof(file->text), 100, finish);
}

static void
file_written(struct pyloop_task *task, void *state, int64_t result)
{
    struct file *file = state;
    file->written = result;
    pyloop_read_file(task, file->fd, file->text, sizeof(file->text), 5, file_read_again);
}

static void
file_first(struct pyloop_task *task, void *state, int64_t result)
{
    struct file *file = state;
    pyloop_write_file(task, file->fd, "hello", 5, 7, file_written);
}

/* Goal: files are written and read at offsets; the end of the file is 0, an error its errno. */
Test(api, files)
{
    char path[] = "/tmp/pyloop-api-XXXXXX";
    struct file file = {.fd = mkstemp(path)};
    cr_assert_geq(file.fd, 0);
    cr_assert_eq(unlink(path), 0);
    run_task(file_first, &file);
    cr_assert_eq(file.written, 5);
    cr_assert_eq(file.read, 7, "two bytes that nobody wrote, then the text");
    cr_assert_eq(memcmp(file.text, "\0\0hello", 7), 0);
    cr_assert_eq(result_seen, 0);
    cr_assert_eq(lseek(file.fd, 0, SEEK_CUR), 0, "the descriptor's own offset is not used");
    close(file.fd);
    run_task(file_first, &file);
    cr_assert_eq(file.written, -EBADF);
    cr_assert_eq(result_seen, -EBADF);
}

struct accepting {
    int fd;
    int64_t accepted[2];
    int count;
};

static void
accept_end(struct pyloop_task *task, void *state, int64_t result)
{
    pyloop_close(task, ((struct accepting *)state)->fd);
    finish(task, state, result);
}

static void
accepted(struct pyloop_task *task, void *state, int64_t result)
{
    struct accepting *accepting = state;
    accepting->accepted[accepting->count++] = result;
    pyloop_accept(task, accepting->fd, accepting->count < 2 ? accepted : accept_end);
    sem_post(&done);
}

static void
accept_first(struct pyloop_task *task, void *state, int64_t result)
{
    pyloop_accept(task, ((struct accepting *)state)->fd, accepted);
}

static int
connect_to(const struct sockaddr_in *address)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    cr_assert_eq(connect(fd, (const struct sockaddr *)address, sizeof(*address)), 0);
    return fd;
}

static int
listen_anywhere(struct sockaddr_in *ret_address)
{
    *ret_address = (struct sockaddr_in){
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    socklen_t size = sizeof(*ret_address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    cr_assert_eq(bind(fd, (struct sockaddr *)ret_address, size), 0);
    cr_assert_eq(listen(fd, 8), 0);
    cr_assert_eq(getsockname(fd, (struct sockaddr *)ret_address, &size), 0);
    return fd;
}

/* Goal: a task takes connections one by one, non-blocking and close-on-exec, until cancelled. */
Test(api, accept)
{
    struct sockaddr_in address;
    struct accepting accepting = {.fd = listen_anywhere(&address)};
    struct pyloop_task *task;
    int clients[2] = {connect_to(&address)};
    cr_assert_eq(pyloop_spawn(runtime, accept_first, &accepting, count_end, &task), 0);
    await_done();
    clients[1] = connect_to(&address);
    await_done();
    for (int i = 0; i < 2; i++) {
        int fd = (int)accepting.accepted[i];
        char byte = 0;
        cr_assert_geq(fd, 0);
        cr_assert(fcntl(fd, F_GETFL) & O_NONBLOCK);
        cr_assert(fcntl(fd, F_GETFD) & FD_CLOEXEC);
        cr_assert_eq(send(fd, &"xy"[i], 1, 0), 1);
        cr_assert_eq(recv(clients[i], &byte, 1, 0), 1);
        cr_assert_eq(byte, "xy"[i]);
        close(fd);
        close(clients[i]);
    }
    pyloop_task_cancel(task);
    await_done();
    cr_assert_eq(result_seen, -ECANCELED);
    pyloop_task_unref(task);
}

/* ---- messages ---- */

static int numbers[3];
static int *taken[3];
static int taken_count;
static int dropped_count;

static void
take_numbers(struct pyloop_task *task, void *state, int64_t result)
{
    void *message;
    while (taken_count < 2 && pyloop_take_message(task, &message)) {
        taken[taken_count++] = message;
    }
    if (taken_count < 2) {
        pyloop_wait_message(task, take_numbers);
    }
}

static void
drop_number(void *message)
{
    cr_assert_eq(message, &numbers[2]);
    dropped_count++;
}

/* Goal: messages arrive in order; what is not taken is dropped, once. */
Test(api, messages)
{
    struct pyloop_task *task;
    cr_assert_eq(pyloop_spawn(runtime, take_numbers, NULL, count_end, &task), 0);
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(pyloop_post(task, &numbers[i], drop_number), 0);
    }
    await_done();
    cr_assert_eq(taken[0], &numbers[0]);
    cr_assert_eq(taken[1], &numbers[1]);
    end(); /* nobody else holds a reference now */
    pyloop_task_unref(task);
    cr_assert_eq(dropped_count, 1);
    start();
}

/* ---- timers ---- */

static int64_t fired_ns;

static void
fire(void *argument)
{
    fired_ns = now_ns();
    sem_post(&done);
}

/* Goal: a timer fires, not early; a stopped one does not. */
Test(api, timers)
{
    struct pyloop_timer *never;
    struct pyloop_timer *timer;
    int64_t begin_ns = now_ns();
    cr_assert_eq(pyloop_timer_start(runtime, INT64_MAX, fire, NULL, &never), 0);
    cr_assert_eq(pyloop_timer_start(runtime, 3000000, fire, NULL, &timer), 0);
    await_done();
    cr_assert_geq(fired_ns - begin_ns, 3000000);
    pyloop_timer_stop(timer);
    pyloop_timer_stop(never);
    end();
    cr_assert_neq(sem_trywait(&done), 0);
    start();
}

/* ---- the server ---- */

enum { CLIENTS = 8, TEXT_SIZE = 1000 };

struct connection {
    int fd;
    char buffer[256];
};

static struct connection connections[CLIENTS];
static int connection_count;
static _Atomic uint32_t workers_seen;

static void *
open_connection(void *user, int fd)
{
    cr_assert_eq(user, &numbers);
    if (connection_count == CLIENTS) {
        return NULL;
    }
    struct connection *connection = &connections[connection_count++];
    connection->fd = fd;
    return connection;
}

static void echo(struct pyloop_task *task, void *state, int64_t result);

static void
on_sent(struct pyloop_task *task, void *state, int64_t result)
{
    echo(task, state, result < 0 ? result : 0);
}

static void
on_received(struct pyloop_task *task, void *state, int64_t result)
{
    struct connection *connection = state;
    if (result <= 0) {
        pyloop_close(task, connection->fd);
        return;
    }
    pyloop_send(task, connection->fd, connection->buffer, (size_t)result, on_sent);
}

static void
echo(struct pyloop_task *task, void *state, int64_t result)
{
    struct connection *connection = state;
    workers_seen |= 1U << pyloop_task_worker(task);
    if (result < 0) {
        pyloop_close(task, connection->fd);
        return;
    }
    pyloop_receive(task, connection->fd, connection->buffer, sizeof(connection->buffer),
                   on_received);
}

static struct pyloop_server *
serve(void)
{
    struct pyloop_server_options options = {
        .struct_size = sizeof(options),
        .open = open_connection,
        .first = echo,
        .on_end = count_end,
        .user = &numbers,
    };
    struct pyloop_server *server = NULL;
    cr_assert_eq(pyloop_tcp_serve(runtime, &options, &server), 0);
    cr_assert_neq(pyloop_server_port(server), 0);
    return server;
}

static struct sockaddr_in
address_of(struct pyloop_server *server)
{
    return (struct sockaddr_in){
        .sin_family = AF_INET,
        .sin_port = htons(pyloop_server_port(server)),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
}

/* Goal: connections are spread over the workers, and each gets its own bytes back. */
Test(api, server_echoes_on_both_workers)
{
    struct pyloop_server *server = serve();
    struct sockaddr_in address = address_of(server);
    int fds[CLIENTS];
    char text[TEXT_SIZE];
    char answer[TEXT_SIZE];
    for (int i = 0; i < CLIENTS; i++) {
        fds[i] = connect_to(&address);
    }
    for (int i = 0; i < CLIENTS; i++) {
        memset(text, 'a' + i, sizeof(text));
        cr_assert_eq(send(fds[i], text, sizeof(text), 0), TEXT_SIZE);
        cr_assert_eq(read_all(fds[i], answer, sizeof(answer)), TEXT_SIZE);
        cr_assert_eq(memcmp(text, answer, sizeof(text)), 0);
    }
    cr_assert_eq(workers_seen, 3);
    for (int i = 0; i < CLIENTS; i++) {
        close(fds[i]);
        await_done();
    }
    int refused = connect_to(&address);
    cr_assert_eq(recv(refused, answer, 1, 0), 0, "open() returned NULL");
    close(refused);
    pyloop_server_close(server);
}

/* Goal: a task connects to a server of the same runtime; a bad server is refused. */
static void
on_connected(struct pyloop_task *task, void *state, int64_t result)
{
    result_seen = result;
    if (result >= 0) {
        pyloop_close(task, (int)result);
    }
}

static void
connect_first(struct pyloop_task *task, void *state, int64_t result)
{
    pyloop_connect(task, state, sizeof(struct sockaddr_in), 0, on_connected);
}

Test(api, connect_and_bad_server)
{
    struct pyloop_server *server = serve();
    struct sockaddr_in address = address_of(server);
    cr_assert_eq(pyloop_spawn(runtime, connect_first, &address, count_end, NULL), 0);
    await_done();
    await_done(); /* the server's side */
    cr_assert_geq(result_seen, 0);
    struct pyloop_server_options options = {
        .struct_size = sizeof(options),
        .open = open_connection,
        .first = echo,
        .host = "no address",
    };
    struct pyloop_server *none;
    cr_assert_eq(pyloop_tcp_serve(runtime, &options, &none), -EINVAL);
    options.host = NULL;
    options.struct_size = sizeof(options) - 1;
    cr_assert_eq(pyloop_tcp_serve(runtime, &options, &none), -EINVAL);
    options.struct_size = sizeof(options);
    options.first = NULL;
    cr_assert_eq(pyloop_tcp_serve(runtime, &options, &none), -EINVAL);
    pyloop_server_close(server);
}
