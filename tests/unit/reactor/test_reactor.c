/*
 * test_reactor.c - choosing a backend: names, environment, fallback, causes. What backends do is
 * the conformance suite's matter (tests/backend).
 */
#include "base/alloc.h"
#include "filter.h"
#include "reactor/reactor.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static char cause[PYL_REACTOR_CAUSE_SIZE];

static int
init(struct pyl_reactor *reactor, const char *backend)
{
    struct pyl_reactor_options options = {.backend = backend};
    return pyl_reactor_init(reactor, &options, cause, sizeof(cause));
}

static void
expect_backend(const char *option, const char *expected)
{
    struct pyl_reactor reactor;
    cr_assert_eq(init(&reactor, option), 0, "%s", cause);
    cr_assert_str_eq(reactor.ops->name, expected);
    pyl_reactor_fini(&reactor);
}

static bool
has_io_uring(void)
{
    return pyl_reactor_probe("io_uring", NULL, 0) == 0;
}

/* Goal: without a wish the best usable backend is taken, and no cause is given when it is the
 * first. */
Test(reactor, auto_takes_the_best)
{
    unsetenv("PYLOOP_BACKEND");
    expect_backend(NULL, has_io_uring() ? "io_uring" : "epoll");
    cr_assert_eq(cause[0] == '\0', has_io_uring());
    expect_backend("auto", has_io_uring() ? "io_uring" : "epoll");
    cr_assert_eq(pyl_reactor_probe(NULL, cause, sizeof(cause)), 0);
}

/* Goal: the environment decides where the program does not; the program goes first. */
Test(reactor, environment_decides_for_auto)
{
    setenv("PYLOOP_BACKEND", "epoll", 1);
    expect_backend(NULL, "epoll");
    expect_backend("auto", "epoll");
    setenv("PYLOOP_BACKEND", "no such thing", 1);
    expect_backend("epoll", "epoll");
    setenv("PYLOOP_BACKEND", "", 1);
    expect_backend(NULL, has_io_uring() ? "io_uring" : "epoll");
    setenv("PYLOOP_BACKEND", "auto", 1);
    expect_backend(NULL, has_io_uring() ? "io_uring" : "epoll");
}

/* Goal: a wrong name is an error that lists the right ones. */
Test(reactor, unknown_name)
{
    struct pyl_reactor reactor;
    cr_assert_eq(init(&reactor, "poll"), -EINVAL);
    cr_assert_not_null(strstr(cause, "'poll'"));
    cr_assert_not_null(strstr(cause, "io_uring, epoll, kqueue"));
    setenv("PYLOOP_BACKEND", "select", 1);
    cr_assert_eq(init(&reactor, NULL), -EINVAL);
    cr_assert_not_null(strstr(cause, "'select'"));
    cr_assert_eq(pyl_reactor_probe(NULL, cause, sizeof(cause)), -EINVAL);
    pyl_reactor_fini(&reactor); /* what a failed init leaves can be finished */
}

/* Goal: the simulation is for programs that ask for it; the environment cannot switch it on. */
Test(reactor, simulation_is_never_chosen)
{
    struct pyl_reactor reactor;
    setenv("PYLOOP_BACKEND", "sim", 1);
    cr_assert_eq(init(&reactor, NULL), -EINVAL);
    cr_assert_not_null(strstr(cause, "'sim'"));
    expect_backend("sim", "sim");
}

static void
expect_fallback(int error, const char *word)
{
    struct pyl_reactor reactor;
    unsetenv("PYLOOP_BACKEND");
    filter_syscall(SYS_io_uring_setup, error);
    cr_assert_eq(init(&reactor, NULL), 0);
    cr_assert_str_eq(reactor.ops->name, "epoll");
    cr_assert_not_null(strstr(cause, word), "%s", cause);
    pyl_reactor_fini(&reactor);

    cr_assert_eq(init(&reactor, "io_uring"), -error);
    cr_assert_not_null(strstr(cause, word), "%s", cause);
    cr_assert_eq(pyl_reactor_probe("io_uring", cause, sizeof(cause)), -error);
    cr_assert_eq(pyl_reactor_probe("auto", cause, sizeof(cause)), 0);

    setenv("PYLOOP_BACKEND", "io_uring", 1);
    cr_assert_eq(init(&reactor, "auto"), -error);
    cr_assert_not_null(strstr(cause, word), "%s", cause);
}

