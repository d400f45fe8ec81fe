/*
 * test_backend.c - accepting, connecting and moving bytes: what every backend promises in op.h and
 * backend.h. Cancelling is in test_backend_cancel.c, POLL in test_backend_poll.c, waiting, waking,
 * fork and descriptors in test_backend_wait.c.
 */
#include "suite.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { BIG = 4 * 1024 * 1024 };

/* ---- ACCEPT ---- */

/* Goal: one ACCEPT delivers every connection, and each can be used. */
BACKEND_TEST(backend_accept, delivers_every_connection)
{
    struct net_address address;
    static struct probe accept;
    int listener = net_listen(env, &address);
    probe_init(&accept, env, PYL_OP_ACCEPT, listener);
    probe_submit(&accept);
    int peers[3];
    for (int i = 0; i < 3; i++) {
        peers[i] = net_connect(env, &address);
        env_until(env, &accept.calls, i + 1);
    }
    cr_assert_eq(accept.terminals, 0);
    cr_assert_eq(net_write(env, peers[1], "hello", 5), 5);
    static struct probe recv;
    probe_init(&recv, env, PYL_OP_RECV, accept.results[1]);
    probe_submit(&recv);
    probe_until_size(&recv, 5);
    cr_assert_arr_eq(recv.data, "hello", 5);
}

/* Goal: the new descriptor is non-blocking and close-on-exec. */
BACKEND_TEST(backend_accept, sets_descriptor_flags)
{
    if (env->is_sim) {
        return; /* the simulation's fds have no flags */
    }
    struct net_address address;
    static struct probe accept;
    probe_init(&accept, env, PYL_OP_ACCEPT, net_listen(env, &address));
    probe_submit(&accept);
    net_connect(env, &address);
    env_until(env, &accept.calls, 1);
    cr_assert(fcntl(accept.last_result, F_GETFL) & O_NONBLOCK);
    cr_assert(fcntl(accept.last_result, F_GETFD) & FD_CLOEXEC);
}

/* Goal: connections that were there before the op, and many at once, all arrive. */
BACKEND_TEST(backend_accept, takes_a_burst_from_the_backlog)
{
    struct net_address address;
    static struct probe accept;
    int listener = net_listen(env, &address);
    for (int i = 0; i < 100; i++) {
        net_connect(env, &address);
    }
    probe_init(&accept, env, PYL_OP_ACCEPT, listener);
    probe_submit(&accept);
    env_until(env, &accept.calls, 100);
    env_settle(env);
    cr_assert_eq(accept.calls, 100);
}

/* Goal: without descriptors the op ends with that error, and a later op gets the connection. */
BACKEND_TEST(backend_accept, no_descriptors_is_terminal)
{
    struct net_address address;
    static struct probe accept;
    int listener = net_listen(env, &address);
    net_connect(env, &address);
    probe_init(&accept, env, PYL_OP_ACCEPT, listener);
    net_limit_fds(env, true);
    probe_run(&accept);
    cr_assert_eq(accept.last_result, -EMFILE);
    cr_assert_eq(accept.calls, 1);
    env_settle(env);
    cr_assert_eq(accept.calls, 1);
    net_limit_fds(env, false);
    probe_submit(&accept);
    env_until(env, &accept.calls, 2);
    cr_assert_geq(accept.last_result, 0);
}

/* Goal: accepting on a socket that does not listen is an error, not a loop. */
BACKEND_TEST(backend_accept, not_listening_is_an_error)
{
    static struct probe accept;
    probe_init(&accept, env, PYL_OP_ACCEPT, net_socket(env));
    probe_run(&accept);
    cr_assert_eq(accept.last_result, -EINVAL);
}

/* ---- CONNECT ---- */

static void
connect_to(struct probe *connect, const struct net_address *address)
{
    connect->op.args.connect.address = (const struct sockaddr *)&address->storage;
    connect->op.args.connect.address_size = address->size;
}

