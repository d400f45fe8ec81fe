/*
 * test_backend_wait.c - waiting, waking, dispatching, descriptors, fork.
 */
#include "suite.h"

#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- timeouts ---- */

/* Goal: a wait without events never ends before its timeout, and not absurdly later. */
BACKEND_TEST(backend_wait, is_never_early)
{
    static const int64_t timeouts_ns[] = {1, 999, 50000, 123456, 1000000, 1500000, 20000001};
    for (size_t i = 0; i < sizeof(timeouts_ns) / sizeof(timeouts_ns[0]); i++) {
        int64_t start_ns = pyl_reactor_now_ns(&env->reactor);
        env_turn(env, timeouts_ns[i]);
        int64_t taken_ns = pyl_reactor_now_ns(&env->reactor) - start_ns;
        cr_assert_geq(taken_ns, timeouts_ns[i]);
        cr_assert_lt(taken_ns, 5 * PYL_NS_PER_S);
    }
}

/* Goal: a timeout of zero does not block. */
BACKEND_TEST(backend_wait, zero_polls)
{
    int64_t start_ns = pyl_clock_now_ns();
    for (int i = 0; i < 100; i++) {
        env_turn(env, 0);
    }
    cr_assert_lt(pyl_clock_now_ns() - start_ns, PYL_NS_PER_S);
}

/* Goal: a far deadline is a long wait, not an error. */
BACKEND_TEST(backend_wait, far_deadline_is_accepted)
{
    pyl_reactor_wake(&env->reactor);
    env_turn(env, PYL_NEVER_NS - 1);
}

/* How many waits it takes until 30 ms have passed. */
static int
waits_in_30_ms(struct env *env)
{
    int waits = 0;
    int64_t end_ns = pyl_reactor_now_ns(&env->reactor) + 30 * PYL_NS_PER_MS;
    int64_t left_ns;
    while ((left_ns = end_ns - pyl_reactor_now_ns(&env->reactor)) > 0) {
        env_turn(env, left_ns);
        waits++;
    }
    return waits;
}

/* Goal: descriptors that are ready, but that no op waits for, do not keep wait() from waiting. */
BACKEND_TEST(backend_wait, nobody_waits_for_ready_fds)
{
    enum { PAIRS = 4 };
    static struct probe probes[PAIRS];
    int fds[PAIRS][2];
    for (int i = 0; i < PAIRS; i++) {
        net_pair(env, fds[i]);
        probe_init(&probes[i], env, i < 2 ? PYL_OP_POLL : PYL_OP_RECV, fds[i][0]);
        probes[i].op.args.poll.events = PYL_POLL_IN | PYL_POLL_OUT;
    }
    probes[0].op.flags = PYL_OP_MULTISHOT;
    probe_submit(&probes[0]); /* cancelled while ready */
    env_until(env, &probes[0].calls, 2);
    pyl_reactor_cancel(&env->reactor, &probes[0].op);
    probe_run(&probes[1]);    /* fired, and not asked again */
    probe_submit(&probes[2]); /* paused, with data coming */
    pyl_reactor_cancel(&env->reactor, &probes[2].op);
    probe_submit(&probes[3]); /* ended */
    net_shutdown(env, fds[3][1]);
    env_until(env, &probes[0].terminals, 1);
    env_until(env, &probes[2].terminals, 1);
    env_until(env, &probes[3].terminals, 1);
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(net_write(env, fds[i][1], "x", 1), 1);
    }
    env_settle(env);
    cr_assert_leq(waits_in_30_ms(env), 4);
}

/* Goal: ops that wait for what does not come cost nothing, beside ready descriptors too. */
BACKEND_TEST(backend_wait, waiting_ops_cost_nothing)
{
    static struct probe recv, poll, other;
    int fds[2], full[2];
    net_pair(env, fds);
    net_pair(env, full);
    net_fill(env, full[0]);
    probe_init(&recv, env, PYL_OP_RECV, fds[0]); /* writable all the time */
    probe_submit(&recv);
    probe_init(&poll, env, PYL_OP_POLL, full[0]);
    poll.op.args.poll.events = PYL_POLL_OUT;
    poll.op.flags = PYL_OP_MULTISHOT;
    probe_submit(&poll);
    probe_init(&other, env, PYL_OP_POLL, full[1]); /* readable: only the other direction is asked */
    other.op.args.poll.events = PYL_POLL_OUT;
    net_fill(env, full[1]);
    probe_submit(&other);
    env_settle(env);
    cr_assert_leq(waits_in_30_ms(env), 4);
    cr_assert_eq(recv.calls + poll.calls + other.calls, 0);
}

