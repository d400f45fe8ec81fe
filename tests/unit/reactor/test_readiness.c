/*
 * test_readiness.c - the readiness half without a kernel interface: this suite is the backend,
 * records how each fd is to be watched, and reports what it likes.
 */
#include "base/alloc.h"
#include "filter.h"
#include "reactor/readiness.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { READ_BUFFER = 64 };

struct fake_backend {
    struct pyl_readiness readiness; /* first, as readiness.h says */
    int watch_calls;
    int last_fd;
    enum pyl_watch last_watch;
    uint8_t last_mask;
    uint32_t last_generation;
    int watch_result;
};

static struct pyl_reactor reactor;

static struct fake_backend *
fake(void)
{
    return reactor.backend;
}

static int
fake_watch(struct pyl_reactor *unused, int fd, const struct pyl_ready_fd *entry,
           enum pyl_watch watch, uint8_t mask)
{
    (void)unused;
    fake()->watch_calls++;
    fake()->last_fd = fd;
    fake()->last_watch = watch;
    fake()->last_mask = mask;
    fake()->last_generation = entry->generation;
    return fake()->watch_result;
}

static int
fake_init(struct pyl_reactor *target, const struct pyl_reactor_options *options)
{
    target->backend = pyl_alloc_zero(sizeof(struct fake_backend));
    ((struct fake_backend *)target->backend)->readiness.watch = fake_watch;
    return pyl_readiness_init(target->backend, options);
}

static void
fake_fini(struct pyl_reactor *target)
{
    pyl_readiness_fini(target->backend);
    pyl_free(target->backend);
    target->backend = NULL;
}

static int
fake_wait(struct pyl_reactor *target, int64_t timeout_ns)
{
    (void)timeout_ns;
    pyl_readiness_collect(target);
    return 0;
}

static const struct pyl_backend_ops fake_ops = {
    .name = "fake",
    .init = fake_init,
    .fini = fake_fini,
    .submit = pyl_readiness_submit,
    .cancel = pyl_readiness_cancel,
    .forget = pyl_readiness_forget,
    .wait = fake_wait,
    .perform = pyl_readiness_perform,
    .send_now = pyl_readiness_send_now,
};

static int calls;
static int terminals;
static int32_t last_result;
static int32_t last_count; /* bytes of the last data */

static void
on_complete(struct pyl_op *op, const struct pyl_event *event)
{
    (void)op;
    calls++;
    terminals += (event->flags & PYL_EVENT_MORE) == 0;
    last_result = event->result;
    last_count = event->data != NULL ? event->result : last_count;
}

static void
setup(void)
{
    static const struct pyl_reactor_options options = {.events_max = 8,
                                                       .read_buffer_size = READ_BUFFER};
    cr_assert_eq(pyl_reactor_init_backend(&reactor, &fake_ops, &options), 0);
}

static void
teardown(void)
{
    pyl_reactor_drop(&reactor);
}

TestSuite(readiness, .init = setup, .fini = teardown);

static void
turn(void)
{
    cr_assert_eq(pyl_reactor_wait(&reactor, 0), 0);
    pyl_reactor_dispatch(&reactor);
}

static void
report(int fd, uint8_t bits)
{
    pyl_readiness_report(&reactor, fd, fake()->last_generation, bits, PYL_POLL_IN | PYL_POLL_OUT);
}

static void
tcp_pair(int fds[2])
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000001)};
    socklen_t size = sizeof(address);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    cr_assert_eq(bind(listener, (struct sockaddr *)&address, size), 0);
    cr_assert_eq(listen(listener, 1), 0);
    cr_assert_eq(getsockname(listener, (struct sockaddr *)&address, &size), 0);
    fds[1] = socket(AF_INET, SOCK_STREAM, 0);
    cr_assert_eq(connect(fds[1], (struct sockaddr *)&address, size), 0);
    fds[0] = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    cr_assert_geq(fds[0], 0);
    close(listener);
}

static void
submit(struct pyl_op *op, enum pyl_op_kind kind, int fd)
{
    op->kind = (uint8_t)kind;
    op->fd = fd;
    op->on_complete = on_complete;
    pyl_reactor_submit(&reactor, op);
}

