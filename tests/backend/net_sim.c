/*
 * net_sim.c - the peer's actions in the simulation.
 */
#include "base/clock.h"
#include "net.h"
#include "reactor/sim.h"

#include <criterion/criterion.h>
#include <errno.h>

enum { SMALL_BUFFER = 2048 };

static void
sim_pair(struct env *env, int fds[2], bool is_small)
{
    cr_assert_eq(pyl_sim_pair(&env->reactor, is_small ? SMALL_BUFFER : 0, fds), 0);
}

static int
sim_listen(struct env *env, struct net_address *ret_address)
{
    int fd = pyl_sim_listen(&env->reactor, &ret_address->storage, &ret_address->size);
    cr_assert_geq(fd, 0);
    return fd;
}

static int
sim_socket(struct env *env)
{
    int fd = pyl_sim_socket(&env->reactor);
    cr_assert_geq(fd, 0);
    return fd;
}

static int
sim_connect(struct env *env, const struct net_address *address)
{
    int fd = sim_socket(env);
    cr_assert_eq(pyl_sim_connect(&env->reactor, fd, (const struct sockaddr *)&address->storage,
                                 address->size),
                 0);
    pyl_sim_advance(&env->reactor, PYL_NS_PER_MS); /* the handshake */
    return fd;
}

static int
sim_blackhole(struct env *env, struct net_address *ret_address)
{
    pyl_sim_silent_address(&ret_address->storage, &ret_address->size);
    return sim_socket(env);
}

static void
sim_limit_fds(struct env *env, bool is_limited)
{
    pyl_sim_limit_fds(&env->reactor, is_limited);
}

static ssize_t
sim_write(struct env *env, int fd, const void *data, size_t size)
{
    return (ssize_t)pyl_sim_write(&env->reactor, fd, data, size);
}

/* A caller that tries again and again is not to try for ever: time passes. */
static ssize_t
sim_read(struct env *env, int fd, void *data, size_t size)
{
    int64_t count = pyl_sim_read(&env->reactor, fd, data, size);
    if (count == -EAGAIN) {
        pyl_sim_advance(&env->reactor, PYL_NS_PER_US);
    }
    return (ssize_t)count;
}

static void
sim_shutdown(struct env *env, int fd)
{
    cr_assert_eq(pyl_sim_shutdown(&env->reactor, fd), 0);
}

static void
sim_close(struct env *env, int fd, bool is_reset)
{
    pyl_sim_close(&env->reactor, fd, is_reset);
}

const struct net_ops net_sim = {
    .pair = sim_pair,
    .listen = sim_listen,
    .socket = sim_socket,
    .connect = sim_connect,
    .blackhole = sim_blackhole,
    .limit_fds = sim_limit_fds,
    .write = sim_write,
    .read = sim_read,
    .shutdown = sim_shutdown,
    .close = sim_close,
};
