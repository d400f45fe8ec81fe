/*
 * test_connect.c - success, refusal, time limit, cancellation.
 */
#include "io/connect.h"

#include "support/worker_fixture.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

static struct pyl_worker worker;
static struct pyl_connect subject;
static struct pyl_sockaddr address;
static int listen_fd;
static int done_count;
static int last_error;
static bool is_done;

static void
on_done(struct pyl_connect *connect, int error)
{
    cr_assert_eq(connect, &subject);
    done_count++;
    last_error = error;
    is_done = true;
}

static void
setup(void)
{
    struct pyl_socket_listen_options options = {.backlog = 1};
    fixture_open(&worker);
    cr_assert_eq(pyl_sockaddr_parse(&address, "127.0.0.1", 0), 0);
    listen_fd = pyl_socket_listen(&address, &options);
    cr_assert_geq(listen_fd, 0);
    cr_assert_eq(pyl_socket_local_address(listen_fd, &address), 0);
}

static void
teardown(void)
{
    fixture_turn_times(&worker, 2);
    cr_assert_leq(done_count, 1);
    pyl_worker_fini(&worker);
}

TestSuite(connect, .init = setup, .fini = teardown);

static int
start(int64_t timeout_ns)
{
    int fd = pyl_socket_open(address.u.any.sa_family, SOCK_STREAM, 0);
    cr_assert_geq(fd, 0);
    cr_assert_eq(pyl_connect_start(&subject, &worker, fd, &address, timeout_ns, on_done), 0);
    cr_assert_eq(done_count, 0);
    return fd;
}

/* Fills the backlog, so that a further connection neither succeeds nor fails. */
static void
fill_backlog(void)
{
    for (int i = 0; i < 8; i++) {
        int fd = pyl_socket_open(AF_INET, SOCK_STREAM, 0);
        (void)!connect(fd, &address.u.any, address.size);
    }
}

/* Goal: connects, with and without a time limit, and leaves no timer behind. */
Test(connect, succeeds)
{
    int fd = start(5 * PYL_NS_PER_S);
    fixture_turn_until(&worker, &is_done);
    cr_assert_eq(last_error, 0);
    cr_assert_eq(worker.timers.count, 0);
    cr_assert_not(subject.is_active);
    struct pyl_sockaddr peer;
    cr_assert_eq(pyl_socket_peer_address(fd, &peer), 0);
    cr_assert_eq(pyl_sockaddr_compare(&peer, &address), 0);
}

/* Goal: nobody listens: ECONNREFUSED, once. */
Test(connect, refused)
{
    close(listen_fd);
    start(0);
    fixture_turn_until(&worker, &is_done);
    cr_assert_eq(last_error, -ECONNREFUSED);
}

/* Goal: the time limit ends an attempt that hangs. */
Test(connect, times_out)
{
    fill_backlog();
    start(5 * PYL_NS_PER_MS);
    fixture_turn_until(&worker, &is_done);
    cr_assert_eq(last_error, -ETIMEDOUT);
}

/* Goal: cancelling an attempt that hangs; a second cancel does nothing. */
Test(connect, cancelled)
{
    fill_backlog();
    start(5 * PYL_NS_PER_S);
    fixture_turn_times(&worker, 2);
    pyl_connect_cancel(&subject);
    pyl_connect_cancel(&subject);
    cr_assert_eq(done_count, 0);
    fixture_turn_until(&worker, &is_done);
    cr_assert_eq(last_error, -ECANCELED);
    pyl_connect_cancel(&subject);
}

/* Goal: cancelled in the turn it was started, although it would have succeeded. */
Test(connect, cancelled_at_once)
{
    start(0);
    pyl_connect_cancel(&subject);
    fixture_turn_until(&worker, &is_done);
    cr_assert_eq(last_error, -ECANCELED);
}

/* Goal: a Unix path that does not exist, and one that does. */
Test(connect, unix_path)
{
    struct pyl_socket_listen_options options = {0};
    char name[64];
    int size = snprintf(name, sizeof(name), "%cpyl-test-connect-%d", 0, (int)getpid());
    cr_assert_eq(pyl_sockaddr_unix(&address, "/nonexistent/x.sock", 19), 0);
    start(0);
    fixture_turn_until(&worker, &is_done);
    cr_assert_eq(last_error, -ENOENT);

    done_count = 0;
    is_done = false;
    cr_assert_eq(pyl_sockaddr_unix(&address, name, (size_t)size), 0);
    int fd = pyl_socket_listen(&address, &options);
    cr_assert_geq(fd, 0);
    start(0);
    fixture_turn_until(&worker, &is_done);
    cr_assert_eq(last_error, 0);
}