static void
expect_watch(int watch_calls, enum pyl_watch watch, uint8_t mask)
{
    cr_assert_eq(fake()->watch_calls, watch_calls);
    cr_assert_eq(fake()->last_watch, watch);
    cr_assert_eq(fake()->last_mask, mask);
}

/* Goal: an owned fd is registered once; messages, sends and pauses cost no further call. */
Test(readiness, registers_once)
{
    static struct pyl_op recv_op, send_op;
    int fds[2];
    tcp_pair(fds);
    submit(&recv_op, PYL_OP_RECV, fds[0]);
    expect_watch(1, PYL_WATCH_EDGE, PYL_POLL_IN | PYL_POLL_OUT);
    struct iovec iov = {.iov_base = (char[]){"x"}, .iov_len = 1};
    send_op.args.send.message = &(struct msghdr){.msg_iov = &iov, .msg_iovlen = 1};
    report(fds[0], PYL_POLL_OUT);
    for (int i = 0; i < 10; i++) {
        submit(&send_op, PYL_OP_SEND, fds[0]);
        cr_assert_eq(write(fds[1], "x", 1), 1);
        report(fds[0], PYL_POLL_IN);
        turn();
    }
    cr_assert_eq(calls, 20);
    pyl_reactor_cancel(&reactor, &recv_op);
    turn();
    submit(&recv_op, PYL_OP_RECV, fds[0]);
    cr_assert_eq(fake()->watch_calls, 1);
}

/* Goal: after a short read nothing is tried until the kernel reports again. */
Test(readiness, short_read_ends_readiness)
{
    static struct pyl_op op;
    int fds[2];
    tcp_pair(fds);
    submit(&op, PYL_OP_RECV, fds[0]);
    cr_assert_eq(write(fds[1], "abc", 3), 3);
    report(fds[0], PYL_POLL_IN);
    turn();
    cr_assert_eq(calls, 1);
    cr_assert_not(pyl_readiness_has_queued(&fake()->readiness));
}

/* Goal: a full buffer means more: it is delivered in the next turn without a report. */
Test(readiness, full_read_goes_on)
{
    static struct pyl_op op;
    char data[READ_BUFFER + 10] = {0};
    int fds[2];
    tcp_pair(fds);
    submit(&op, PYL_OP_RECV, fds[0]);
    cr_assert_eq(write(fds[1], data, sizeof(data)), sizeof(data));
    report(fds[0], PYL_POLL_IN);
    turn();
    cr_assert_eq(last_count, READ_BUFFER);
    cr_assert_eq(calls, 1);
    turn();
    cr_assert_eq(last_count, 10);
    turn();
    cr_assert_eq(calls, 2);
}

/* Goal: when the peer has shut down, a short read is not the end: the end of stream follows. */
Test(readiness, end_follows_short_read)
{
    static struct pyl_op op;
    int fds[2];
    tcp_pair(fds);
    submit(&op, PYL_OP_RECV, fds[0]);
    cr_assert_eq(write(fds[1], "abc", 3), 3);
    cr_assert_eq(shutdown(fds[1], SHUT_WR), 0);
    report(fds[0], PYL_POLL_IN | PYL_READY_READ_ON);
    turn();
    turn();
    cr_assert_eq(calls, 2);
    cr_assert_eq(terminals, 1);
    cr_assert_eq(last_result, 0);
}

/* Goal: on a Unix socket, where ancillary data cuts reads short, only EAGAIN ends readiness. */
Test(readiness, short_read_on_unix_socket_goes_on)
{
    static struct pyl_op op;
    int fds[2];
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    submit(&op, PYL_OP_RECV, fds[0]);
    struct iovec iov = {.iov_base = (char[]){"ab"}, .iov_len = 2};
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof(control.bytes)};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &fds[1], sizeof(int));
    cr_assert_eq(sendmsg(fds[1], &message, 0), 2);
    cr_assert_eq(write(fds[1], "cd", 2), 2);
    report(fds[0], PYL_POLL_IN);
    int bytes = 0;
    for (int i = 0; i < 5; i++) {
        int before = calls;
        turn();
        bytes += calls > before ? last_count : 0;
    }
    cr_assert_eq(bytes, 4);
}