/* Goal: a connection is made and carries bytes both ways. */
BACKEND_TEST(backend_connect, succeeds)
{
    struct net_address address;
    static struct probe accept, connect, recv;
    uint8_t buffer[8];
    probe_init(&accept, env, PYL_OP_ACCEPT, net_listen(env, &address));
    probe_submit(&accept);
    probe_init(&connect, env, PYL_OP_CONNECT, net_socket(env));
    connect_to(&connect, &address);
    probe_run(&connect);
    cr_assert_eq(connect.last_result, 0, "%s", pyl_error_name(connect.last_result));
    env_until(env, &accept.calls, 1);

    probe_send_all(env, connect.op.fd, (const uint8_t *)"ping", 4);
    net_read_all(env, accept.last_result, buffer, 4);
    cr_assert_arr_eq(buffer, "ping", 4);
    probe_init(&recv, env, PYL_OP_RECV, connect.op.fd);
    probe_submit(&recv);
    cr_assert_eq(net_write(env, accept.last_result, "pong", 4), 4);
    probe_until_size(&recv, 4);
    cr_assert_arr_eq(recv.data, "pong", 4);
}

/* Goal: a refused connection says so. */
BACKEND_TEST(backend_connect, refused)
{
    struct net_address address;
    static struct probe connect;
    net_refusing_address(env, &address);
    probe_init(&connect, env, PYL_OP_CONNECT, net_socket(env));
    connect_to(&connect, &address);
    probe_run(&connect);
    cr_assert_eq(connect.last_result, -ECONNREFUSED);
}

/* ---- RECV ---- */

/* Goal: several writes arrive in order, through one op. */
BACKEND_TEST(backend_recv, several_writes)
{
    int fds[2];
    static struct probe recv;
    net_pair(env, fds);
    probe_init(&recv, env, PYL_OP_RECV, fds[0]);
    probe_submit(&recv);
    uint8_t expected[50];
    for (uint8_t i = 0; i < 50; i++) {
        expected[i] = i;
        cr_assert_eq(net_write(env, fds[1], &i, 1), 1);
        probe_until_size(&recv, (size_t)i + 1);
    }
    cr_assert_eq(recv.terminals, 0);
    cr_assert_arr_eq(recv.data, expected, 50);
}

/* Goal: data that came before the op, and the end of stream, are seen. */
BACKEND_TEST(backend_recv, data_and_eof_before_submit)
{
    int fds[2];
    static struct probe recv;
    net_pair(env, fds);
    cr_assert_eq(net_write(env, fds[1], "abc", 3), 3);
    net_shutdown(env, fds[1]);
    probe_init(&recv, env, PYL_OP_RECV, fds[0]);
    probe_run(&recv);
    cr_assert_eq(recv.size, 3);
    cr_assert_eq(recv.last_result, 0);
    probe_run(&recv);
    cr_assert_eq(recv.last_result, 0, "the end of stream can be asked for again");
}

/* Goal: the end of stream ends the op once; the other direction still works. */
BACKEND_TEST(backend_recv, half_close)
{
    int fds[2];
    static struct probe recv;
    uint8_t buffer[16];
    net_pair(env, fds);
    probe_init(&recv, env, PYL_OP_RECV, fds[0]);
    probe_submit(&recv);
    env_settle(env);
    net_shutdown(env, fds[1]);
    env_until(env, &recv.terminals, 1);
    cr_assert_eq(recv.last_result, 0);
    probe_send_all(env, fds[0], (const uint8_t *)"still here", 10);
    net_read_all(env, fds[1], buffer, 10);
    cr_assert_arr_eq(buffer, "still here", 10);
    env_settle(env);
    cr_assert_eq(recv.calls, 1);
}

/* Goal: a reset is reported as ECONNRESET. */
BACKEND_TEST(backend_recv, reset)
{
    int fds[2];
    static struct probe recv;
    net_pair(env, fds);
    probe_init(&recv, env, PYL_OP_RECV, fds[0]);
    probe_submit(&recv);
    env_settle(env);
    net_reset(env, fds[1]);
    env_until(env, &recv.terminals, 1);
    cr_assert_eq(recv.last_result, -ECONNRESET);
}

