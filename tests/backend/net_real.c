/*
 * net_real.c - the peer's actions with real TCP sockets on 127.0.0.1.
 */
#include "net.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SMALL_BUFFER = 4096 };

static int
real_socket(struct env *env)
{
    (void)env;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    cr_assert_geq(fd, 0);
    return fd;
}

static int
real_listen(struct env *env, struct net_address *ret_address)
{
    int fd = real_socket(env);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000001)};
    cr_assert_eq(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    cr_assert_eq(listen(fd, 1024), 0);
    ret_address->size = sizeof(ret_address->storage);
    cr_assert_eq(getsockname(fd, (struct sockaddr *)&ret_address->storage, &ret_address->size), 0);
    return fd;
}

static int
connect_with(struct env *env, const struct net_address *address, bool is_small)
{
    int fd = real_socket(env);
    if (is_small) {
        int size = SMALL_BUFFER;
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
    }
    int rc = connect(fd, (const struct sockaddr *)&address->storage, address->size);
    cr_assert(rc == 0 || errno == EINPROGRESS);
    return fd;
}

static int
real_connect(struct env *env, const struct net_address *address)
{
    return connect_with(env, address, false);
}

static void
real_pair(struct env *env, int fds[2], bool is_small)
{
    struct net_address address;
    int listener = real_listen(env, &address);
    int size = SMALL_BUFFER;
    if (is_small) {
        setsockopt(listener, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
        setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
    }
    fds[1] = connect_with(env, &address, is_small);
    do {
        fds[0] = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    } while (fds[0] < 0 && errno == EAGAIN);
    cr_assert_geq(fds[0], 0);
    close(listener);
}

/* A listener whose accept queue is full drops every SYN. */
static int
real_blackhole(struct env *env, struct net_address *ret_address)
{
    int listener = real_listen(env, ret_address);
    cr_assert_eq(listen(listener, 0), 0);
    for (int i = 0; i < 8; i++) {
        real_connect(env, ret_address);
    }
    return real_socket(env);
}

static void
real_limit_fds(struct env *env, bool is_limited)
{
    (void)env;
    static struct rlimit saved;
    if (!is_limited) {
        cr_assert_eq(setrlimit(RLIMIT_NOFILE, &saved), 0);
        return;
    }
    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &saved), 0);
    int next = dup(0);
    cr_assert_geq(next, 0);
    close(next);
    struct rlimit limit = {.rlim_cur = (rlim_t)next, .rlim_max = saved.rlim_max};
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

static ssize_t
real_write(struct env *env, int fd, const void *data, size_t size)
{
    (void)env;
    ssize_t count = send(fd, data, size, MSG_NOSIGNAL);
    return count >= 0 ? count : -errno;
}

static ssize_t
real_read(struct env *env, int fd, void *data, size_t size)
{
    (void)env;
    ssize_t count = recv(fd, data, size, 0);
    return count >= 0 ? count : -errno;
}

static void
real_shutdown(struct env *env, int fd)
{
    (void)env;
    cr_assert_eq(shutdown(fd, SHUT_WR), 0);
}

static void
real_close(struct env *env, int fd, bool is_reset)
{
    (void)env;
    if (is_reset) {
        struct linger linger = {.l_onoff = 1, .l_linger = 0};
        cr_assert_eq(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)), 0);
    }
    cr_assert_eq(close(fd), 0);
}

const struct net_ops net_real = {
    .pair = real_pair,
    .listen = real_listen,
    .socket = real_socket,
    .connect = real_connect,
    .blackhole = real_blackhole,
    .limit_fds = real_limit_fds,
    .write = real_write,
    .read = real_read,
    .shutdown = real_shutdown,
    .close = real_close,
};
