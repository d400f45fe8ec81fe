/*
 * test_stream_write.c - the stream's write queue, its shutdown, close and abort. Reading is in
 * test_stream.c.
 */
#include "unit/io/stream_kit.h"

TestSuite(stream_write, .init = setup, .fini = teardown);

/* Goal: writes of one turn leave together at its end, in order, and are released in order. */
Test(stream_write, writes_leave_at_end_of_turn)
{
    uint8_t data[64];
    write_text("a", 1);
    write_text("bc", 2);
    write_text("", 3); /* size 0 is released at once, which is out of order only here */
    subject.is_release_out_of_order = false;
    subject.next_owner = 0;
    for (uintptr_t i = 3; i < 12; i++) {
        write_text("d", i);
    }
    cr_assert_eq(pyl_stream_queued_size(&subject.stream), 12);
    cr_assert_eq(peer_read(data, sizeof(data)), 0);
    expect_peer_reads("abcddddddddd");
    fixture_turn_times(&worker, 2);
    cr_assert_eq(subject.release_count, 12);
    cr_assert_eq(pyl_stream_queued_size(&subject.stream), 0);
    cr_assert(subject.has_progress);
}

/* Goal: flush sends inside the call, makes no call but release, and tells the progress later. */
Test(stream_write, flush_sends_at_once)
{
    uint8_t data[16];
    write_text("now", 1);
    pyl_stream_flush(&subject.stream);
    cr_assert_eq(peer_read(data, sizeof(data)), 3);
    cr_assert_eq(subject.release_count, 1);
    cr_assert_not(subject.has_progress);
    fixture_turn_times(&worker, 1);
    cr_assert(subject.has_progress);
}

/* Goal: more than the socket takes goes out complete while the peer reads slowly. */
Test(stream_write, large_write_against_slow_reader)
{
    enum { SIZE = 4 * 1024 * 1024, PIECES = 300 };
    static uint8_t sent[SIZE];
    static uint8_t received[SIZE];
    size_t piece = SIZE / PIECES;
    size_t offset = 0;
    fill(sent, SIZE, 2);
    for (uintptr_t i = 1; i <= PIECES; i++) {
        size_t size = i == PIECES ? SIZE - offset : piece;
        cr_assert_eq(pyl_stream_write(&subject.stream, sent + offset, size, (void *)i), 0);
        offset += size;
    }
    size_t got = 0;
    while (got < SIZE) {
        cr_assert_eq(pyl_worker_turn(&worker, false), 0);
        size_t room = SIZE - got < 70000 ? SIZE - got : 70000;
        got += peer_read(received + got, room);
        cr_assert_eq(pyl_stream_queued_size(&subject.stream) == 0, subject.release_count == PIECES);
    }
    cr_assert_arr_eq(sent, received, SIZE);
    fixture_turn_times(&worker, 2);
    cr_assert_eq(subject.release_count, PIECES);
}

/* Goal: several streams that write in one turn all get their bytes out (batched where possible). */
Test(stream_write, several_streams_flush_together)
{
    enum { COUNT = 5 };
    static struct subject others[COUNT];
    int peers[COUNT];
    for (int i = 0; i < COUNT; i++) {
        int fds[2];
        cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
        adopt(&others[i], fds[0]);
        peers[i] = fds[1];
    }
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < COUNT; i++) {
            uintptr_t owner = (uintptr_t)round + 1;
            cr_assert_eq(pyl_stream_write(&others[i].stream, "hello", 5, (void *)owner), 0);
        }
        for (int i = 0; i < COUNT; i++) {
            char data[8];
            ssize_t count;
            while ((count = read(peers[i], data, sizeof(data))) < 0) {
                cr_assert_eq(pyl_worker_turn(&worker, false), 0);
            }
            cr_assert_eq(count, 5);
        }
        fixture_turn_times(&worker, 2);
    }
    for (int i = 0; i < COUNT; i++) {
        cr_assert_eq(others[i].release_count, 3);
        finish_subject(&others[i]);
        close(peers[i]);
    }
}

