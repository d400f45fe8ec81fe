/*
 * test_backend_epoll.c - what is epoll's own: its timeouts, and its count of system calls. The
 * contract is tested by tests/backend.
 */
#include "base/clock.h"
#include "filter.h"
#include "reactor/reactor.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct pyl_reactor reactor;

static void
setup(void)
{
    struct pyl_reactor_options options = {.backend = "epoll"};
    cr_assert_eq(pyl_reactor_init(&reactor, &options, NULL, 0), 0);
}

static void
teardown(void)
{
    pyl_reactor_drop(&reactor);
}

TestSuite(backend_epoll, .init = setup, .fini = teardown);

static void
expect_never_early(void)
{
    static const int64_t timeouts_ns[] = {1, 999999, 1000001, 2500000};
    for (size_t i = 0; i < sizeof(timeouts_ns) / sizeof(timeouts_ns[0]); i++) {
        int64_t start_ns = pyl_clock_now_ns();
        cr_assert_eq(pyl_reactor_wait(&reactor, timeouts_ns[i]), 0);
        cr_assert_geq(pyl_clock_now_ns() - start_ns, timeouts_ns[i]);
    }
}

/* Goal: on a kernel without epoll_pwait2 timeouts are rounded up to milliseconds. */
Test(backend_epoll, without_pwait2)
{
    filter_syscall(SYS_epoll_pwait2, ENOSYS);
    expect_never_early();
}

/* Goal: the same under a filter that does not know the call. */
Test(backend_epoll, with_forbidden_pwait2)
{
    filter_syscall(SYS_epoll_pwait2, EPERM);
    expect_never_early();
}

/* Goal: an error of the wait itself is told, not swallowed. */
Test(backend_epoll, fatal_error_is_returned)
{
    filter_syscall(SYS_epoll_pwait2, EBADF);
    cr_assert_eq(pyl_reactor_wait(&reactor, PYL_NS_PER_S), -EBADF);
}

static int received;

static void
on_receive(struct pyl_op *op, const struct pyl_event *event)
{
    (void)op;
    received += event->result;
}

/* Goal: one system call to wait per turn, none to register. */
Test(backend_epoll, one_call_per_turn)
{
    static struct pyl_op op;
    int fds[2];
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    op = (struct pyl_op){.kind = PYL_OP_RECV, .fd = fds[0], .on_complete = on_receive};
    pyl_reactor_submit(&reactor, &op);
    filter_syscall(SYS_epoll_ctl, EPERM); /* whoever registers again from here on fails */
    for (int i = 1; i <= 20; i++) {
        cr_assert_eq(write(fds[1], "x", 1), 1);
        while (received < i) {
            cr_assert_eq(pyl_reactor_wait(&reactor, PYL_NS_PER_S), 0);
            pyl_reactor_dispatch(&reactor);
        }
        cr_assert_eq(pyl_reactor_wait(&reactor, 0), 0); /* finds EAGAIN: a Unix socket */
        pyl_reactor_dispatch(&reactor);
    }
    cr_assert_eq(atomic_load(&reactor.stats.enters), atomic_load(&reactor.stats.waits));
    cr_assert_leq(atomic_load(&reactor.stats.waits), 40);
}
