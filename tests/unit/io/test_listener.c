/*
 * test_listener.c - accepting, shortages, the end.
 */
#include "io/listener.h"

#include "io/sockaddr.h"
#include "support/worker_fixture.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

enum { FDS_MAX = 1024 };

static struct pyl_worker worker;
static struct pyl_listener listener;
static struct pyl_sockaddr address;
static int listen_fd;
static int accepted[FDS_MAX];
static int accepted_count;
static int error_count;
static int last_error;
static bool last_will_retry;
static bool is_closed;
static bool has_accepted;
static bool has_error;
static bool does_stop; /* on_accept stops the listener */

static void
on_accept(struct pyl_listener *unused, int fd)
{
    cr_assert_not(is_closed);
    cr_assert_neq(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
    cr_assert_neq(fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
    accepted[accepted_count++] = fd;
    has_accepted = true;
    if (does_stop) {
        pyl_listener_stop(&listener);
    }
}

static void
on_error(struct pyl_listener *unused, int error, bool will_retry)
{
    error_count++;
    last_error = error;
    last_will_retry = will_retry;
    has_error = true;
}

static void
on_closed(struct pyl_listener *unused)
{
    cr_assert_not(is_closed);
    is_closed = true;
}

static const struct pyl_listener_ops ops = {
    .on_accept = on_accept,
    .on_error = on_error,
    .on_closed = on_closed,
};

static void
setup(void)
{
    struct pyl_socket_listen_options options = {.backlog = 64, .reuse_address = true};
    fixture_open(&worker);
    cr_assert_eq(pyl_sockaddr_parse(&address, "127.0.0.1", 0), 0);
    listen_fd = pyl_socket_listen(&address, &options);
    cr_assert_geq(listen_fd, 0);
    cr_assert_eq(pyl_socket_local_address(listen_fd, &address), 0);
    pyl_listener_init(&listener, &worker, listen_fd, &ops);
}

static void
teardown(void)
{
    pyl_listener_close(&listener);
    if (listen_fd >= 0) {
        cr_assert_neq(fcntl(listen_fd, F_GETFD), -1, "the listener never closes its fd");
    }
    fixture_turn_until(&worker, &is_closed);
    pyl_worker_fini(&worker);
}

TestSuite(listener, .init = setup, .fini = teardown);

static int
connect_client(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_geq(fd, 0);
    cr_assert_eq(connect(fd, &address.u.any, address.size), 0);
    return fd;
}

static void
turn_until_accepted(int count)
{
    while (accepted_count < count) {
        has_accepted = false;
        fixture_turn_until(&worker, &has_accepted);
    }
}

/* Goal: every connection is delivered once, those made before start too. */
Test(listener, accepts_all)
{
    connect_client();
    fixture_turn_times(&worker, 3);
    cr_assert_eq(accepted_count, 0);
    pyl_listener_start(&listener);
    pyl_listener_start(&listener);
    for (int i = 0; i < 20; i++) {
        connect_client();
    }
    turn_until_accepted(21);
    fixture_turn_times(&worker, 3);
    cr_assert_eq(accepted_count, 21);
}

/* Goal: after close the fd is the caller's: closed, nobody listens any more, and whoever gets its
 * number is left alone. */
Test(listener, close_gives_the_fd_back)
{
    pyl_listener_start(&listener);
    connect_client();
    turn_until_accepted(1);
    pyl_listener_close(&listener);
    cr_assert_eq(close(listen_fd), 0);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(connect(fd, &address.u.any, address.size), -1);
    cr_assert_eq(errno, ECONNREFUSED);
    fixture_turn_until(&worker, &is_closed);
    cr_assert_eq(accepted_count, 1);
    cr_assert_neq(fcntl(fd, F_GETFD), -1);
    listen_fd = -1;
}

/* Goal: after stop nothing new is accepted, and start goes on with what waits in the backlog. */
Test(listener, stop_and_start)
{
    pyl_listener_start(&listener);
    connect_client();
    turn_until_accepted(1);
    pyl_listener_stop(&listener);
    fixture_turn_times(&worker, 3); /* the op has ended */
    connect_client();
    fixture_turn_times(&worker, 3);
    cr_assert_eq(accepted_count, 1);
    pyl_listener_start(&listener);
    pyl_listener_stop(&listener);
    pyl_listener_start(&listener);
    turn_until_accepted(2);
}

/* Goal: stop inside on_accept; connections already accepted are still delivered, none is lost. */
Test(listener, stop_inside_accept)
{
    does_stop = true;
    for (int i = 0; i < 10; i++) {
        connect_client();
    }
    for (int round = 0; round < 100 && accepted_count < 10; round++) {
        pyl_listener_start(&listener);
        has_accepted = false;
        fixture_turn_until(&worker, &has_accepted);
    }
    cr_assert_eq(accepted_count, 10);
}

/* A client is waiting, and no descriptor is left for it. Returns the limit to give back. */
static struct rlimit
run_out_of_descriptors(void)
{
    struct rlimit before;
    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
    struct rlimit tight = before;
    tight.rlim_cur = (rlim_t)connect_client() + 1;
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &tight), 0);
    pyl_listener_start(&listener);
    fixture_turn_until(&worker, &has_error);
    return before;
}

/* Goal: without descriptors the listener reports once, does not spin, and goes on by itself later.
 */
Test(listener, out_of_descriptors)
{
    struct rlimit before = run_out_of_descriptors();
    cr_assert_eq(last_error, -EMFILE);
    cr_assert(last_will_retry);
    uint64_t events = atomic_load(&worker.reactor.stats.events);
    fixture_turn_times(&worker, 100);
    cr_assert_eq(error_count, 1);
    cr_assert_leq(atomic_load(&worker.reactor.stats.events) - events, 1);
    cr_assert_eq(accepted_count, 0);

    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
    turn_until_accepted(1); /* after the pause */
    cr_assert_eq(error_count, 1);
}

/* Goal: stop during the pause; start does not wait for the rest of it. */
Test(listener, stop_and_start_during_the_pause)
{
    struct rlimit before = run_out_of_descriptors();
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
    pyl_listener_stop(&listener);
    pyl_listener_start(&listener);
    int64_t start_ns = pyl_clock_now_ns();
    turn_until_accepted(1);
    cr_assert_lt(pyl_clock_now_ns() - start_ns, PYL_LISTENER_RETRY_NS);
}

/* Goal: closing during the pause ends at once. */
Test(listener, close_during_the_pause)
{
    struct rlimit before = run_out_of_descriptors();
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
    pyl_listener_close(&listener);
    int64_t start_ns = pyl_clock_now_ns();
    fixture_turn_until(&worker, &is_closed);
    cr_assert_lt(pyl_clock_now_ns() - start_ns, PYL_LISTENER_RETRY_NS);
}

/* Goal: a socket that cannot accept stops the listener, with one report. */
Test(listener, not_a_listening_socket)
{
    struct pyl_listener other;
    int fd = pyl_socket_open(AF_INET, SOCK_STREAM, 0);
    pyl_listener_init(&other, &worker, fd, &ops);
    pyl_listener_start(&other);
    fixture_turn_until(&worker, &has_error);
    cr_assert_eq(last_error, -EINVAL);
    cr_assert_not(last_will_retry);
    cr_assert_not(other.is_accepting);
    fixture_turn_times(&worker, 3);
    cr_assert_eq(error_count, 1);
    pyl_listener_close(&other);
    fixture_turn_until(&worker, &is_closed);
    is_closed = false;
    close(fd);
}