static void
write_when_possible(struct env *env, int fd, const uint8_t *data, size_t size, size_t *offset)
{
    while (*offset < size) {
        ssize_t count = net_write(env, fd, data + *offset, size - *offset);
        if (count == -EAGAIN) {
            return;
        }
        cr_assert_gt(count, 0);
        *offset += (size_t)count;
    }
}

/* Goal: megabytes arrive byte exact. */
BACKEND_TEST(backend_recv, big_transfer)
{
    int fds[2];
    static struct probe recv;
    uint8_t *data = malloc(BIG);
    size_t written = 0;
    pattern_fill(data, BIG, 7);
    net_pair(env, fds);
    probe_init(&recv, env, PYL_OP_RECV, fds[0]);
    probe_submit(&recv);
    while (recv.size < BIG) {
        write_when_possible(env, fds[1], data, BIG, &written);
        env_turn(env, 10 * PYL_NS_PER_MS);
        cr_assert_eq(recv.terminals, 0);
    }
    cr_assert_eq(memcmp(recv.data, data, BIG), 0);
    free(data);
}

static void
count_per_round(struct probe *probe, const struct pyl_event *event)
{
    (void)event;
    ++*(int *)probe->user;
}

/* Goal: one busy connection gets one delivery per round, and the rest does not need a new wake-
 * up. */
BACKEND_TEST(backend_recv, one_delivery_per_round)
{
    int fds[2];
    static int deliveries;
    static struct probe recv;
    net_pair(env, fds);
    size_t size = net_fill(env, fds[1]);
    probe_init(&recv, env, PYL_OP_RECV, fds[0]);
    recv.then = count_per_round;
    recv.user = &deliveries;
    probe_submit(&recv);
    while (recv.size < size) {
        env_turn(env, PYL_NS_PER_S);
        cr_assert_leq(deliveries, 1);
        deliveries = 0;
    }
    cr_assert_eq(recv.size, size);
}

/* Goal: a closed descriptor gives EBADF. */
BACKEND_TEST(backend_recv, bad_descriptor)
{
    static struct probe recv;
    probe_init(&recv, env, PYL_OP_RECV, 9999);
    probe_run(&recv);
    cr_assert_eq(recv.last_result, -EBADF);
    probe_init(&recv, env, PYL_OP_RECV, -1);
    probe_run(&recv);
    cr_assert_eq(recv.last_result, -EBADF);
}

/* ---- SEND ---- */

/* Goal: the pieces of an iovec arrive as one run of bytes. */
BACKEND_TEST(backend_send, gathers)
{
    int fds[2];
    static struct probe send;
    char buffer[32];
    net_pair(env, fds);
    struct iovec iov[3] = {{.iov_base = (char[]){"one "}, .iov_len = 4},
                           {.iov_base = (char[]){"two "}, .iov_len = 4},
                           {.iov_base = (char[]){"three"}, .iov_len = 5}};
    probe_init(&send, env, PYL_OP_SEND, fds[0]);
    send.op.args.send.message = &(struct msghdr){.msg_iov = iov, .msg_iovlen = 3};
    probe_run(&send);
    size_t sent = (size_t)send.last_result;
    cr_assert(sent > 0 && sent <= 13);
    net_read_all(env, fds[1], buffer, sent);
    cr_assert_eq(memcmp(buffer, "one two three", sent), 0);
}

/* Goal: a send to a full socket waits, and ends when the peer reads. */
BACKEND_TEST(backend_send, waits_while_full)
{
    int fds[2];
    static struct probe send;
    static uint8_t buffer[1 << 20];
    net_pair(env, fds);
    size_t filled = net_fill(env, fds[0]), received = 0;
    struct iovec iov = {.iov_base = (char[]){"x"}, .iov_len = 1};
    probe_init(&send, env, PYL_OP_SEND, fds[0]);
    send.op.args.send.message = &(struct msghdr){.msg_iov = &iov, .msg_iovlen = 1};
    probe_submit(&send);
    env_settle(env);
    cr_assert_eq(send.calls, 0);
    while (received < filled + 1) {
        ssize_t count = net_read(env, fds[1], buffer, sizeof(buffer));
        received += count > 0 ? (size_t)count : 0;
        env_turn(env, PYL_NS_PER_MS);
    }
    env_until(env, &send.terminals, 1);
    cr_assert_eq(send.last_result, 1);
    cr_assert_eq(received, filled + 1);
}

