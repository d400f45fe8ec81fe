/*
 * fixture.c - see fixture.h.
 */
#include "fixture.h"

#include "base/clock.h"
#include "base/error.h"
#include "net.h"
#include "suite.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BACKENDS_MAX = 8, LIMIT_S = 10 };

struct criterion_test_params
backend_parameters(void)
{
    static int indices[BACKENDS_MAX];
    static size_t count;
    if (count > 0) {
        return cr_make_param_array(int, indices, count);
    }
    const char *only = getenv("PYL_TEST_BACKEND");
    for (int i = 0; pyl_backends[i] != NULL && count < BACKENDS_MAX; i++) {
        char cause[PYL_REACTOR_CAUSE_SIZE];
        if (only != NULL && strcmp(only, pyl_backends[i]->name) != 0) {
            continue;
        }
        int rc = pyl_reactor_probe(pyl_backends[i]->name, cause, sizeof(cause));
        if (rc == 0 || rc == -ENOTSUP) { /* here, but it fails its behaviour test: so do we */
            indices[count++] = i;
        } else {
            fprintf(stderr, "SKIPPED: backend %s: %s\n", pyl_backends[i]->name, cause);
        }
    }
    return cr_make_param_array(int, indices, count);
}

void
env_init_with(struct env *env, const struct pyl_reactor_options *options)
{
    char cause[PYL_REACTOR_CAUSE_SIZE];
    *env = (struct env){0};
    int rc = pyl_reactor_init(&env->reactor, options, cause, sizeof(cause));
    cr_assert_eq(rc, 0, "%s: %s: %s", options->backend, pyl_error_name(rc), cause);
    env->is_sim = (env->reactor.ops->features & PYL_BACKEND_SIMULATED) != 0;
}

void
env_init(struct env *env, const char *backend)
{
    const char *seed = getenv("PYL_TEST_SEED");
    env_init_with(env,
                  &(struct pyl_reactor_options){
                      .backend = backend, .sim_seed = seed != NULL ? strtoull(seed, NULL, 10) : 1});
}

void
env_turn(struct env *env, int64_t timeout_ns)
{
    int rc = pyl_reactor_wait(&env->reactor, timeout_ns);
    cr_assert_eq(rc, 0, "wait failed: %s", pyl_error_name(rc));
    pyl_reactor_dispatch(&env->reactor);
}

void
env_until(struct env *env, const int *counter, int at_least)
{
    int64_t limit_ns = pyl_clock_now_ns() + LIMIT_S * PYL_NS_PER_S;
    while (*counter < at_least) {
        env_turn(env, 100 * PYL_NS_PER_MS);
        cr_assert_lt(pyl_clock_now_ns(), limit_ns, "waited in vain: %d of %d", *counter, at_least);
    }
}

void
env_settle(struct env *env)
{
    for (int i = 0; i < 5; i++) {
        env_turn(env, 2 * PYL_NS_PER_MS);
    }
}

void
env_fini(struct env *env)
{
    pyl_reactor_cancel_all(&env->reactor);
    for (int i = 0; i < 1000 && env->reactor.active_count > 0; i++) {
        env_turn(env, 10 * PYL_NS_PER_MS);
    }
    cr_assert_eq(env->reactor.active_count, 0, "ops without a terminal event");
    pyl_reactor_fini(&env->reactor);
}

static void
probe_record(struct probe *probe, const struct pyl_event *event)
{
    if (probe->calls < 256) {
        probe->results[probe->calls] = event->result;
    }
    probe->calls++;
    probe->last_result = event->result;
    if (event->data == NULL) {
        return;
    }
    size_t count = (size_t)event->result;
    if (probe->size + count > probe->capacity) {
        probe->capacity = (probe->size + count) * 2;
        probe->data = realloc(probe->data, probe->capacity);
    }
    memcpy(probe->data + probe->size, event->data, count);
    probe->size += count;
}

static void
probe_on_complete(struct pyl_op *op, const struct pyl_event *event)
{
    struct probe *probe = PYL_CONTAINER_OF(op, struct probe, op);
    cr_assert_eq(probe->terminals, 0, "an event after the terminal one");
    cr_assert(probe->env->reactor.is_dispatching, "a callback outside dispatch");
    cr_assert_neq(event->result, -EINTR);
    cr_assert_neq(event->result, -EAGAIN);
    cr_assert_neq(event->result, -ENOBUFS);
    probe_record(probe, event);
    if ((event->flags & PYL_EVENT_MORE) == 0) {
        probe->terminals++;
        cr_assert(pyl_op_is_idle(op));
    }
    if (probe->then != NULL) {
        probe->then(probe, event);
    }
}

void
probe_init(struct probe *probe, struct env *env, enum pyl_op_kind kind, int fd)
{
    *probe = (struct probe){.env = env};
    probe->op.kind = (uint8_t)kind;
    probe->op.fd = fd;
    probe->op.on_complete = probe_on_complete;
}

