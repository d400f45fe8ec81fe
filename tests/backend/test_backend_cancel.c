/*
 * test_backend_cancel.c - cancelling: every op ends exactly once, whatever it was doing.
 * probe_on_complete() fails any test in which an event follows the terminal one.
 */
#include "suite.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static void
cancel_now(struct probe *probe)
{
    int calls = probe->calls;
    pyl_reactor_cancel(&probe->env->reactor, &probe->op);
    cr_assert_eq(probe->calls, calls, "a callback inside cancel");
}

static void
expect_cancelled(struct probe *probe)
{
    env_until(probe->env, &probe->terminals, 1);
    cr_assert_eq(probe->last_result, -ECANCELED, "%s", pyl_error_name(probe->last_result));
    env_settle(probe->env);
    cr_assert_eq(probe->terminals, 1);
}

/* Goal: a waiting ACCEPT ends; later connections wait for the next op. */
BACKEND_TEST(backend_cancel, accept)
{
    struct net_address address;
    static struct probe accept;
    probe_init(&accept, env, PYL_OP_ACCEPT, net_listen(env, &address));
    probe_submit(&accept);
    env_settle(env);
    cancel_now(&accept);
    expect_cancelled(&accept);
    net_connect(env, &address);
    env_settle(env);
    cr_assert_eq(accept.calls, 1);
    probe_submit(&accept);
    env_until(env, &accept.calls, 2);
    cr_assert_geq(accept.last_result, 0);
}

/* Goal: a connection attempt that never ends can be ended. */
BACKEND_TEST(backend_cancel, connect)
{
    struct net_address address;
    static struct probe connect;
    probe_init(&connect, env, PYL_OP_CONNECT, net_blackhole_socket(env, &address));
    connect.op.args.connect.address = (const struct sockaddr *)&address.storage;
    connect.op.args.connect.address_size = address.size;
    probe_submit(&connect);
    env_settle(env);
    cr_assert_eq(connect.calls, 0);
    cancel_now(&connect);
    expect_cancelled(&connect);
    net_close(env, connect.op.fd);
}

/* Goal: a waiting RECV ends, and bytes that come later are there for the next one. */
BACKEND_TEST(backend_cancel, recv_then_resume)
{
    int fds[2];
    static struct probe recv;
    net_pair(env, fds);
    probe_init(&recv, env, PYL_OP_RECV, fds[0]);
    probe_submit(&recv);
    env_settle(env);
    cancel_now(&recv);
    expect_cancelled(&recv);
    cr_assert_eq(net_write(env, fds[1], "later", 5), 5);
    env_settle(env);
    cr_assert_eq(recv.size, 0);
    probe_submit(&recv);
    probe_until_size(&recv, 5);
    cr_assert_arr_eq(recv.data, "later", 5);
}

/* Goal: pausing and resuming at every moment of a transfer loses no byte. */
BACKEND_TEST(backend_cancel, recv_pause_and_resume_loses_nothing)
{
    enum { SIZE = 256 * 1024 };
    int fds[2];
    static struct probe recv;
    uint8_t *data = malloc(SIZE);
    size_t written = 0;
    pattern_fill(data, SIZE, 11);
    net_pair_small(env, fds);
    probe_init(&recv, env, PYL_OP_RECV, fds[0]);
    for (unsigned round = 0; recv.size < SIZE; round++) {
        size_t piece = written + 1 + round % 3000 < SIZE ? 1 + round % 3000 : SIZE - written;
        if (piece > 0) {
            ssize_t count = net_write(env, fds[1], data + written, piece);
            written += count > 0 ? (size_t)count : 0;
        }
        if (pyl_op_is_idle(&recv.op)) {
            probe_submit(&recv);
        }
        if (round % 4 == 1) {
            cancel_now(&recv);
        }
        env_turn(env, round % 3 == 0 ? 0 : PYL_NS_PER_MS);
    }
    cr_assert_eq(memcmp(recv.data, data, SIZE), 0);
    free(data);
}