/* Goal: an event of an earlier life of the number is dropped. */
Test(readiness, stale_generation_is_dropped)
{
    static struct pyl_op op;
    int fds[2];
    tcp_pair(fds);
    submit(&op, PYL_OP_RECV, fds[0]);
    uint32_t stale = fake()->last_generation;
    pyl_reactor_cancel(&reactor, &op);
    turn();
    pyl_reactor_forget(&reactor, fds[0]);
    expect_watch(2, PYL_WATCH_NONE, 0);
    submit(&op, PYL_OP_RECV, fds[0]);
    cr_assert_neq(fake()->last_generation, stale);
    cr_assert_eq(write(fds[1], "x", 1), 1);
    calls = 0;
    pyl_readiness_report(&reactor, fds[0], stale, PYL_POLL_IN, 0);
    turn();
    cr_assert_eq(calls, 0);
    report(fds[0], PYL_POLL_IN);
    turn();
    cr_assert_eq(calls, 1);
}

/* Goal: a one-shot POLL is one call each time, and an fd without ops is not unregistered. */
Test(readiness, one_shot_poll_is_one_call)
{
    static struct pyl_op op;
    int fds[2];
    tcp_pair(fds);
    op.args.poll.events = PYL_POLL_IN;
    for (int i = 1; i <= 5; i++) {
        submit(&op, PYL_OP_POLL, fds[0]);
        expect_watch(i, PYL_WATCH_ONESHOT, PYL_POLL_IN);
        report(fds[0], PYL_POLL_IN);
        turn();
        cr_assert_eq(calls, i);
        cr_assert_eq(last_result, PYL_POLL_IN);
    }
}

/* Goal: when one direction fires, a one-shot of the other is armed again. */
Test(readiness, other_direction_is_rearmed)
{
    static struct pyl_op in, out;
    int fds[2];
    tcp_pair(fds);
    in.args.poll.events = PYL_POLL_IN;
    out.args.poll.events = PYL_POLL_OUT;
    submit(&in, PYL_OP_POLL, fds[0]);
    submit(&out, PYL_OP_POLL, fds[0]);
    expect_watch(2, PYL_WATCH_ONESHOT, PYL_POLL_IN | PYL_POLL_OUT);
    report(fds[0], PYL_POLL_IN);
    expect_watch(3, PYL_WATCH_ONESHOT, PYL_POLL_OUT);
    turn();
    cr_assert_eq(terminals, 1);
    report(fds[0], PYL_POLL_HANGUP);
    turn();
    cr_assert_eq(terminals, 2);
    cr_assert_eq(last_result, PYL_POLL_HANGUP);
}

/* Goal: a multishot POLL is level-triggered, and gone at once when cancelled. */
Test(readiness, multishot_poll_is_level_triggered)
{
    static struct pyl_op op;
    int fds[2];
    tcp_pair(fds);
    op.args.poll.events = PYL_POLL_IN;
    op.flags = PYL_OP_MULTISHOT;
    submit(&op, PYL_OP_POLL, fds[0]);
    expect_watch(1, PYL_WATCH_LEVEL, PYL_POLL_IN);
    for (int i = 1; i <= 3; i++) {
        report(fds[0], PYL_POLL_IN);
        report(fds[0], PYL_POLL_IN);
        turn();
        cr_assert_eq(calls, i);
    }
    cr_assert_eq(fake()->watch_calls, 1);
    report(fds[0], PYL_POLL_IN);
    pyl_reactor_cancel(&reactor, &op);
    expect_watch(2, PYL_WATCH_NONE, 0);
    close(fds[0]);
    turn();
    cr_assert_eq(calls, 4);
    cr_assert_eq(last_result, -ECANCELED);
}

