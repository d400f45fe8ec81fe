/*
 * test_backend_poll.c - POLL: level-triggered readiness of descriptors that belong to somebody
 * else.
 */
#include "suite.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void
poll_init(struct probe *probe, struct env *env, int fd, uint32_t events, uint8_t flags)
{
    probe_init(probe, env, PYL_OP_POLL, fd);
    probe->op.args.poll.events = events;
    probe->op.flags = flags;
}

static void
drain(struct env *env, int fd)
{
    uint8_t buffer[4096];
    while (net_read(env, fd, buffer, sizeof(buffer)) > 0) {
    }
}

/* Goal: one-shot fires when ready, once, and again when submitted again. */
BACKEND_TEST(backend_poll, one_shot_repeats)
{
    int fds[2];
    static struct probe in;
    net_pair(env, fds);
    poll_init(&in, env, fds[0], PYL_POLL_IN, 0);
    for (int i = 0; i < 10; i++) {
        probe_submit(&in);
        env_turn(env, 0);
        cr_assert_eq(in.calls, i);
        cr_assert_eq(net_write(env, fds[1], "x", 1), 1);
        env_until(env, &in.terminals, 1);
        cr_assert_eq(in.last_result & PYL_POLL_IN, PYL_POLL_IN);
        drain(env, fds[0]);
        env_turn(env, 0);
        cr_assert_eq(in.calls, i + 1);
    }
}

/* Goal: readiness is level-triggered: what was ready before the op counts. */
BACKEND_TEST(backend_poll, one_shot_sees_old_readiness)
{
    int fds[2];
    static struct probe in;
    net_pair(env, fds);
    cr_assert_eq(net_write(env, fds[1], "x", 1), 1);
    poll_init(&in, env, fds[0], PYL_POLL_IN, 0);
    probe_run(&in);
    probe_run(&in);
    cr_assert_eq(in.calls, 2);
}

/* Goal: multishot fires in every round while ready, at most once a round, and rests when
 * drained. */
BACKEND_TEST(backend_poll, multishot_is_level_triggered)
{
    int fds[2];
    static struct probe in;
    net_pair(env, fds);
    poll_init(&in, env, fds[0], PYL_POLL_IN, PYL_OP_MULTISHOT);
    probe_submit(&in);
    env_settle(env);
    cr_assert_eq(in.calls, 0);
    cr_assert_eq(net_write(env, fds[1], "x", 1), 1);
    env_until(env, &in.calls, 1);
    for (int i = 0; i < 10; i++) {
        int before = in.calls;
        env_until(env, &in.calls, before + 1);
        cr_assert_eq(in.calls, before + 1);
    }
    drain(env, fds[0]);
    env_turn(env, 0); /* one may have been on its way */
    env_turn(env, 0);
    int rest = in.calls;
    env_settle(env);
    cr_assert_eq(in.calls, rest);
    cr_assert_eq(net_write(env, fds[1], "y", 1), 1);
    env_until(env, &in.calls, rest + 1);
    cr_assert_eq(in.terminals, 0);
}

/* Goal: reader and writer of one descriptor are two ops that do not disturb each other. */
BACKEND_TEST(backend_poll, both_directions)
{
    static const uint8_t flags[][2] = {
        {0, 0}, {PYL_OP_MULTISHOT, PYL_OP_MULTISHOT}, {PYL_OP_MULTISHOT, 0}, {0, PYL_OP_MULTISHOT}};
    for (size_t i = 0; i < 4; i++) {
        int fds[2];
        static struct probe in, out;
        net_pair(env, fds);
        size_t filled = net_fill(env, fds[0]);
        poll_init(&in, env, fds[0], PYL_POLL_IN, flags[i][0]);
        poll_init(&out, env, fds[0], PYL_POLL_OUT, flags[i][1]);
        probe_submit(&in);
        probe_submit(&out);
        env_settle(env);
        cr_assert_eq(in.calls + out.calls, 0);
        cr_assert_eq(net_write(env, fds[1], "x", 1), 1);
        env_until(env, &in.calls, 1);
        cr_assert_eq(out.calls, 0);
        while (filled > 0) {
            static uint8_t buffer[65536];
            ssize_t count = net_read(env, fds[1], buffer, sizeof(buffer));
            filled -= count > 0 ? (size_t)count : 0;
            env_turn(env, 0);
        }
        env_until(env, &out.calls, 1);
        cr_assert(out.last_result & PYL_POLL_OUT);
        pyl_reactor_cancel(&env->reactor, &in.op);
        pyl_reactor_cancel(&env->reactor, &out.op);
        env_until(env, &in.terminals, 1);
        env_until(env, &out.terminals, 1);
        net_close(env, fds[0]);
        net_close(env, fds[1]);
    }
}