/* Goal: a SEND that waits for room ends. */
BACKEND_TEST(backend_cancel, send)
{
    int fds[2];
    static struct probe send;
    struct iovec iov = {.iov_base = (char[]){"x"}, .iov_len = 1};
    net_pair(env, fds);
    net_fill(env, fds[0]);
    probe_init(&send, env, PYL_OP_SEND, fds[0]);
    send.op.args.send.message = &(struct msghdr){.msg_iov = &iov, .msg_iovlen = 1};
    probe_submit(&send);
    env_settle(env);
    cancel_now(&send);
    expect_cancelled(&send);
}

/* Goal: both kinds of POLL end. */
BACKEND_TEST(backend_cancel, poll)
{
    int fds[2];
    static struct probe once, always;
    net_pair(env, fds);
    probe_init(&once, env, PYL_OP_POLL, fds[0]);
    once.op.args.poll.events = PYL_POLL_IN;
    probe_init(&always, env, PYL_OP_POLL, fds[1]);
    always.op.args.poll.events = PYL_POLL_IN;
    always.op.flags = PYL_OP_MULTISHOT;
    probe_submit(&once);
    probe_submit(&always);
    env_settle(env);
    cancel_now(&once);
    cancel_now(&always);
    expect_cancelled(&once);
    expect_cancelled(&always);
}

/* Goal: an op cancelled before the kernel ever saw it ends like any other. */
BACKEND_TEST(backend_cancel, right_after_submit)
{
    int fds[2];
    static struct probe recv;
    net_pair(env, fds);
    probe_init(&recv, env, PYL_OP_RECV, fds[0]);
    for (int i = 0; i < 20; i++) {
        probe_submit(&recv);
        cancel_now(&recv);
        env_until(env, &recv.terminals, 1);
        cr_assert_eq(recv.last_result, -ECANCELED);
    }
}

/* Goal: cancelling twice, or an op that is idle, does nothing. */
BACKEND_TEST(backend_cancel, twice_and_idle)
{
    int fds[2];
    static struct probe recv;
    net_pair(env, fds);
    probe_init(&recv, env, PYL_OP_RECV, fds[0]);
    cancel_now(&recv);
    env_settle(env);
    cr_assert_eq(recv.calls, 0);
    probe_submit(&recv);
    cancel_now(&recv);
    cancel_now(&recv);
    expect_cancelled(&recv);
    cancel_now(&recv);
    env_settle(env);
    cr_assert_eq(recv.calls, 1);
}

/* Goal: when the completion and the cancel race, there is still one end, and no byte is lost. */
BACKEND_TEST(backend_cancel, races_with_data)
{
    int fds[2];
    static struct probe recv;
    size_t expected = 0;
    net_pair(env, fds);
    probe_init(&recv, env, PYL_OP_RECV, fds[0]);
    for (int i = 0; i < 200; i++) {
        if (pyl_op_is_idle(&recv.op)) {
            probe_submit(&recv);
        }
        if (i % 2 == 0) {
            env_turn(env, 0);
        }
        if (recv.terminals == 0) {
            cr_assert_eq(net_write(env, fds[1], "x", 1), 1);
            expected++;
            cancel_now(&recv);
        }
        env_until(env, &recv.terminals, 1);
        cr_assert_eq(recv.last_result, -ECANCELED);
    }
    probe_submit(&recv);
    probe_until_size(&recv, expected);
    cr_assert_eq(recv.size, expected);
}

/* Goal: a one-shot op whose result is already waiting ends once, with that result or cancelled. */
BACKEND_TEST(backend_cancel, races_with_one_shot)
{
    for (int i = 0; i < 50; i++) {
        int fds[2];
        static struct probe send;
        struct iovec iov = {.iov_base = (char[]){"x"}, .iov_len = 1};
        net_pair(env, fds);
        probe_init(&send, env, PYL_OP_SEND, fds[0]);
        send.op.args.send.message = &(struct msghdr){.msg_iov = &iov, .msg_iovlen = 1};
        probe_submit(&send);
        cr_assert_eq(pyl_reactor_wait(&env->reactor, i % 2 == 0 ? 0 : PYL_NS_PER_MS), 0);
        cancel_now(&send);
        env_until(env, &send.terminals, 1);
        cr_assert(send.last_result == 1 || send.last_result == -ECANCELED);
        env_settle(env);
        cr_assert_eq(send.calls, 1);
        net_close(env, fds[0]);
        net_close(env, fds[1]);
    }
}