/* ---- wake ---- */

static void *
wake_later(void *argument)
{
    struct env *env = argument;
    pyl_reactor_wake(&env->reactor);
    return NULL;
}

/* Goal: a wake before the wait makes it return at once, without a limit too. */
BACKEND_TEST(backend_wake, before_wait)
{
    for (int i = 0; i < 5; i++) {
        pyl_reactor_wake(&env->reactor);
        env_turn(env, -1);
    }
}

/* Goal: another thread ends a wait without a limit, again and again. */
BACKEND_TEST(backend_wake, from_another_thread)
{
    for (int i = 0; i < 200; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, wake_later, env);
        env_turn(env, -1);
        pthread_join(thread, NULL);
        env_turn(env,
                 0); /* the wake may have come after the signal of this very wait was consumed */
    }
}

/* Goal: many wakes are one, and leave nothing behind. */
BACKEND_TEST(backend_wake, coalesces)
{
    env_turn(env, 0);
    for (int i = 0; i < 1000; i++) {
        pyl_reactor_wake(&env->reactor);
    }
    env_turn(env, -1);
    uint64_t wakes = atomic_load(&env->reactor.stats.wakes);
    cr_assert_eq(wakes, 1);
    int64_t start_ns = pyl_reactor_now_ns(&env->reactor);
    env_turn(env, 10 * PYL_NS_PER_MS);
    cr_assert_geq(pyl_reactor_now_ns(&env->reactor) - start_ns, 10 * PYL_NS_PER_MS);
}

enum { POSTERS = 3, POSTS = 20000 };

struct posters {
    struct env *env;
    _Atomic int posted;
};

static void *
post(void *argument)
{
    struct posters *posters = argument;
    for (int i = 0; i < POSTS; i++) {
        atomic_fetch_add(&posters->posted, 1);
        pyl_reactor_wake(&posters->env->reactor);
    }
    return NULL;
}

/* Goal: whatever is published before a wake is seen after some wait: no wake-up is lost. */
BACKEND_TEST(backend_wake, none_is_lost)
{
    struct posters posters = {.env = env};
    pthread_t threads[POSTERS];
    for (int i = 0; i < POSTERS; i++) {
        pthread_create(&threads[i], NULL, post, &posters);
    }
    while (atomic_load(&posters.posted) < POSTERS * POSTS) {
        env_turn(env, -1);
    }
    for (int i = 0; i < POSTERS; i++) {
        pthread_join(threads[i], NULL);
    }
}

static struct pyl_reactor *signal_reactor;

static void
on_signal(int number)
{
    (void)number;
    pyl_reactor_wake(signal_reactor);
}

/* Goal: a signal handler may wake, and an interrupted wait returns without an error. */
BACKEND_TEST(backend_wake, from_signal_handler)
{
    signal_reactor = &env->reactor;
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGALRM, &action, NULL);
    ualarm(20000, 0);
    int64_t start_ns = pyl_clock_now_ns();
    env_turn(env, -1);
    cr_assert_lt(pyl_clock_now_ns() - start_ns, 5 * PYL_NS_PER_S);
}

static void
on_quiet_signal(int number)
{
    (void)number;
}

/* Goal: a signal ends a wait also if ops go to the kernel with it: its Python handler has to run.
 */
BACKEND_TEST(backend_wake, signal_ends_a_wait_that_submits)
{
    struct sigaction action = {.sa_handler = on_quiet_signal};
    sigaction(SIGALRM, &action, NULL);
    /* The first one counts: a second would end the wait whatever the first has done. */
    struct itimerval timer = {.it_value = {.tv_usec = 300000}, .it_interval = {.tv_sec = 12}};
    static const int64_t timeouts_ns[] = {-1, 50 * PYL_NS_PER_S};
    struct probe probes[2];
    int fds[2][2];
    for (size_t i = 0; i < 2; i++) {
        cr_assert_eq(pipe(fds[i]), 0);
        probe_init(&probes[i], env, PYL_OP_POLL, fds[i][0]);
        probes[i].op.args.poll.events = PYL_POLL_IN;
        pyl_reactor_submit(&env->reactor, &probes[i].op);
        setitimer(ITIMER_REAL, &timer, NULL);
        int64_t start_ns = pyl_clock_now_ns();
        env_turn(env, timeouts_ns[i]);
        cr_assert_lt(pyl_clock_now_ns() - start_ns, 11 * PYL_NS_PER_S);
    }
    setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL);
    for (size_t i = 0; i < 2; i++) {
        pyl_reactor_cancel(&env->reactor, &probes[i].op);
    }
    env_settle(env);
    for (size_t i = 0; i < 2; i++) {
        close(fds[i][0]);
        close(fds[i][1]);
    }
}