/* Goal: one op may ask for both directions. */
BACKEND_TEST(backend_poll, one_op_for_both)
{
    int fds[2];
    static struct probe both;
    net_pair(env, fds);
    poll_init(&both, env, fds[0], PYL_POLL_IN | PYL_POLL_OUT, 0);
    probe_run(&both);
    cr_assert_eq(both.last_result, PYL_POLL_OUT);
    cr_assert_eq(net_write(env, fds[1], "x", 1), 1);
    env_settle(env);
    probe_run(&both);
    cr_assert_eq(both.last_result, PYL_POLL_IN | PYL_POLL_OUT);
}

/* Goal: a reader learns that the peer has gone. */
BACKEND_TEST(backend_poll, peer_gone)
{
    int fds[2];
    static struct probe in;
    net_pair(env, fds);
    poll_init(&in, env, fds[0], PYL_POLL_IN, 0);
    probe_submit(&in);
    env_settle(env);
    net_reset(env, fds[1]);
    env_until(env, &in.terminals, 1);
    cr_assert(in.last_result & (PYL_POLL_IN | PYL_POLL_HANGUP | PYL_POLL_ERROR));
}

/* Goal: what cannot be polled says so in the result. */
BACKEND_TEST(backend_poll, errors)
{
    static struct probe in;
    poll_init(&in, env, 9999, PYL_POLL_IN, 0);
    probe_run(&in);
    cr_assert_eq(in.last_result, -EBADF);
    poll_init(&in, env, -1, PYL_POLL_IN, PYL_OP_MULTISHOT);
    probe_run(&in);
    cr_assert_eq(in.last_result, -EBADF);
    int fds[2];
    net_pair(env, fds);
    poll_init(&in, env, fds[0], 0, 0);
    probe_run(&in);
    cr_assert_eq(in.last_result, -EINVAL);
}

/* Goal: a regular file cannot be watched (add_reader), on any Linux backend. */
BACKEND_TEST(backend_poll, regular_file)
{
    if (env->is_sim) {
        return;
    }
    char path[] = "pyl-test-XXXXXX";
    int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    unlink(path);
    static struct probe in;
    poll_init(&in, env, fd, PYL_POLL_IN, PYL_OP_MULTISHOT);
    probe_run(&in);
    cr_assert_eq(in.last_result, -EPERM);
    close(fd);
}

/* Goal: the user may close a descriptor and get its number again without a word to the reactor. */
BACKEND_TEST(backend_poll, reopened_behind_our_back)
{
    if (env->is_sim) {
        return;
    }
    for (int i = 0; i < 6; i++) {
        int fds[2];
        static struct probe in;
        uint8_t flags = i % 2 ? PYL_OP_MULTISHOT : 0;
        cr_assert_eq(pipe2(fds, O_NONBLOCK | O_CLOEXEC), 0);
        int number = fds[0];
        poll_init(&in, env, fds[0], PYL_POLL_IN, flags);
        if (i < 2) {
            cr_assert_eq(write(fds[1], "x", 1), 1);
            probe_submit(&in);
            env_until(env, &in.calls, 1);
        } else {
            probe_submit(&in);
            if (i < 4) {
                env_settle(env);
            }
        }
        pyl_reactor_cancel(&env->reactor, &in.op);
        close(fds[0]);
        close(fds[1]);

        cr_assert_eq(pipe2(fds, O_NONBLOCK | O_CLOEXEC), 0);
        cr_assert_eq(fds[0], number);
        static struct probe again;
        poll_init(&again, env, fds[0], PYL_POLL_IN, flags);
        probe_submit(&again);
        env_settle(env);
        cr_assert_eq(again.calls, 0);
        cr_assert_eq(write(fds[1], "y", 1), 1);
        env_until(env, &again.calls, 1);
        cr_assert_eq(again.last_result & PYL_POLL_IN, PYL_POLL_IN);
        cr_assert_eq(in.terminals, 1);
        pyl_reactor_cancel(&env->reactor, &again.op);
        env_until(env, &again.terminals, 1);
        close(fds[0]);
        close(fds[1]);
    }
}

