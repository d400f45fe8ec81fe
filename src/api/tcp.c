/*
 * tcp.c - pyloop/tcp.h: a task that accepts, and one for each connection.
 * Tested by tests/api/test_api.c.
 */
#include "api/api.h"

#include "base/alloc.h"
#include "base/versioned.h"
#include "io/listener.h"

#include <errno.h>
#include <unistd.h>

enum {
    BACKLOG_DEFAULT = 1024,
    OPTIONS_SIZE_FIRST = PYL_SIZE_UP_TO(struct pyloop_server_options, user), /* of version 0.1 */
};

struct pyloop_server {
    struct pyl_task base;
    struct pyloop_runtime *runtime;
    struct pyloop_server_options options; /* `host` is not kept */
    int fd;
    uint16_t port;
    uint32_t placed; /* connections so far: where to begin to look for a worker */
};

static void accept_next(struct pyl_task *base, int64_t result);

static struct pyloop_server *
server_of(struct pyl_task *base)
{
    return PYL_CONTAINER_OF(base, struct pyloop_server, base);
}

/* The connection's task begins on the worker that has less; without memory it ends at once. */
static void
start_connection(struct pyloop_server *server, int fd)
{
    const struct pyloop_server_options *options = &server->options;
    struct pyl_runtime *runtime = &server->runtime->base;
    void *state = options->open(options->user, fd);
    if (state == NULL) {
        pyl_task_close(&server->base, fd);
        return;
    }
    struct pyloop_task *task =
        pyloop_task_new(server->runtime, options->first, state, options->on_end);
    uint32_t lane = pyl_runtime_lighter(runtime, server->placed++);
    if (task != NULL && pyl_task_spawn_on(runtime, lane, &task->base, pyloop_task_resume) == 0) {
        return;
    }
    if (task != NULL) {
        pyl_task_unref(&task->base);
    }
    pyl_task_close(&server->base, fd);
    if (options->on_end != NULL) {
        options->on_end(state);
    }
}

static void
end_pause(struct pyl_task *base, int64_t result)
{
    accept_next(base, result);
}

static void
on_accepted(struct pyl_task *base, int64_t result)
{
    switch (result) {
    case -EMFILE:
    case -ENFILE:
    case -ENOBUFS:
    case -ENOMEM:
        pyl_task_sleep(base, PYL_LISTENER_RETRY_NS, end_pause);
        return;
    default:
        break;
    }
    if (result >= 0) {
        (void)pyl_socket_set_nodelay((int)result);
        start_connection(server_of(base), (int)result);
    }
    accept_next(base, result < 0 ? result : 0);
}

/* Ends after an error that does not go away, and when the server is closed. */
static void
accept_next(struct pyl_task *base, int64_t result)
{
    struct pyloop_server *server = server_of(base);
    if (result < 0) {
        pyl_task_close(base, server->fd);
        return;
    }
    pyl_task_accept(base, server->fd, on_accepted);
}

static void
release_server(struct pyl_task *base)
{
    pyl_free(server_of(base));
}

static int
listen_on(const struct pyloop_server_options *options, uint16_t *ret_port)
{
    struct pyl_sockaddr address;
    const char *host = options->host != NULL ? options->host : "127.0.0.1";
    int rc = pyl_sockaddr_parse(&address, host, options->port);
    if (rc < 0) {
        return rc;
    }
    struct pyl_socket_listen_options listen_options = {
        .backlog = options->backlog > 0 ? options->backlog : BACKLOG_DEFAULT,
        .reuse_address = true,
    };
    int fd = pyl_socket_listen(&address, &listen_options);
    if (fd < 0) {
        return fd;
    }
    rc = pyl_socket_local_address(fd, &address);
    if (rc < 0) {
        (void)close(fd);
        return rc;
    }
    *ret_port = pyl_sockaddr_port(&address);
    return fd;
}

int
pyloop_tcp_serve(struct pyloop_runtime *runtime, const struct pyloop_server_options *given,
                 struct pyloop_server **ret_server)
{
    struct pyloop_server_options options;
    int rc = pyl_versioned_read(&options, sizeof(options), OPTIONS_SIZE_FIRST, given,
                                given->struct_size);
    if (rc < 0 || options.open == NULL || options.first == NULL) {
        return -EINVAL;
    }
    struct pyloop_server *server = pyl_alloc_zero(sizeof(*server));
    if (server == NULL) {
        return -ENOMEM;
    }
    int fd = listen_on(&options, &server->port);
    if (fd < 0) {
        pyl_free(server);
        return fd;
    }
    pyl_task_init(&server->base, release_server);
    server->runtime = runtime;
    server->options = options;
    server->options.host = NULL;
    server->fd = fd;
    pyl_task_ref(&server->base); /* the caller's */
    rc = pyl_task_spawn(&runtime->base, &server->base, accept_next);
    if (rc < 0) {
        (void)close(fd);
        pyl_free(server);
        return rc;
    }
    *ret_server = server;
    return 0;
}

uint16_t
pyloop_server_port(const struct pyloop_server *server)
{
    return server->port;
}

void
pyloop_server_close(struct pyloop_server *server)
{
    pyl_task_cancel(&server->base);
    pyl_task_unref(&server->base);
}
