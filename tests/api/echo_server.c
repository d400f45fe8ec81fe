/*
 * echo_server.c - a C program without Python on the installed headers: echoes on N workers until
 * SIGTERM.
 *
 *   echo_server WORKERS        prints "PORT n", and at the end how many connections each worker
 * served
 */
#include <pyloop/tcp.h>

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WORKERS_MAX = 64, BUFFER_SIZE = 4096 };

struct connection {
    int fd;
    char buffer[BUFFER_SIZE];
};

static _Atomic uint32_t served[WORKERS_MAX];

static void receive_more(struct pyloop_task *task, void *state, int64_t result);

static void
send_back(struct pyloop_task *task, void *state, int64_t result)
{
    struct connection *connection = state;
    if (result <= 0) { /* the end, an error, or the server stops */
        pyloop_close(task, connection->fd);
        return;
    }
    pyloop_send(task, connection->fd, connection->buffer, (size_t)result, receive_more);
}

static void
receive_more(struct pyloop_task *task, void *state, int64_t result)
{
    struct connection *connection = state;
    if (result < 0) {
        pyloop_close(task, connection->fd);
        return;
    }
    pyloop_receive(task, connection->fd, connection->buffer, sizeof(connection->buffer), send_back);
}

static void
begin(struct pyloop_task *task, void *state, int64_t result)
{
    served[pyloop_task_worker(task)]++;
    receive_more(task, state, result);
}

static void *
open_connection(void *user, int fd)
{
    struct connection *connection = malloc(sizeof(*connection));
    if (connection != NULL) {
        connection->fd = fd;
    }
    return connection;
}

int
main(int argc, char **argv)
{
    struct pyloop_runtime_options options = {
        .struct_size = sizeof(options),
        .workers = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 0,
    };
    struct pyloop_server_options server_options = {
        .struct_size = sizeof(server_options),
        .open = open_connection,
        .first = begin,
        .on_end = free,
    };
    sigset_t ending;
    sigemptyset(&ending);
    sigaddset(&ending, SIGTERM);
    sigprocmask(SIG_BLOCK, &ending, NULL);

    struct pyloop_runtime *runtime;
    struct pyloop_server *server;
    char cause[PYLOOP_CAUSE_SIZE] = "";
    int rc = pyloop_runtime_start(&options, &runtime, cause, sizeof(cause));
    if (rc < 0) {
        fprintf(stderr, "cannot start: %s: %s\n", strerror(-rc), cause);
        return 1;
    }
    rc = pyloop_tcp_serve(runtime, &server_options, &server);
    if (rc < 0) {
        fprintf(stderr, "cannot serve: %s\n", strerror(-rc));
        return 1;
    }
    printf("PORT %u\n", pyloop_server_port(server));
    fflush(stdout);

    int signal_number;
    sigwait(&ending, &signal_number);
    pyloop_server_close(server);
    uint32_t workers = pyloop_runtime_workers(runtime);
    pyloop_runtime_stop(runtime);
    rc = pyloop_runtime_join(runtime);
    for (uint32_t i = 0; i < workers; i++) {
        printf("worker %" PRIu32 ": %" PRIu32 "\n", i, served[i]);
    }
    return rc < 0;
}