/* Goal: cancel lets go of the descriptor at once: the peer sees the close without a further
 * turn of ours. */
BACKEND_TEST(backend_poll, cancel_then_forget_then_close)
{
    int fds[2];
    static struct probe in;
    net_pair(env, fds);
    poll_init(&in, env, fds[0], PYL_POLL_IN, PYL_OP_MULTISHOT);
    probe_submit(&in);
    env_settle(env);
    pyl_reactor_cancel(&env->reactor, &in.op);
    net_close(env, fds[0]);
    uint8_t byte;
    ssize_t count = -EAGAIN;
    for (int i = 0; i < 1000 && count == -EAGAIN; i++) {
        count = net_read(env, fds[1], &byte, 1);
    }
    cr_assert_eq(count, 0);
    env_until(env, &in.terminals, 1);
    cr_assert_eq(in.last_result, -ECANCELED);
}

/* Goal: POLL is level-triggered also on an fd that RECV had before, and RECV works again after. */
BACKEND_TEST(backend_poll, level_triggered_after_recv)
{
    int fds[2];
    static struct probe in, recv;
    net_pair(env, fds);
    probe_init(&recv, env, PYL_OP_RECV, fds[0]);
    poll_init(&in, env, fds[0], PYL_POLL_IN, PYL_OP_MULTISHOT);
    for (int i = 0; i < 2; i++) {
        probe_submit(&recv);
        cr_assert_eq(net_write(env, fds[1], "abc", 3), 3);
        probe_until_size(&recv, (size_t)i * 4 + 3);
        pyl_reactor_cancel(&env->reactor, &recv.op);
        env_until(env, &recv.terminals, 1);
        cr_assert_eq(net_write(env, fds[1], "d", 1), 1);
        int before = in.calls;
        probe_submit(&in);
        env_until(env, &in.calls, before + 5);
        pyl_reactor_cancel(&env->reactor, &in.op);
        env_until(env, &in.terminals, 1);
        probe_submit(&recv);
        probe_until_size(&recv, (size_t)i * 4 + 4);
        pyl_reactor_cancel(&env->reactor, &recv.op);
        env_until(env, &recv.terminals, 1);
    }
}

/* Goal: an fd that was polled can be handed to RECV, and back. */
BACKEND_TEST(backend_poll, mixes_with_recv)
{
    int fds[2];
    static struct probe in, recv;
    net_pair(env, fds);
    poll_init(&in, env, fds[0], PYL_POLL_IN, 0);
    probe_init(&recv, env, PYL_OP_RECV, fds[0]);
    for (int i = 0; i < 5; i++) {
        size_t before = recv.size;
        cr_assert_eq(net_write(env, fds[1], "x", 1), 1);
        probe_run(&in);
        probe_submit(&recv);
        while (recv.size == before) {
            env_turn(env, PYL_NS_PER_S);
        }
        /* Both at once. */
        probe_submit(&in);
        cr_assert_eq(net_write(env, fds[1], "y", 1), 1);
        probe_until_size(&recv, before + 2);
        pyl_reactor_cancel(&env->reactor, &in.op);
        env_until(env, &in.terminals, 1);
        cr_assert_eq(net_write(env, fds[1], "z", 1), 1);
        probe_until_size(&recv, before + 3);
        pyl_reactor_cancel(&env->reactor, &recv.op);
        env_until(env, &recv.terminals, 1);
    }
}