static void
write_in_progress(struct subject *s)
{
    if (s->release_count < 50) {
        uintptr_t owner = (uintptr_t)s->release_count + 1;
        cr_assert_eq(pyl_stream_write(&s->stream, "m", 1, (void *)owner), 0);
    }
}

/* Goal: a write from on_progress continues the stream; it does not run away inside one turn. */
Test(stream_write, write_from_progress)
{
    subject.on_progress_do = write_in_progress;
    write_text("m", 1);
    uint64_t before = atomic_load(&worker.stats.turns);
    while (subject.release_count < 50) {
        cr_assert_eq(pyl_worker_turn(&worker, false), 0);
    }
    cr_assert_geq(atomic_load(&worker.stats.turns) - before, 25);
}

static void
reenter_in_release(struct subject *s)
{
    if (s->release_count == 2) {
        uintptr_t owner = 5;
        cr_assert_eq(pyl_stream_write(&s->stream, "E", 1, (void *)owner), 0);
        pyl_stream_flush(&s->stream);
    }
}

/* Goal: write and flush from inside release send nothing twice and nothing out of order. */
Test(stream_write, write_and_flush_inside_release)
{
    subject.on_release_do = reenter_in_release;
    write_text("A", 1);
    write_text("B", 2);
    write_text("C", 3);
    write_text("D", 4);
    expect_peer_reads("ABCDE");
    fixture_turn_times(&worker, 3);
    cr_assert_eq(subject.release_count, 5);
    uint8_t more[8];
    cr_assert_eq(peer_read(more, sizeof(more)), 0);
}

static void
abort_in_release(struct subject *s)
{
    if (s->release_count == 1) {
        pyl_stream_abort(&s->stream);
    }
}

/* Goal: abort from inside release still releases every write once and in order. */
Test(stream_write, abort_inside_release)
{
    subject.on_release_do = abort_in_release;
    for (uintptr_t i = 1; i <= 9; i++) {
        write_text("x", i);
    }
    fixture_turn_until(&worker, &subject.is_closed);
    cr_assert_eq(subject.release_count, 9);
    cr_assert_str_eq(subject.log, "lc");
}

/* ---- ends ---- */

static bool
peer_sees_eof(void)
{
    char byte;
    return read(peer, &byte, 1) == 0;
}

/* Goal: shutdown sends FIN behind the queue; reading goes on; writing is refused. */
Test(stream_write, shutdown_after_the_queue)
{
    write_text("last", 1);
    pyl_stream_shutdown(&subject.stream);
    pyl_stream_shutdown(&subject.stream);
    cr_assert_eq(pyl_stream_write(&subject.stream, "no", 2, NULL), -EPIPE);
    expect_peer_reads("last");
    while (!peer_sees_eof()) {
        cr_assert_eq(pyl_worker_turn(&worker, false), 0);
    }
    pyl_stream_read_start(&subject.stream);
    peer_write("answer");
    turn_until_got(6);
    expect_got("answer");
}

/* Goal: close sends the queue first, and what is written while it drains, then ends: on_closed
 * once, last, and not inside the call. */
Test(stream_write, close_drains)
{
    enum { SIZE = 3 * 1024 * 1024 };
    static uint8_t sent[SIZE];
    static uint8_t received[SIZE + 4];
    fill(sent, SIZE, 3);
    pyl_stream_read_start(&subject.stream);
    cr_assert_eq(pyl_stream_write(&subject.stream, sent, SIZE, (void *)1), 0);
    pyl_stream_close(&subject.stream);
    pyl_stream_close(&subject.stream);
    cr_assert_not(subject.is_closed);
    fixture_turn_times(&worker, 2);
    write_text("late", 2);
    size_t got = 0;
    while (got < SIZE + 4) {
        cr_assert_not(subject.is_lost);
        cr_assert_eq(pyl_worker_turn(&worker, false), 0);
        got += peer_read(received + got, SIZE + 4 - got);
    }
    cr_assert_arr_eq(sent, received, SIZE);
    cr_assert_arr_eq("late", received + SIZE, 4);
    fixture_turn_until(&worker, &subject.is_closed);
    cr_assert_eq(subject.release_count, 2);
    cr_assert(peer_sees_eof());
}