void
probe_fini(struct probe *probe)
{
    cr_assert(pyl_op_is_idle(&probe->op));
    free(probe->data);
    probe->data = NULL;
}

void
probe_submit(struct probe *probe)
{
    int calls = probe->calls;
    probe->terminals = 0;
    pyl_reactor_submit(&probe->env->reactor, &probe->op);
    cr_assert_eq(probe->calls, calls, "a callback inside submit");
}

void
probe_run(struct probe *probe)
{
    probe_submit(probe);
    env_until(probe->env, &probe->terminals, 1);
}

void
probe_until_size(struct probe *probe, size_t size)
{
    int64_t limit_ns = pyl_clock_now_ns() + LIMIT_S * PYL_NS_PER_S;
    while (probe->size < size) {
        cr_assert_eq(probe->terminals, 0, "ended: %s", pyl_error_name(probe->last_result));
        cr_assert_lt(pyl_clock_now_ns(), limit_ns, "%zu of %zu bytes", probe->size, size);
        env_turn(probe->env, 100 * PYL_NS_PER_MS);
    }
    cr_assert_eq(probe->size, size);
}

void
probe_send_all(struct env *env, int fd, const uint8_t *data, size_t size)
{
    struct probe send;
    probe_init(&send, env, PYL_OP_SEND, fd);
    size_t sent = 0;
    while (sent < size) {
        struct iovec iov = {.iov_base = (void *)(uintptr_t)(data + sent), .iov_len = size - sent};
        send.op.args.send.message = &(struct msghdr){.msg_iov = &iov, .msg_iovlen = 1};
        probe_run(&send);
        cr_assert_gt(send.last_result, 0);
        sent += (size_t)send.last_result;
    }
    probe_fini(&send);
}

void
pattern_fill(uint8_t *data, size_t size, uint32_t seed)
{
    for (size_t i = 0; i < size; i++) {
        seed = seed * 1664525u + 1013904223u;
        data[i] = (uint8_t)(seed >> 24);
    }
}

static const struct net_ops *
net_of(const struct env *env)
{
    return env->is_sim ? &net_sim : &net_real;
}

void
net_pair(struct env *env, int fds[2])
{
    net_of(env)->pair(env, fds, false);
}

void
net_pair_small(struct env *env, int fds[2])
{
    net_of(env)->pair(env, fds, true);
}

int
net_listen(struct env *env, struct net_address *ret_address)
{
    return net_of(env)->listen(env, ret_address);
}

int
net_socket(struct env *env)
{
    return net_of(env)->socket(env);
}

int
net_connect(struct env *env, const struct net_address *address)
{
    return net_of(env)->connect(env, address);
}

void
net_refusing_address(struct env *env, struct net_address *ret_address)
{
    int fd = net_listen(env, ret_address);
    net_close(env, fd);
}

ssize_t
net_write(struct env *env, int fd, const void *data, size_t size)
{
    return net_of(env)->write(env, fd, data, size);
}

ssize_t
net_read(struct env *env, int fd, void *data, size_t size)
{
    return net_of(env)->read(env, fd, data, size);
}

void
net_read_all(struct env *env, int fd, void *data, size_t size)
{
    size_t done = 0;
    while (done < size) {
        ssize_t count = net_read(env, fd, (uint8_t *)data + done, size - done);
        if (count == -EAGAIN) {
            env_turn(env, PYL_NS_PER_MS);
            continue;
        }
        cr_assert_gt(count, 0, "read: %s", pyl_error_name((int)count));
        done += (size_t)count;
    }
}

void
net_shutdown(struct env *env, int fd)
{
    net_of(env)->shutdown(env, fd);
}

void
net_close(struct env *env, int fd)
{
    pyl_reactor_forget(&env->reactor, fd);
    net_of(env)->close(env, fd, false);
}

void
net_reset(struct env *env, int fd)
{
    net_of(env)->close(env, fd, true);
}

int
net_blackhole_socket(struct env *env, struct net_address *ret_address)
{
    return net_of(env)->blackhole(env, ret_address);
}

void
net_limit_fds(struct env *env, bool is_limited)
{
    net_of(env)->limit_fds(env, is_limited);
}

static size_t
fill_once(struct env *env, int fd)
{
    static uint8_t block[65536];
    size_t total = 0;
    ssize_t count;
    while ((count = net_write(env, fd, block, sizeof(block))) > 0) {
        total += (size_t)count;
    }
    cr_assert_eq(count, -EAGAIN);
    return total;
}

/* TCP has more room a moment after it was full: what is under way arrives, and the kernel lets the
 * buffers grow. Full is what stays full. */
size_t
net_fill(struct env *env, int fd)
{
    size_t total = fill_once(env, fd);
    for (int quiet = 0; quiet < 3 && !env->is_sim; quiet++) {
        struct pollfd room = {.fd = fd, .events = POLLOUT};
        (void)poll(&room, 1, 10);
        size_t more = fill_once(env, fd);
        total += more;
        if (more > 0) {
            quiet = -1;
        }
    }
    return total;
}