static void
cancel_user(struct probe *probe, const struct pyl_event *event)
{
    (void)event;
    struct probe *other = probe->user;
    cancel_now(other);
}

/* Goal: a callback may cancel its own op. */
BACKEND_TEST(backend_cancel, itself_from_callback)
{
    int fds[2];
    static struct probe recv;
    net_pair(env, fds);
    probe_init(&recv, env, PYL_OP_RECV, fds[0]);
    recv.then = cancel_user;
    recv.user = &recv;
    probe_submit(&recv);
    cr_assert_eq(net_write(env, fds[1], "abc", 3), 3);
    expect_cancelled(&recv);
    cr_assert_geq(recv.size, 1);
}

/* Goal: an ACCEPT that is cancelled by its own callback ends, although more connections wait. */
BACKEND_TEST(backend_cancel, accept_from_callback)
{
    struct net_address address;
    static struct probe accept;
    int listener = net_listen(env, &address);
    for (int i = 0; i < 5; i++) {
        net_connect(env, &address);
    }
    probe_init(&accept, env, PYL_OP_ACCEPT, listener);
    accept.then = cancel_user;
    accept.user = &accept;
    probe_submit(&accept);
    expect_cancelled(&accept);
    cr_assert_leq(accept.calls, 6);
}

/* Goal: a callback may cancel another op whose event waits in the same round. */
BACKEND_TEST(backend_cancel, another_from_callback)
{
    int first[2], second[2];
    static struct probe a, b;
    net_pair(env, first);
    net_pair(env, second);
    probe_init(&a, env, PYL_OP_RECV, first[0]);
    probe_init(&b, env, PYL_OP_RECV, second[0]);
    a.then = b.then = cancel_user;
    a.user = &b;
    b.user = &a;
    probe_submit(&a);
    probe_submit(&b);
    cr_assert_eq(net_write(env, first[1], "a", 1), 1);
    cr_assert_eq(net_write(env, second[1], "b", 1), 1);
    while (a.terminals + b.terminals == 0) {
        env_turn(env, PYL_NS_PER_S);
    }
    env_settle(env);
    cr_assert_geq(a.calls + b.calls, 2);
}

/* Goal: cancel_all ends every kind of op. */
BACKEND_TEST(backend_cancel, all)
{
    enum { PAIRS = 20 };
    static struct probe recv[PAIRS], poll[PAIRS];
    static struct probe accept;
    struct net_address address;
    probe_init(&accept, env, PYL_OP_ACCEPT, net_listen(env, &address));
    probe_submit(&accept);
    for (int i = 0; i < PAIRS; i++) {
        int fds[2];
        net_pair(env, fds);
        probe_init(&recv[i], env, PYL_OP_RECV, fds[0]);
        probe_submit(&recv[i]);
        probe_init(&poll[i], env, PYL_OP_POLL, fds[1]);
        poll[i].op.args.poll.events = PYL_POLL_IN;
        poll[i].op.flags = i % 2 ? PYL_OP_MULTISHOT : 0;
        probe_submit(&poll[i]);
    }
    env_settle(env);
    cr_assert_eq(env->reactor.active_count, 2 * PAIRS + 1);
    pyl_reactor_cancel_all(&env->reactor);
    while (env->reactor.active_count > 0) {
        env_turn(env, PYL_NS_PER_S);
    }
    for (int i = 0; i < PAIRS; i++) {
        cr_assert_eq(recv[i].terminals, 1);
        cr_assert_eq(poll[i].terminals, 1);
    }
}