static struct pyl_job after_close;
static bool had_lost_before_job;

static void
run_after_close(struct pyl_job *unused)
{
    had_lost_before_job = subject.is_lost;
}

/* Goal: with nothing to send, on_lost has its place among the ready jobs from close() on, whatever
 * the ops still have to do. */
Test(stream_write, lost_in_the_order_of_close)
{
    after_close.run = run_after_close;
    pyl_stream_read_start(&subject.stream);
    fixture_turn_times(&worker, 2);
    pyl_stream_close(&subject.stream);
    pyl_worker_post(&worker, &after_close);
    cr_assert_eq(pyl_worker_turn(&worker, false), 0);
    cr_assert(had_lost_before_job);
    fixture_turn_until(&worker, &subject.is_closed);
}

/* Goal: the same for an abort with a send in the kernel. */
Test(stream_write, lost_in_the_order_of_abort)
{
    enum { SIZE = 4 * 1024 * 1024 };
    static uint8_t sent[SIZE];
    after_close.run = run_after_close;
    cr_assert_eq(pyl_stream_write(&subject.stream, sent, SIZE, (void *)1), 0);
    fixture_turn_times(&worker, 2);
    pyl_stream_abort(&subject.stream);
    pyl_worker_post(&worker, &after_close);
    cr_assert_eq(pyl_worker_turn(&worker, false), 0);
    cr_assert(had_lost_before_job);
    fixture_turn_until(&worker, &subject.is_closed);
    cr_assert_eq(subject.release_count, 1);
}

/* Goal: abort with a send in the kernel drops the queue; releases are complete before on_closed. */
Test(stream_write, abort_with_send_in_flight)
{
    enum { SIZE = 4 * 1024 * 1024 };
    static uint8_t sent[SIZE];
    pyl_stream_read_start(&subject.stream);
    cr_assert_eq(pyl_stream_write(&subject.stream, sent, SIZE, (void *)1), 0);
    write_text("second", 2);
    fixture_turn_times(&worker, 2);
    pyl_stream_abort(&subject.stream);
    pyl_stream_abort(&subject.stream);
    pyl_stream_close(&subject.stream);
    cr_assert_not(subject.is_closed);
    fixture_turn_until(&worker, &subject.is_closed);
    cr_assert_eq(subject.release_count, 2);
    cr_assert_not(subject.has_error);
}

static void
abort_it(struct subject *s)
{
    pyl_stream_abort(&s->stream);
}

static void
close_it(struct subject *s)
{
    pyl_stream_close(&s->stream);
}

/* Goal: abort inside on_data: nothing follows but on_closed. */
Test(stream_write, abort_inside_data)
{
    subject.on_data_do = abort_it;
    pyl_stream_read_start(&subject.stream);
    peer_write("x");
    fixture_turn_until(&worker, &subject.is_closed);
    cr_assert_str_eq(subject.log, "dlc");
}

/* Goal: close inside on_eof. */
Test(stream_write, close_inside_eof)
{
    subject.on_eof_do = close_it;
    pyl_stream_read_start(&subject.stream);
    shutdown(peer, SHUT_WR);
    fixture_turn_until(&worker, &subject.is_closed);
    cr_assert_str_eq(subject.log, "elc");
}

/* Goal: writing to a peer that is gone gives one on_error, then on_closed; writes are released. */
Test(stream_write, write_to_closed_peer)
{
    close(peer);
    peer = -1;
    write_text("x", 1);
    write_text("y", 2);
    fixture_turn_until(&worker, &subject.is_closed);
    cr_assert_str_eq(subject.log, "xlc");
    cr_assert_eq(subject.error, -EPIPE);
    cr_assert_eq(subject.release_count, 2);
}

