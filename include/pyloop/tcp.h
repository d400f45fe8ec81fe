/*
 * tcp.h - a TCP server: each connection is a task, placed on the worker with fewer of them.
 */
#ifndef PYLOOP_TCP_H
#define PYLOOP_TCP_H

#include <pyloop/task.h>

#ifdef __cplusplus
extern "C" {
#endif

struct pyloop_server;

/* Zero means the default everywhere but in `struct_size`. */
struct pyloop_server_options {
    size_t struct_size; /* sizeof(struct pyloop_server_options) */
    const char *host;   /* numeric; NULL: "127.0.0.1" */
    uint16_t port;      /* 0: any, see pyloop_server_port() */
    int backlog;        /* 0: 1024 */

    /* A connection has come. Returns the state of its task, or NULL to refuse it. On one worker,
     * for one connection after the other; the fd is not to be used yet. Required. */
    void *(*open)(void *user, int fd);
    /* The first step of the connection's task; the fd is the task's, closed by pyloop_close().
     * Required. */
    pyloop_step *first;
    /* The last call, as on_end of pyloop_spawn(); may be NULL. When the task could not even be
     * started, the fd is closed before. */
    void (*on_end)(void *state);
    void *user; /* the caller's */
};

/*
 * Listens and serves until the server is closed or the runtime stops. Out of descriptors or memory
 * it pauses for a second.
 *
 * Thread:  any.
 * Owns:    *ret_server is the caller's until pyloop_server_close(), which is due also after the
 * runtime was stopped, and may come after it was joined. `user` lives until the runtime was joined.
 * Returns: 0; -EINVAL for bad options or a host that is no address; -EADDRINUSE and what else
 * socket(2), bind(2) and listen(2) report; -ENOMEM; -ECANCELED when the runtime stops.
 */
PYLOOP_CHECKED int pyloop_tcp_serve(struct pyloop_runtime *runtime,
                                    const struct pyloop_server_options *options,
                                    struct pyloop_server **ret_server);

/* The port it listens on. Any thread. */
PYLOOP_API uint16_t pyloop_server_port(const struct pyloop_server *server);

/* Stops listening, soon, and gives the server back. Connections go on. Any thread. */
PYLOOP_API void pyloop_server_close(struct pyloop_server *server);

#ifdef __cplusplus
}
#endif

#endif