/* Goal: a filter that forbids io_uring (Docker) leads to epoll; forcing io_uring names the
 * cause. */
Test(reactor, forbidden_io_uring_falls_back)
{
    expect_fallback(EPERM, "seccomp");
}

/* Goal: the same for a filter that hides it. */
Test(reactor, missing_io_uring_falls_back)
{
    expect_fallback(ENOSYS, "ENOSYS");
}

/* Goal: the same for a kernel without the flags we need. */
Test(reactor, old_kernel_falls_back)
{
    expect_fallback(EINVAL, "6.1");
}

/* Goal: the same for a limit on locked memory. */
Test(reactor, no_memory_falls_back)
{
    expect_fallback(ENOMEM, "memlock");
}

/* Goal: when the first choice passes its probe but cannot be set up, the next one is taken. */
Test(reactor, setup_failure_falls_back)
{
    struct pyl_reactor reactor;
    unsetenv("PYLOOP_BACKEND");
    if (!has_io_uring()) {
        cr_skip_test("SKIPPED: io_uring is not usable here");
    }
    filter_syscall(SYS_io_uring_setup, EMFILE);
    cr_assert_eq(init(&reactor, NULL), 0);
    cr_assert_str_eq(reactor.ops->name, "epoll");
    cr_assert_not_null(strstr(cause, "io_uring"), "%s", cause);
    pyl_reactor_fini(&reactor);
    cr_assert_eq(init(&reactor, "io_uring"), -EMFILE);
}

static int
open_fds(void)
{
    int count = 0;
    for (int fd = 0; fd < 200; fd++) {
        int copy = dup(fd);
        if (copy >= 0) {
            close(copy);
            count++;
        }
    }
    return count;
}

/* Goal: wherever memory runs out during init, it says so and leaves nothing open. */
Test(reactor, init_without_memory)
{
    for (size_t i = 0; pyl_backends[i] != NULL; i++) {
        if (pyl_reactor_probe(pyl_backends[i]->name, NULL, 0) < 0) {
            continue;
        }
        int before = open_fds();
        for (uint64_t nth = 1;; nth++) {
            struct pyl_reactor reactor;
            pyl_alloc_inject_failure(nth, 0);
            int rc = init(&reactor, pyl_backends[i]->name);
            uint64_t injected = pyl_alloc_injected_count();
            pyl_alloc_inject_failure(0, 0);
            if (rc == 0) {
                pyl_reactor_fini(&reactor);
            }
            if (injected == 0) {
                cr_assert_gt(nth, 2);
                break;
            }
            cr_assert_eq(rc, -ENOMEM, "%s, allocation %d", pyl_backends[i]->name, (int)nth);
            cr_assert_eq(open_fds(), before);
        }
    }
}

static void
never(struct pyl_op *op, const struct pyl_event *event)
{
    (void)op;
    (void)event;
    cr_assert_fail("a callback that must not come");
}

/* Goal: drop() ends a reactor whose ops are still active. */
Test(reactor, drop_with_active_ops)
{
    int fds[2];
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    for (size_t i = 0; pyl_backends[i] != NULL; i++) {
        struct pyl_reactor reactor;
        struct pyl_op op = {.kind = PYL_OP_RECV, .fd = fds[0], .on_complete = never};
        if ((pyl_backends[i]->features & PYL_BACKEND_SIMULATED) ||
            pyl_reactor_probe(pyl_backends[i]->name, NULL, 0) < 0) {
            continue;
        }
        cr_assert_eq(init(&reactor, pyl_backends[i]->name), 0);
        pyl_reactor_submit(&reactor, &op);
        cr_assert_eq(pyl_reactor_wait(&reactor, 0), 0);
        pyl_reactor_drop(&reactor);
        cr_assert(pyl_op_is_idle(&op));
        pyl_reactor_fini(&reactor); /* twice is harmless */
    }
}