/* Goal: an error met inside flush is told later, not inside the call. */
Test(stream_write, flush_error_comes_later)
{
    close(peer);
    peer = -1;
    write_text("x", 1);
    pyl_stream_flush(&subject.stream);
    cr_assert_not(subject.has_error);
    cr_assert_eq(pyl_stream_write(&subject.stream, "y", 1, NULL), -EPIPE);
    fixture_turn_until(&worker, &subject.is_closed);
    cr_assert_str_eq(subject.log, "xlc");
}

/* Goal: a stream that does not own its fd leaves it open and known to nobody. */
Test(stream_write, fd_not_owned)
{
    static struct subject other;
    int fds[2];
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    adopt(&other, fds[0]);
    other.stream.owns_fd = false;
    pyl_stream_read_start(&other.stream);
    fixture_turn_times(&worker, 2);
    pyl_stream_close(&other.stream);
    fixture_turn_until(&worker, &other.is_closed);
    cr_assert_eq(write(fds[0], "z", 1), 1);
    close(fds[0]);
    close(fds[1]);
    free(other.got);
}

/* Goal: a connection that is reset tells the reader once. */
Test(stream_write, reset_by_peer)
{
    static struct subject other;
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof(address);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    cr_assert_eq(bind(listener, (struct sockaddr *)&address, size), 0);
    cr_assert_eq(listen(listener, 1), 0);
    cr_assert_eq(getsockname(listener, (struct sockaddr *)&address, &size), 0);
    int client = socket(AF_INET, SOCK_STREAM, 0);
    cr_assert_eq(connect(client, (struct sockaddr *)&address, size), 0);
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    cr_assert_geq(fd, 0);
    adopt(&other, fd);
    pyl_stream_read_start(&other.stream);
    fixture_turn_times(&worker, 2);
    struct linger linger = {.l_onoff = 1};
    cr_assert_eq(setsockopt(client, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)), 0);
    close(client);
    fixture_turn_until(&worker, &other.is_closed);
    cr_assert_str_eq(other.log, "xlc");
    cr_assert_eq(other.error, -ECONNRESET);
    close(listener);
    free(other.got);
}

/* Goal: many open streams closed together: every fd number becomes free only after its on_closed.
 */
Test(stream_write, close_many_with_reads_in_flight)
{
    enum { COUNT = 50 };
    static struct subject others[COUNT];
    int peers[COUNT];
    for (int i = 0; i < COUNT; i++) {
        int fds[2];
        cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
        adopt(&others[i], fds[0]);
        peers[i] = fds[1];
        pyl_stream_read_start(&others[i].stream);
    }
    fixture_turn_times(&worker, 2);
    for (int i = 0; i < COUNT; i++) {
        cr_assert_eq(write(peers[i], "late", 4), 4);
        pyl_stream_close(&others[i].stream);
        cr_assert_neq(fcntl(others[i].stream.fd, F_GETFD), -1);
    }
    for (int i = 0; i < COUNT; i++) {
        fixture_turn_until(&worker, &others[i].is_closed);
        cr_assert_str_eq(others[i].log, "lc");
        finish_subject(&others[i]);
        close(peers[i]);
    }
}

/* Goal: what a turn counts as unsent is what its deferred phase will send: neither what a flush has
 * sent, nor what waits behind a SEND op. */
