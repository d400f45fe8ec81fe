/*
 * stream_kit.h - what the suites of the stream share: a worker, a stream under test whose callbacks
 * write down what they saw, and its peer.
 */
#ifndef PYL_TESTS_STREAM_KIT_H
#define PYL_TESTS_STREAM_KIT_H

#include "io/stream.h"

#include "base/alloc.h"
#include "support/worker_fixture.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { GOT_MAX = 8 * 1024 * 1024, LOG_MAX = 256 };

/* What a stream told its owner. */
struct subject {
    struct pyl_stream stream;
    uint8_t *got;
    size_t got_size;
    char log[LOG_MAX + 1]; /* one letter per call: d data, b buffer filled, e eof, x error, p
                              progress, c closed; data calls in a row count once */
    int log_size;
    int error;
    bool is_closed;
    bool has_eof;
    bool has_error;
    bool has_data;
    bool has_progress;
    bool is_lost;
    int release_count;
    uintptr_t next_owner; /* releases come in the order 1, 2, 3, ... */
    bool is_release_out_of_order;
    uint8_t direct[32 * 1024];
    size_t direct_size;
    void (*on_data_do)(struct subject *subject); /* what to do inside the callback */
    void (*on_eof_do)(struct subject *subject);
    void (*on_release_do)(struct subject *subject);
    void (*on_progress_do)(struct subject *subject);
};

static struct pyl_worker worker;
static struct subject subject;
static int peer;

static inline struct subject *
subject_of(struct pyl_stream *stream)
{
    return PYL_CONTAINER_OF(stream, struct subject, stream);
}

static inline void
note(struct subject *s, char what)
{
    cr_assert_not(s->is_closed, "call '%c' after on_closed", what);
    if (what == 'd' && s->log_size > 0 && s->log[s->log_size - 1] == 'd') {
        return;
    }
    if (s->log_size < LOG_MAX) {
        s->log[s->log_size++] = what;
    }
}

static inline void
take(struct subject *s, const uint8_t *data, size_t size)
{
    cr_assert_leq(s->got_size + size, GOT_MAX);
    memcpy(s->got + s->got_size, data, size);
    s->got_size += size;
    s->has_data = true;
    if (s->on_data_do != NULL) {
        s->on_data_do(s);
    }
}

static inline void
on_data(struct pyl_stream *stream, const uint8_t *data, size_t size)
{
    cr_assert_gt(size, 0);
    note(subject_of(stream), 'd');
    take(subject_of(stream), data, size);
}

static inline void *
get_buffer(struct pyl_stream *stream, size_t *ret_size)
{
    *ret_size = subject_of(stream)->direct_size;
    return subject_of(stream)->direct;
}

static inline void
on_buffer_filled(struct pyl_stream *stream, size_t size)
{
    struct subject *s = subject_of(stream);
    cr_assert_leq(size, s->direct_size);
    note(s, 'b');
    take(s, s->direct, size);
}

static inline void
on_eof(struct pyl_stream *stream)
{
    struct subject *s = subject_of(stream);
    note(s, 'e');
    s->has_eof = true;
    if (s->on_eof_do != NULL) {
        s->on_eof_do(s);
    }
}

static inline void
on_error(struct pyl_stream *stream, int error)
{
    struct subject *s = subject_of(stream);
    note(s, 'x');
    cr_assert_not(s->has_error);
    s->has_error = true;
    s->error = error;
}

static inline void
on_progress(struct pyl_stream *stream)
{
    struct subject *s = subject_of(stream);
    note(s, 'p');
    s->has_progress = true;
    if (s->on_progress_do != NULL) {
        s->on_progress_do(s);
    }
}

static inline void
on_lost(struct pyl_stream *stream)
{
    struct subject *s = subject_of(stream);
    note(s, 'l');
    cr_assert_not(s->is_lost);
    s->is_lost = true;
    cr_assert_eq(pyl_stream_write(stream, "no", 2, NULL), -EPIPE);
}

static inline void
on_closed(struct pyl_stream *stream)
{
    struct subject *s = subject_of(stream);
    cr_assert(s->is_lost);
    note(s, 'c');
    cr_assert_neq(fcntl(stream->fd, F_GETFD), -1, "the fd is still open in on_closed");
    cr_assert(pyl_op_is_idle(&stream->read_op));
    cr_assert(!pyl_stream_is_sending(stream));
    s->is_closed = true;
}

static inline void
release(struct pyl_stream *stream, void *owner)
{
    struct subject *s = subject_of(stream);
    s->release_count++;
    s->is_release_out_of_order |= (uintptr_t)owner != ++s->next_owner;
    if (s->on_release_do != NULL) {
        s->on_release_do(s);
    }
}

static const struct pyl_stream_ops ops = {
    .on_data = on_data,
    .get_buffer = get_buffer,
    .on_buffer_filled = on_buffer_filled,
    .on_eof = on_eof,
    .on_error = on_error,
    .on_progress = on_progress,
    .on_lost = on_lost,
    .on_closed = on_closed,
    .release = release,
};

static inline void
adopt(struct subject *s, int fd)
{
    *s = (struct subject){.got = malloc(GOT_MAX), .direct_size = sizeof(s->direct)};
    pyl_stream_init(&s->stream, &worker, fd, true, &ops);
}

static inline void
setup(void)
{
    int fds[2];
    fixture_open(&worker);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    adopt(&subject, fds[0]);
    peer = fds[1];
}

static inline void
finish_subject(struct subject *s)
{
    pyl_stream_abort(&s->stream);
    fixture_turn_until(&worker, &s->is_closed);
    cr_assert_eq(fcntl(s->stream.fd, F_GETFD), -1, "an owned fd is closed after on_closed");
    cr_assert_not(s->is_release_out_of_order);
    free(s->got);
}

static inline void
teardown(void)
{
    finish_subject(&subject);
    pyl_worker_fini(&worker);
}

/* ---- helpers on the peer's side ---- */

static inline void
peer_write(const char *text)
{
    cr_assert_eq(write(peer, text, strlen(text)), (ssize_t)strlen(text));
}

static inline size_t
peer_read(uint8_t *data, size_t size)
{
    ssize_t count = read(peer, data, size);
    return count > 0 ? (size_t)count : 0;
}

static inline void
expect_got(const char *text)
{
    cr_assert_eq(subject.got_size, strlen(text), "%zu bytes", subject.got_size);
    cr_assert_arr_eq(subject.got, text, strlen(text));
}

static inline void
turn_until_got(size_t size)
{
    while (subject.got_size < size) {
        subject.has_data = false;
        fixture_turn_until(&worker, &subject.has_data);
    }
}

static inline void
write_text(const char *text, uintptr_t owner)
{
    cr_assert_eq(pyl_stream_write(&subject.stream, text, strlen(text), (void *)owner), 0);
}

static inline void
expect_peer_reads(const char *text)
{
    uint8_t data[256];
    size_t size = 0;
    while (size < strlen(text)) {
        cr_assert_eq(pyl_worker_turn(&worker, false), 0);
        size += peer_read(data + size, sizeof(data) - size);
    }
    cr_assert_eq(size, strlen(text));
    cr_assert_arr_eq(data, text, size);
}

static inline void
fill(uint8_t *data, size_t size, uint32_t seed)
{
    for (size_t i = 0; i < size; i++) {
        seed = seed * 1664525u + 1013904223u;
        data[i] = (uint8_t)(seed >> 24);
    }
}

/* ---- reading ---- */

#endif