/* ---- dispatch ---- */

static void
stop_after_each(struct probe *probe, const struct pyl_event *event)
{
    (void)event;
    pyl_reactor_stop_dispatch(&probe->env->reactor);
}

/* Goal: after stop_dispatch the rest of the events stays, in order, and wait() does not block
 * on it. */
BACKEND_TEST(backend_dispatch, stops_and_resumes)
{
    enum { PAIRS = 4 };
    static struct probe recv[PAIRS];
    int peers[PAIRS];
    for (int i = 0; i < PAIRS; i++) {
        int fds[2];
        net_pair(env, fds);
        peers[i] = fds[1];
        probe_init(&recv[i], env, PYL_OP_RECV, fds[0]);
        recv[i].then = stop_after_each;
        probe_submit(&recv[i]);
    }
    env_settle(env);
    for (int i = 0; i < PAIRS; i++) {
        cr_assert_eq(net_write(env, peers[i], "x", 1), 1);
    }
    int total = 0;
    while (total < PAIRS) {
        int before = total;
        env_turn(env, 10 * PYL_NS_PER_S);
        total = 0;
        for (int i = 0; i < PAIRS; i++) {
            total += recv[i].calls;
        }
        cr_assert_leq(total, before + 1);
    }
}

static void
submit_again(struct probe *probe, const struct pyl_event *event)
{
    if (event->result > 0 && probe->calls < 10) {
        probe->terminals = 0;
        pyl_reactor_submit(&probe->env->reactor, &probe->op);
    }
}

/* Goal: the callback of a terminal event may submit the same op again. */
BACKEND_TEST(backend_dispatch, callback_submits_again)
{
    int fds[2];
    static struct probe send;
    struct iovec iov = {.iov_base = (char[]){"x"}, .iov_len = 1};
    net_pair(env, fds);
    probe_init(&send, env, PYL_OP_SEND, fds[0]);
    send.op.args.send.message = &(struct msghdr){.msg_iov = &iov, .msg_iovlen = 1};
    send.then = submit_again;
    probe_submit(&send);
    env_until(env, &send.calls, 10);
    cr_assert_eq(send.calls, 10);
}

/* ---- descriptors ---- */

/* Goal: hundreds of connections, all busy in the same turn, each get their own bytes. */
BACKEND_TEST(backend_fds, many)
{
    enum { PAIRS = 400 };
    static struct probe recv[PAIRS];
    static int peers[PAIRS];
    for (int i = 0; i < PAIRS; i++) {
        int fds[2];
        net_pair(env, fds);
        peers[i] = fds[1];
        probe_init(&recv[i], env, PYL_OP_RECV, fds[0]);
        probe_submit(&recv[i]);
    }
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < PAIRS; i++) {
            cr_assert_eq(net_write(env, peers[i], &i, sizeof(i)), (ssize_t)sizeof(i));
        }
        for (int i = 0; i < PAIRS; i++) {
            probe_until_size(&recv[i], sizeof(i) * (size_t)(round + 1));
        }
    }
    for (int i = 0; i < PAIRS; i++) {
        int value[3];
        cr_assert_eq(recv[i].size, sizeof(value));
        memcpy(value, recv[i].data, sizeof(value));
        cr_assert(value[0] == i && value[1] == i && value[2] == i);
    }
}

