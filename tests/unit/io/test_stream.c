/*
 * test_stream.c - a stream on one end of a socket pair, the test itself on the other.
 */
#include "unit/io/stream_kit.h"

TestSuite(stream, .init = setup, .fini = teardown);

/* Goal: nothing is read before read_start; then everything, in order. */
Test(stream, reads_after_start)
{
    peer_write("early");
    fixture_turn_times(&worker, 3);
    cr_assert_eq(subject.got_size, 0);
    pyl_stream_read_start(&subject.stream);
    turn_until_got(5);
    peer_write(" late");
    turn_until_got(10);
    expect_got("early late");
}

static void
stop_in_data(struct subject *s)
{
    pyl_stream_read_stop(&s->stream);
}

/* Goal: after read_stop inside on_data nothing more is delivered; read_start goes on where it was.
 */
Test(stream, stop_inside_data_and_start_again)
{
    subject.on_data_do = stop_in_data;
    pyl_stream_read_start(&subject.stream);
    peer_write("one");
    turn_until_got(3);
    peer_write("two");
    fixture_turn_times(&worker, 5);
    expect_got("one");
    pyl_stream_read_start(&subject.stream);
    turn_until_got(6);
    expect_got("onetwo");
}

static void
stop_and_start_in_data(struct subject *s)
{
    for (int i = 0; i < 3; i++) {
        pyl_stream_read_stop(&s->stream);
        pyl_stream_read_start(&s->stream);
    }
}

/* Goal: stopping and starting in quick succession, inside and outside callbacks, loses nothing. */
Test(stream, quick_stop_and_start)
{
    subject.on_data_do = stop_and_start_in_data;
    pyl_stream_read_start(&subject.stream);
    for (int i = 0; i < 20; i++) {
        peer_write("0123456789");
        pyl_stream_read_stop(&subject.stream);
        if (i % 3 == 0) {
            fixture_turn_times(&worker, i % 2 + 1);
        }
        pyl_stream_read_start(&subject.stream);
        if (i % 4 == 0) {
            fixture_turn_times(&worker, 1);
        }
    }
    turn_until_got(200);
    cr_assert_eq(subject.got_size, 200);
    for (int i = 0; i < 200; i++) {
        cr_assert_eq(subject.got[i], '0' + i % 10);
    }
}

/* Goal: a large amount arrives byte for byte while reading is paused after every piece. */
Test(stream, paused_after_every_piece)
{
    enum { SIZE = 2 * 1024 * 1024 };
    static uint8_t sent[SIZE];
    size_t written = 0;
    fill(sent, SIZE, 1);
    subject.on_data_do = stop_in_data;
    pyl_stream_read_start(&subject.stream);
    while (subject.got_size < SIZE) {
        ssize_t count = write(peer, sent + written, SIZE - written);
        written += count > 0 ? (size_t)count : 0;
        fixture_turn_times(&worker, 1);
        pyl_stream_read_start(&subject.stream);
    }
    cr_assert_arr_eq(subject.got, sent, SIZE);
}

/* Goal: EOF behind data that was held is told after the data, and only when reading goes on. */
Test(stream, eof_waits_for_held_data)
{
    subject.on_data_do = stop_in_data;
    pyl_stream_read_start(&subject.stream);
    peer_write("one");
    turn_until_got(3);
    peer_write("two");
    close(peer);
    peer = -1;
    fixture_turn_times(&worker, 5);
    cr_assert_not(subject.has_eof);
    pyl_stream_read_start(&subject.stream);
    turn_until_got(6);
    fixture_turn_times(&worker, 3);
    cr_assert_not(subject.has_eof);
    subject.on_data_do = NULL;
    pyl_stream_read_start(&subject.stream);
    fixture_turn_until(&worker, &subject.has_eof);
    expect_got("onetwo");
    cr_assert_str_eq(subject.log, "de");
    pyl_stream_read_start(&subject.stream);
    fixture_turn_times(&worker, 3);
    cr_assert_str_eq(subject.log, "de");
}

/* Goal: after EOF the stream can still write. */
Test(stream, half_closed_by_peer_still_writes)
{
    pyl_stream_read_start(&subject.stream);
    cr_assert_eq(shutdown(peer, SHUT_WR), 0);
    fixture_turn_until(&worker, &subject.has_eof);
    write_text("reply", 1);
    expect_peer_reads("reply");
    cr_assert_not(subject.is_closed);
}

/* ---- direct reading ---- */

/* Goal: with direct reading bytes land in the owner's memory, in pieces of its size, and EOF
 * follows. */
