/*
 * fixture.h - one vocabulary for the conformance suite over real kernels and over the simulation.
 *
 * `net_*` are the peer's and the test's own actions: real non-blocking sockets, or sim.h. A test
 * never looks at which backend it has, except through env.is_sim where a case cannot exist there.
 */
#ifndef PYL_TEST_BACKEND_FIXTURE_H
#define PYL_TEST_BACKEND_FIXTURE_H

#include "reactor/reactor.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct env {
    struct pyl_reactor reactor;
    bool is_sim;
};

/* What one op has reported so far. */
struct probe {
    struct pyl_op op;
    struct env *env;
    int calls;
    int terminals;
    int32_t results[256]; /* of the first calls */
    int32_t last_result;
    uint8_t *data; /* received bytes, in order */
    size_t size;
    size_t capacity;
    void (*then)(struct probe *probe,
                 const struct pyl_event *event); /* optional, after recording */
    void *user;
};

struct net_address {
    struct sockaddr_storage storage;
    socklen_t size;
};

void env_init(struct env *env, const char *backend);
void env_init_with(struct env *env, const struct pyl_reactor_options *options);
/* Cancels what is active, drains, and checks that every op ended. */
void env_fini(struct env *env);

/* One wait and dispatch. */
void env_turn(struct env *env, int64_t timeout_ns);
/* Turns until the counter reaches `at_least`; fails the test after ten seconds. */
void env_until(struct env *env, const int *counter, int at_least);
/* A few polls, to show that nothing (more) comes. */
void env_settle(struct env *env);

void probe_init(struct probe *probe, struct env *env, enum pyl_op_kind kind, int fd);
void probe_fini(struct probe *probe);
void probe_submit(struct probe *probe);
/* Submits, and turns until the terminal event. */
void probe_run(struct probe *probe);
/* Turns until the op has received that many bytes. */
void probe_until_size(struct probe *probe, size_t size);
/* Sends all of `size` bytes with as many SEND ops as it takes. */
void probe_send_all(struct env *env, int fd, const uint8_t *data, size_t size);

/* A connected pair; [0] is for the reactor. */
void net_pair(struct env *env, int fds[2]);
/* Small socket buffers, so that sends become short. */
void net_pair_small(struct env *env, int fds[2]);
int net_listen(struct env *env, struct net_address *ret_address);
/* An unconnected socket, for CONNECT. */
int net_socket(struct env *env);
/* The peer connects at once; returns its end. */
int net_connect(struct env *env, const struct net_address *address);
/* An address that refuses. */
void net_refusing_address(struct env *env, struct net_address *ret_address);

/* An unconnected socket, and an address that never answers it. */
int net_blackhole_socket(struct env *env, struct net_address *ret_address);
/* From now on accept finds no free descriptor, or finds them again. */
void net_limit_fds(struct env *env, bool is_limited);

/* As write(2) and read(2) with negative errno. */
ssize_t net_write(struct env *env, int fd, const void *data, size_t size);
ssize_t net_read(struct env *env, int fd, void *data, size_t size);
/* Reads that many bytes, with turns in between. */
void net_read_all(struct env *env, int fd, void *data, size_t size);
void net_shutdown(struct env *env, int fd);
void net_close(struct env *env, int fd);
/* Close with a reset. */
void net_reset(struct env *env, int fd);
/* Makes the write side of `fd` full. Returns the bytes it took. */
size_t net_fill(struct env *env, int fd);

void pattern_fill(uint8_t *data, size_t size, uint32_t seed);

#endif