/* Goal: after the terminal event, forget and close, the number can be used by a new connection. */
BACKEND_TEST(backend_fds, number_is_reused)
{
    static struct probe recv;
    for (int i = 0; i < 50; i++) {
        int fds[2];
        net_pair(env, fds);
        probe_init(&recv, env, PYL_OP_RECV, fds[0]);
        probe_submit(&recv);
        cr_assert_eq(net_write(env, fds[1], &i, sizeof(i)), (ssize_t)sizeof(i));
        probe_until_size(&recv, sizeof(i));
        cr_assert_eq(memcmp(recv.data, &i, sizeof(i)), 0);
        pyl_reactor_cancel(&env->reactor, &recv.op);
        env_until(env, &recv.terminals, 1);
        net_close(env, fds[0]);
        net_close(env, fds[1]);
        probe_fini(&recv);
    }
}

/* Goal: high descriptor numbers work. */
BACKEND_TEST(backend_fds, high_number)
{
    if (env->is_sim) {
        return;
    }
    int fds[2];
    static struct probe recv;
    struct rlimit limit;
    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    net_pair(env, fds);
    int high =
        fcntl(fds[0], F_DUPFD_CLOEXEC, (int)(limit.rlim_cur > 9000 ? 9000 : limit.rlim_cur - 2));
    cr_assert_geq(high, 0);
    close(fds[0]);
    probe_init(&recv, env, PYL_OP_RECV, high);
    probe_submit(&recv);
    cr_assert_eq(net_write(env, fds[1], "x", 1), 1);
    env_until(env, &recv.calls, 1);
    cr_assert_eq(recv.last_result, 1);
}

/* ---- threads ---- */

struct visit {
    struct env *env;
    struct probe *recv;
    int peer;
};

static void *
run_elsewhere(void *argument)
{
    struct visit *visit = argument;
    size_t before = visit->recv->size;
    env_turn(visit->env, 0);
    cr_assert_eq(net_write(visit->env, visit->peer, "there", 5), 5);
    while (visit->recv->size < before + 5) {
        env_turn(visit->env, PYL_NS_PER_S);
    }
    /* Data that nobody harvests before the thread ends. */
    cr_assert_eq(net_write(visit->env, visit->peer, "!", 1), 1);
    return NULL;
}

/* A pair that stays full. A TCP pair finds room again under load, and the send below then completes
 * with 1, as it should: owner_change_sends_once is about that. */
static void
full_pair(struct env *env, int fds[2])
{
    if (env->is_sim) {
        net_pair(env, fds);
    } else {
        int type = SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC;
        cr_assert_eq(socketpair(AF_UNIX, type, 0, fds), 0);
    }
    net_fill(env, fds[0]);
}

/* Goal: a reactor that ran in one thread can be run, and ended, by another one after it. */
BACKEND_TEST(backend_thread, owner_may_change)
{
    int fds[2], full[2];
    static struct probe recv, poll, send;
    net_pair(env, fds);
    full_pair(env, full);
    probe_init(&recv, env, PYL_OP_RECV, fds[0]);
    probe_submit(&recv);
    probe_init(&poll, env, PYL_OP_POLL, full[0]);
    poll.op.args.poll.events = PYL_POLL_IN;
    poll.op.flags = PYL_OP_MULTISHOT;
    probe_submit(&poll);
    static char letter[] = "x";
    static struct iovec iov = {.iov_base = letter, .iov_len = 1};
    probe_init(&send, env, PYL_OP_SEND, full[0]);
    send.op.args.send.message = &(struct msghdr){.msg_iov = &iov, .msg_iovlen = 1};
    probe_submit(&send);
    static struct visit visit;
    visit = (struct visit){.env = env, .recv = &recv, .peer = fds[1]};
    for (int i = 0; i < 3; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, run_elsewhere, &visit);
        pthread_join(thread, NULL);
        size_t expected = (size_t)(i + 1) * 10 - 4;
        probe_until_size(&recv, expected);
        cr_assert_eq(net_write(env, fds[1], "here", 4), 4);
        probe_until_size(&recv, expected + 4);
        pyl_reactor_wake(&env->reactor);
        env_turn(env, -1);
    }
    cr_assert_arr_eq(recv.data, "there!herethere!herethere!here", 30);
    cr_assert_eq(poll.calls, 0);
    cr_assert_eq(send.calls, 0, "result %d", send.last_result);
    cr_assert_eq(net_write(env, full[1], "x", 1), 1);
    env_until(env, &poll.calls, 1);
}

struct send_elsewhere {
    struct env *env;
    struct probe *send;
    sem_t has_submitted;
    sem_t may_end;
};