/* Goal: RECV and POLL on one fd: watched as POLL needs it, and as before when POLL has ended. */
Test(readiness, recv_beside_poll)
{
    static struct pyl_op recv_op, poll_op;
    int fds[2];
    tcp_pair(fds);
    submit(&recv_op, PYL_OP_RECV, fds[0]);
    poll_op.args.poll.events = PYL_POLL_OUT;
    submit(&poll_op, PYL_OP_POLL, fds[0]);
    expect_watch(2, PYL_WATCH_ONESHOT, PYL_POLL_IN | PYL_POLL_OUT);
    cr_assert_eq(write(fds[1], "x", 1), 1);
    report(fds[0], PYL_POLL_IN);
    expect_watch(3, PYL_WATCH_ONESHOT, PYL_POLL_OUT);
    turn();
    cr_assert_eq(last_count, 1);
    expect_watch(4, PYL_WATCH_ONESHOT, PYL_POLL_IN | PYL_POLL_OUT);
    report(fds[0], PYL_POLL_OUT);
    expect_watch(5, PYL_WATCH_ONESHOT, PYL_POLL_IN);
    turn();
    cr_assert_eq(terminals, 1);
    expect_watch(6, PYL_WATCH_EDGE, PYL_POLL_IN | PYL_POLL_OUT);
}

/* Goal: a refused registration ends the ops that needed it. */
Test(readiness, refused_watch_ends_the_op)
{
    static struct pyl_op op;
    int fds[2];
    tcp_pair(fds);
    fake()->watch_result = -ENOSPC;
    submit(&op, PYL_OP_RECV, fds[0]);
    turn();
    cr_assert_eq(terminals, 1);
    cr_assert_eq(last_result, -ENOSPC);
    fake()->watch_result = 0;
    submit(&op, PYL_OP_RECV, fds[0]);
    expect_watch(2, PYL_WATCH_EDGE, PYL_POLL_IN | PYL_POLL_OUT);
    pyl_readiness_report_error(&reactor, fds[0], fake()->last_generation, PYL_POLL_IN, -EPERM);
    turn();
    cr_assert_eq(terminals, 2);
    cr_assert_eq(last_result, -EPERM);
}

/* Goal: out of memory for the table ends the op with that error. */
Test(readiness, no_memory_for_the_table)
{
    static struct pyl_op op;
    int fds[2];
    tcp_pair(fds);
    for (uint64_t nth = 1; nth <= 2; nth++) {
        pyl_alloc_inject_failure(nth, 0);
        submit(&op, PYL_OP_RECV, fds[0]);
        pyl_alloc_inject_failure(0, 0);
        turn();
        cr_assert_eq(last_result, -ENOMEM);
        cr_assert_eq(terminals, (int)nth);
    }
    submit(&op, PYL_OP_RECV, fds[0]);
    report(fds[0], PYL_POLL_IN);
    turn();
    cr_assert_eq(terminals, 2);
}

/* Goal: send_now that fills the socket spares the SEND op a futile try. */
Test(readiness, full_socket_is_remembered)
{
    static struct pyl_op recv_op, send_op;
    static char data[1 << 20];
    int fds[2];
    tcp_pair(fds);
    submit(&recv_op, PYL_OP_RECV, fds[0]);
    report(fds[0], PYL_POLL_OUT);
    struct iovec iov = {.iov_base = data, .iov_len = sizeof(data)};
    while (pyl_reactor_send_now(&reactor, fds[0], &iov, 1) > 0) {
    }
    send_op.args.send.message = &(struct msghdr){.msg_iov = &iov, .msg_iovlen = 1};
    submit(&send_op, PYL_OP_SEND, fds[0]);
    cr_assert_not(pyl_readiness_has_queued(&fake()->readiness));
    report(fds[0], PYL_POLL_OUT);
    cr_assert(pyl_readiness_has_queued(&fake()->readiness));
    turn();
    cr_assert_eq(calls, 0); /* still full: the report was wrong, and the op waits on */
    cr_assert_not(pyl_readiness_has_queued(&fake()->readiness));
}

/* Goal: a connection that broke in the backlog does not end accepting. */
Test(readiness, accept_skips_broken_connections)
{
    static struct pyl_op op;
    int fds[2];
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    filter_syscall(SYS_accept4, ECONNABORTED);
    filter_syscall(SYS_accept, ECONNABORTED);
    submit(&op, PYL_OP_ACCEPT, fds[0]);
    report(fds[0], PYL_POLL_IN);
    for (int i = 0; i < 3; i++) {
        turn();
    }
    cr_assert_eq(calls, 0);
    cr_assert(pyl_readiness_has_queued(&fake()->readiness));
    pyl_reactor_cancel(&reactor, &op);
    turn();
    cr_assert_eq(last_result, -ECANCELED);
}