Test(stream, direct_read)
{
    subject.direct_size = 7;
    pyl_stream_set_direct_read(&subject.stream, true);
    pyl_stream_read_start(&subject.stream);
    peer_write("0123456789abcdefghij");
    shutdown(peer, SHUT_WR);
    fixture_turn_until(&worker, &subject.has_eof);
    expect_got("0123456789abcdefghij");
    cr_assert_str_eq(subject.log, "bbbe");
}

static void
toggle_direct(struct subject *s)
{
    pyl_stream_set_direct_read(&s->stream, !s->stream.is_direct_read);
}

/* Goal: the way of reading may change inside every callback without loss. */
Test(stream, direct_read_switched_in_callbacks)
{
    subject.direct_size = 3;
    subject.on_data_do = toggle_direct;
    pyl_stream_read_start(&subject.stream);
    for (int i = 0; i < 30; i++) {
        peer_write("0123456789");
        if (i % 2 == 0) {
            fixture_turn_times(&worker, 1);
        }
    }
    turn_until_got(300);
    for (int i = 0; i < 300; i++) {
        cr_assert_eq(subject.got[i], '0' + i % 10);
    }
}

/* Goal: direct reading stops and starts like the other. */
Test(stream, direct_read_paused)
{
    subject.direct_size = 4;
    subject.on_data_do = stop_in_data;
    pyl_stream_set_direct_read(&subject.stream, true);
    pyl_stream_read_start(&subject.stream);
    peer_write("01234567");
    turn_until_got(4);
    fixture_turn_times(&worker, 4);
    cr_assert_eq(subject.got_size, 4);
    pyl_stream_read_start(&subject.stream);
    turn_until_got(8);
    expect_got("01234567");
}

/* Writes `size` bytes of `pattern` and turns until they have come. */
static void
expect_passage(const uint8_t *pattern, size_t size)
{
    size_t before = subject.got_size;
    cr_assert_eq(write(peer, pattern, size), (ssize_t)size);
    turn_until_got(before + size);
    cr_assert_arr_eq(subject.got + before, pattern, size);
}

/* Goal: where the backend batches, small direct reads come by a RECV op, large ones by readiness,
 * and nothing is lost or out of order at the change. */
Test(stream, direct_read_changes_with_the_size)
{
    bool batches = (worker.reactor.ops->features & PYL_BACKEND_BATCHES) != 0;
    static uint8_t pattern[64 * 1024];
    for (size_t i = 0; i < sizeof(pattern); i++) {
        pattern[i] = (uint8_t)(i * 31 + i / 251);
    }
    subject.direct_size = sizeof(subject.direct);
    pyl_stream_set_direct_read(&subject.stream, true);
    pyl_stream_read_start(&subject.stream);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 3; i++) {
            expect_passage(pattern, 100);
        }
        fixture_turn_times(&worker, 3);
        cr_assert_eq(subject.stream.read_op.kind, batches ? PYL_OP_RECV : PYL_OP_POLL);
        expect_passage(pattern, sizeof(pattern));
        cr_assert_eq(subject.stream.small_reads, 0);
        fixture_turn_times(&worker, 3);
        cr_assert_eq(subject.stream.read_op.kind, PYL_OP_POLL);
    }
}

/* Goal: an owner with little memory gets one piece of data a turn, also after small reads. */
Test(stream, direct_read_into_little_memory_comes_by_the_turn)
{
    subject.direct_size = 10;
    pyl_stream_set_direct_read(&subject.stream, true);
    pyl_stream_read_start(&subject.stream);
    for (int i = 0; i < 4; i++) {
        expect_passage((const uint8_t *)"01234", 5);
    }
    fixture_turn_times(&worker, 3);
    peer_write("0123456789012345678901234567890123456789");
    size_t before = subject.got_size;
    while (subject.got_size < before + 40) {
        size_t had = subject.got_size;
        fixture_turn_times(&worker, 1);
        cr_assert_leq(subject.got_size - had, 10);
    }
}

/* Goal: an owner without memory gets -ENOBUFS, once, and the end. */
Test(stream, direct_read_without_memory)
{
    subject.direct_size = 0;
    pyl_stream_set_direct_read(&subject.stream, true);
    pyl_stream_read_start(&subject.stream);
    peer_write("x");
    fixture_turn_until(&worker, &subject.is_closed);
    cr_assert_eq(subject.error, -ENOBUFS);
    cr_assert_str_eq(subject.log, "xlc");
}

/* ---- writing ---- */