static void *
submit_elsewhere(void *argument)
{
    struct send_elsewhere *task = argument;
    probe_submit(task->send);
    env_turn(task->env, 0);
    sem_post(&task->has_submitted);
    sem_wait(&task->may_end);
    return NULL;
}

/* Reads until `total` bytes have come; returns how many of them were the letter. */
static size_t
drain_and_count(struct env *env, int fd, size_t total, char letter)
{
    static char block[64 * 1024];
    size_t letters = 0;
    for (size_t size = 0; size < total;) {
        env_turn(env, 0);
        ssize_t count = net_read(env, fd, block, sizeof(block));
        cr_assert(count > 0 || count == -EAGAIN);
        for (ssize_t i = 0; i < count; i++) {
            letters += block[i] == letter;
        }
        size += count > 0 ? (size_t)count : 0;
    }
    return letters;
}

/* Goal: what waited to be sent when the owner changed is sent once, whether the room comes before
 * or after, and whether the old owner's thread is still there or not. */
BACKEND_TEST(backend_thread, owner_change_sends_once)
{
    static char letter[] = "x";
    static struct iovec iov = {.iov_base = letter, .iov_len = 1};
    static struct probe send;
    for (int i = 0; i < 40; i++) {
        int fds[2];
        net_pair_small(env, fds);
        size_t filled = net_fill(env, fds[0]);
        probe_init(&send, env, PYL_OP_SEND, fds[0]);
        send.op.args.send.message = &(struct msghdr){.msg_iov = &iov, .msg_iovlen = 1};
        struct send_elsewhere task = {.env = env, .send = &send};
        sem_init(&task.has_submitted, 0, 0);
        sem_init(&task.may_end, 0, i % 2 == 0); /* every other thread ends at once */
        pthread_t thread;
        pthread_create(&thread, NULL, submit_elsewhere, &task);
        sem_wait(&task.has_submitted);
        size_t letters = 0, early = i % 4 < 2 ? filled / 2 : 0;
        static char block[64 * 1024];
        for (size_t size = 0; size < early;) {
            size_t wanted = early - size < sizeof(block) ? early - size : sizeof(block);
            ssize_t count = net_read(env, fds[1], block, wanted);
            cr_assert(count > 0 || count == -EAGAIN);
            size += count > 0 ? (size_t)count : 0;
        }
        letters += drain_and_count(env, fds[1], filled + 1 - early, letter[0]);
        env_until(env, &send.calls, 1);
        env_settle(env);
        cr_assert_eq(send.last_result, 1);
        cr_assert_eq(send.calls, 1);
        cr_assert_eq(letters, 1);
        cr_assert_eq(net_read(env, fds[1], block, 1), -EAGAIN);
        sem_post(&task.may_end);
        pthread_join(thread, NULL);
        probe_fini(&send);
        net_close(env, fds[1]);
        pyl_reactor_forget(&env->reactor, fds[0]);
        net_close(env, fds[0]);
    }
}

/* ---- fork ---- */

/* Goal: a child that abandons the reactor, even with ops active, does not disturb the parent. */
BACKEND_TEST(backend_fork, child_abandons)
{
    if (env->is_sim) {
        return;
    }
    int fds[2];
    static struct probe recv;
    net_pair(env, fds);
    probe_init(&recv, env, PYL_OP_RECV, fds[0]);
    probe_submit(&recv);
    env_settle(env);
    pid_t child = fork();
    cr_assert_geq(child, 0);
    if (child == 0) {
        pyl_reactor_abandon(&env->reactor);
        bool is_right = pyl_op_is_idle(&recv.op) && recv.calls == 0;
        pyl_reactor_fini(&env->reactor);
        /* A new reactor in the child works. */
        struct pyl_reactor fresh;
        int rc = pyl_reactor_init(&fresh, NULL, NULL, 0);
        if (rc == 0) {
            pyl_reactor_wake(&fresh);
            rc = pyl_reactor_wait(&fresh, -1);
            pyl_reactor_fini(&fresh);
        }
        _exit(is_right && rc == 0 ? 0 : 1);
    }
    int status;
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    cr_assert_eq(net_write(env, fds[1], "still", 5), 5);
    probe_until_size(&recv, 5);
    pyl_reactor_wake(&env->reactor);
    env_turn(env, -1);
}