Test(stream_write, only_what_the_flush_job_sends_is_unsent)
{
    static uint8_t data[4 * 1024 * 1024];
    cr_assert_eq(pyl_stream_write(&subject.stream, data, 1000, (void *)1), 0);
    cr_assert_eq(worker.unsent_size, 1000);
    pyl_stream_flush(&subject.stream);
    cr_assert_eq(worker.unsent_size, 0);
    cr_assert_eq(pyl_stream_write(&subject.stream, data, sizeof(data), (void *)2), 0);
    fixture_turn_times(&worker, 2);
    cr_assert(pyl_stream_is_sending(&subject.stream));
    cr_assert_eq(worker.unsent_size, 0);
    cr_assert_eq(pyl_stream_write(&subject.stream, data, sizeof(data), (void *)3), 0);
    cr_assert_eq(worker.unsent_size, 0);
}

/* Goal: without memory for the queue a write fails, keeps nothing, and the stream lives on. */
Test(stream_write, write_without_memory)
{
    char expected[PYL_STREAM_INLINE_WRITES + 1] = "";
    for (uintptr_t i = 1; i <= PYL_STREAM_INLINE_WRITES; i++) {
        write_text("a", i);
        expected[i - 1] = 'a';
    }
    pyl_alloc_inject_failure(1, 1);
    cr_assert_eq(pyl_stream_write(&subject.stream, "b", 1, (void *)99), -ENOMEM);
    pyl_alloc_inject_failure(0, 0);
    expect_peer_reads(expected);
    fixture_turn_times(&worker, 2);
    cr_assert_eq(subject.release_count, PYL_STREAM_INLINE_WRITES);
}

/* Goal: without memory to wait for room in the socket the stream ends with -ENOMEM, and every write
 * is released. */
Test(stream_write, send_without_memory)
{
    enum { SIZE = 8 * 1024 * 1024 };
    static uint8_t sent[SIZE];
    pyl_stream_read_start(&subject.stream); /* so that the reactor knows the fd */
    fixture_turn_times(&worker, 2);
    cr_assert_eq(pyl_stream_write(&subject.stream, sent, SIZE, (void *)1), 0);
    pyl_alloc_inject_failure(1, 1);
    while (!subject.has_error) { /* the fixture's own timer would need memory */
        cr_assert_eq(pyl_worker_turn(&worker, false), 0);
    }
    cr_assert_gt(pyl_alloc_injected_count(), 0);
    pyl_alloc_inject_failure(0, 0);
    cr_assert_eq(subject.error, -ENOMEM);
    fixture_turn_until(&worker, &subject.is_closed);
    cr_assert_eq(subject.release_count, 1);
}

/* Goal: without memory to hold data that the owner does not want yet the stream ends with -ENOMEM.
 */
Test(stream_write, hold_without_memory)
{
    pyl_stream_read_start(&subject.stream);
    fixture_turn_times(&worker, 2);
    peer_write("x");
    pyl_stream_read_stop(&subject.stream);
    pyl_alloc_inject_failure(1, 1);
    while (!subject.has_error) { /* the fixture's own timer would need memory */
        cr_assert_eq(pyl_worker_turn(&worker, false), 0);
    }
    pyl_alloc_inject_failure(0, 0);
    cr_assert_eq(subject.error, -ENOMEM);
    fixture_turn_until(&worker, &subject.is_closed);
    cr_assert_str_eq(subject.log, "xlc");
}

/* Goal: after the worker is gone dispose releases the queue and closes the fd. */
Test(stream_write, dispose_after_fini)
{
    struct pyl_worker own;
    static struct subject other;
    int fds[2];
    fixture_open(&own);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    adopt(&other, fds[0]);
    other.stream.worker = &own;
    pyl_stream_read_start(&other.stream);
    fixture_turn_times(&own, 1);
    cr_assert_eq(pyl_stream_write(&other.stream, "x", 1, (void *)1), 0);
    pyl_worker_fini(&own);
    cr_assert_eq(other.log_size, 0);
    pyl_stream_dispose(&other.stream);
    pyl_stream_dispose(&other.stream);
    cr_assert_eq(other.release_count, 1);
    cr_assert_eq(fcntl(fds[0], F_GETFD), -1);
    close(fds[1]);
    free(other.got);
}