/* Goal: sending to a peer that has gone is an error, never a signal. */
BACKEND_TEST(backend_send, to_closed_peer)
{
    int fds[2];
    static struct probe send;
    struct iovec iov = {.iov_base = (char[]){"x"}, .iov_len = 1};
    net_pair(env, fds);
    net_reset(env, fds[1]);
    probe_init(&send, env, PYL_OP_SEND, fds[0]);
    send.op.args.send.message = &(struct msghdr){.msg_iov = &iov, .msg_iovlen = 1};
    for (int i = 0; i < 100 && send.last_result >= 0; i++) {
        probe_run(&send);
    }
    cr_assert(send.last_result == -EPIPE || send.last_result == -ECONNRESET);
}

/* Goal: megabytes cross in both directions at once, byte exact, over small socket buffers. */
BACKEND_TEST(backend_send, both_directions_with_short_sends)
{
    int fds[2];
    static struct probe recv, send;
    size_t total = BIG / 8, sent = 0, written = 0, received = 0;
    uint8_t *data = malloc(total), *back = malloc(total);
    pattern_fill(data, total, 3);
    net_pair_small(env, fds);
    probe_init(&recv, env, PYL_OP_RECV, fds[0]);
    probe_submit(&recv);
    probe_init(&send, env, PYL_OP_SEND, fds[0]);
    struct iovec iov;
    send.op.args.send.message = &(struct msghdr){.msg_iov = &iov, .msg_iovlen = 1};
    while (recv.size < total || received < total) {
        if (pyl_op_is_idle(&send.op) && sent < total) {
            iov = (struct iovec){.iov_base = data + sent, .iov_len = total - sent};
            probe_submit(&send);
        }
        write_when_possible(env, fds[1], data, total, &written);
        ssize_t count = net_read(env, fds[1], back + received, total - received);
        received += count > 0 ? (size_t)count : 0;
        env_turn(env, PYL_NS_PER_MS);
        if (send.terminals > 0) {
            cr_assert_gt(send.last_result, 0);
            sent += (size_t)send.last_result;
            send.terminals = 0;
        }
    }
    cr_assert_eq(memcmp(recv.data, data, total), 0);
    cr_assert_eq(memcmp(back, data, total), 0);
    free(data);
    free(back);
}

/* Goal: send_now takes what fits, says EAGAIN when full, and an op then goes on where it
 * stopped. */
BACKEND_TEST(backend_send, now_then_op)
{
    int fds[2];
    uint8_t *buffer = malloc(BIG);
    net_pair(env, fds);
    pattern_fill(buffer, BIG, 5);
    size_t sent = 0, received = 0;
    int64_t count;
    struct iovec iov;
    do {
        iov.iov_len = BIG - sent % BIG;
        iov.iov_base = buffer + sent % BIG;
        count = pyl_reactor_send_now(&env->reactor, fds[0], &iov, 1);
        sent += count > 0 ? (size_t)count : 0;
    } while (count > 0);
    cr_assert_eq(count, -EAGAIN);
    cr_assert_gt(sent, 0);

    static struct probe send;
    probe_init(&send, env, PYL_OP_SEND, fds[0]);
    send.op.args.send.message = &(struct msghdr){.msg_iov = &iov, .msg_iovlen = 1};
    probe_submit(&send);
    uint8_t *back = malloc(BIG);
    while (send.terminals == 0 || received < sent) {
        ssize_t n = net_read(env, fds[1], back, BIG - received % BIG);
        if (n > 0) {
            cr_assert_eq(memcmp(back, buffer + received % BIG, (size_t)n), 0);
            received += (size_t)n;
        }
        env_turn(env, PYL_NS_PER_MS);
        if (send.terminals > 0 && send.user == NULL) {
            cr_assert_gt(send.last_result, 0);
            sent += (size_t)send.last_result;
            send.user = &send;
        }
    }
    cr_assert_eq(received, sent);
    free(buffer);
    free(back);
}
