/*
 * actor.c - one end of a connection: writes, reads, pauses, switches and leaves at random, also
 * from inside callbacks.
 */
#include "world.h"

#include "base/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { PATTERN_SIZE = 65521, WRITE_MAX = 20000, SEND_MAX = 120000 };

/* The byte at an offset of what actor `id` sends: a slice of one long pattern, so that static
 * writes can point into it. */
static uint8_t pattern[PATTERN_SIZE + WRITE_MAX];

static const uint8_t *
content(uint32_t id, uint64_t offset)
{
    if (pattern[0] == 0) {
        uint32_t state = 1;
        for (size_t i = 0; i < PATTERN_SIZE; i++) {
            state = state * 1664525u + 1013904223u;
            pattern[i] = (uint8_t)(state >> 24) | (i == 0);
        }
        memcpy(pattern + PATTERN_SIZE, pattern, WRITE_MAX);
    }
    return &pattern[(id * 7919u + offset) % PATTERN_SIZE];
}

/* A write that somebody owns; freed when released, so that a late use is found by a sanitizer. */
struct block {
    uint32_t sequence;
    uint8_t bytes[];
};

/* A stream that drains takes more. */
static bool
may_write(const struct actor *actor)
{
    const struct pyl_stream *stream = &actor->stream;
    bool is_draining = stream->state == PYL_STREAM_CLOSING && !stream->is_aborting;
    return (stream->state == PYL_STREAM_OPEN || (is_draining && !actor->is_lost)) &&
           !actor->is_done_writing;
}

static void
write_some(struct actor *actor)
{
    struct world *world = actor->world;
    uint64_t left = actor->send_total - actor->written;
    if (!may_write(actor) || left == 0) {
        return;
    }
    size_t size = 1 + world_random(world, world_random(world, 2) == 0 ? 100 : WRITE_MAX);
    size = size < left ? size : (size_t)left;
    const uint8_t *bytes = content(actor->id, actor->written);
    void *owner = NULL;
    if (world_random(world, 4) != 0) {
        struct block *block = malloc(sizeof(*block) + size);
        WORLD_CHECK(block != NULL);
        block->sequence = actor->next_write++;
        memcpy(block->bytes, bytes, size);
        bytes = block->bytes;
        owner = block;
    }
    actor->written += size;
    WORLD_CHECK(pyl_stream_write(&actor->stream, bytes, size, owner) == 0);
}

static void
finish_writing(struct actor *actor)
{
    if (actor->stream.state == PYL_STREAM_OPEN && may_write(actor) &&
        actor->written == actor->send_total) {
        actor->is_done_writing = true;
        pyl_stream_shutdown(&actor->stream);
        WORLD_CHECK(pyl_stream_write(&actor->stream, "x", 1, NULL) == -EPIPE);
    }
}

static void
leave_early(struct actor *actor)
{
    if (actor->link->is_clean || world_random(actor->world, 10) != 0) {
        return;
    }
    if (world_random(actor->world, 2) == 0) {
        pyl_stream_close(&actor->stream);
    } else {
        pyl_stream_abort(&actor->stream);
    }
}

static void
act(struct actor *actor)
{
    struct pyl_stream *stream = &actor->stream;
    switch (world_random(actor->world, 12)) {
    case 0:
    case 1:
    case 2:
        write_some(actor);
        break;
    case 3:
        pyl_stream_flush(stream);
        break;
    case 4:
        pyl_stream_read_stop(stream);
        break;
    case 5:
    case 6:
        pyl_stream_read_start(stream);
        break;
    case 7:
        pyl_stream_read_stop(stream);
        pyl_stream_read_start(stream);
        break;
    case 8:
        pyl_stream_set_direct_read(stream, world_random(actor->world, 2) == 0);
        break;
    case 9:
        finish_writing(actor);
        break;
    case 10:
        leave_early(actor);
        break;
    default:
        break;
    }
}

/* Inside callbacks, now and then. */
static void
maybe_act(struct actor *actor)
{
    while (world_random(actor->world, 3) == 0) {
        act(actor);
    }
}

static void
start_tick(struct actor *actor)
{
    struct pyl_worker *worker = &actor->world->worker;
    int64_t delay_ns = world_random(actor->world, 200) * PYL_NS_PER_US;
    int64_t now_ns = pyl_reactor_now_ns(&worker->reactor);
    actor->is_tick_pending = true;
    WORLD_CHECK(pyl_timer_start(worker, &actor->tick, now_ns + delay_ns) == 0);
}

static void
run_tick(struct pyl_job *job)
{
    struct actor *actor = PYL_CONTAINER_OF(job, struct actor, tick.job);
    actor->is_tick_pending = false;
    if (actor->is_closed) {
        return;
    }
    for (uint32_t i = world_random(actor->world, 4); i > 0; i--) {
        act(actor);
    }
    if (world_random(actor->world, 2) == 0) {
        pyl_stream_read_start(&actor->stream);
        write_some(actor);
        finish_writing(actor);
    }
    if (actor->has_eof && actor->is_done_writing && world_random(actor->world, 2) == 0) {
        pyl_stream_close(&actor->stream);
    }
    start_tick(actor);
}

/* ---- what the stream says ---- */

static struct actor *
actor_of(struct pyl_stream *stream)
{
    return PYL_CONTAINER_OF(stream, struct actor, stream);
}

static void
check_alive(const struct actor *actor)
{
    WORLD_CHECK(actor->is_open);
    WORLD_CHECK(!actor->is_closed);
}

static void
take(struct actor *actor, const uint8_t *data, size_t size)
{
    check_alive(actor);
    WORLD_CHECK(actor->stream.is_reading);
    WORLD_CHECK(!actor->has_eof);
    WORLD_CHECK(!actor->has_error);
    WORLD_CHECK(!actor->is_lost);
    WORLD_CHECK(size > 0);
    WORLD_CHECK(actor->received + size <= actor->peer->written);
    while (size > 0) {
        size_t piece = size < WRITE_MAX ? size : WRITE_MAX;
        const uint8_t *expected = content(actor->peer->id, actor->received);
        WORLD_CHECK(memcmp(data, expected, piece) == 0);
        actor->received += piece;
        data += piece;
        size -= piece;
    }
    maybe_act(actor);
}

static void
on_data(struct pyl_stream *stream, const uint8_t *data, size_t size)
{
    take(actor_of(stream), data, size);
}

static void *
get_buffer(struct pyl_stream *stream, size_t *ret_size)
{
    struct actor *actor = actor_of(stream);
    check_alive(actor);
    actor->direct_size = 1 + world_random(actor->world, DIRECT_SIZE - 1);
    *ret_size = actor->direct_size;
    return actor->direct;
}

static void
on_buffer_filled(struct pyl_stream *stream, size_t size)
{
    struct actor *actor = actor_of(stream);
    WORLD_CHECK(size <= actor->direct_size);
    take(actor, actor->direct, size);
}

static void
on_eof(struct pyl_stream *stream)
{
    struct actor *actor = actor_of(stream);
    check_alive(actor);
    WORLD_CHECK(!actor->has_eof);
    WORLD_CHECK(!actor->has_error);
    actor->has_eof = true;
    maybe_act(actor);
}

static void
on_error(struct pyl_stream *stream, int error)
{
    struct actor *actor = actor_of(stream);
    check_alive(actor);
    WORLD_CHECK(!actor->has_error);
    WORLD_CHECK(!actor->is_lost);
    WORLD_CHECK(error == -ECONNRESET || error == -EPIPE);
    WORLD_CHECK(!actor->link->is_clean || actor->world->is_lossy);
    actor->has_error = true;
}

static void
on_progress(struct pyl_stream *stream)
{
    check_alive(actor_of(stream));
    WORLD_CHECK(!actor_of(stream)->is_lost);
    maybe_act(actor_of(stream));
}

static void
on_lost(struct pyl_stream *stream)
{
    struct actor *actor = actor_of(stream);
    check_alive(actor);
    WORLD_CHECK(!actor->is_lost);
    WORLD_CHECK(stream->is_aborting || stream->write_count == 0);
    actor->is_lost = true;
    WORLD_CHECK(pyl_stream_write(stream, "x", 1, NULL) == -EPIPE);
}

static void
on_closed(struct pyl_stream *stream)
{
    struct actor *actor = actor_of(stream);
    check_alive(actor);
    WORLD_CHECK(actor->is_lost);
    WORLD_CHECK(pyl_op_is_idle(&stream->read_op));
    WORLD_CHECK(!pyl_stream_is_sending(stream));
    WORLD_CHECK(actor->next_release == actor->next_write);
    actor->is_closed = true;
    if (actor->tick.is_armed) {
        pyl_timer_stop(&actor->world->worker, &actor->tick);
        actor->is_tick_pending = false;
    }
    memset(stream, 0xa5, sizeof(*stream)); /* it may be freed here: nothing may look at it again */
}

static void
release(struct pyl_stream *stream, void *owner)
{
    struct actor *actor = actor_of(stream);
    struct block *block = owner;
    check_alive(actor);
    WORLD_CHECK(block->sequence == actor->next_release);
    actor->next_release++;
    free(block);
    if (!actor->world->worker.is_closing) {
        maybe_act(actor);
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

void
actor_prepare(struct actor *actor, struct world *world, struct link *link, uint32_t id)
{
    actor->world = world;
    actor->link = link;
    actor->id = id;
    actor->peer = actor == &link->ends[0] ? &link->ends[1] : &link->ends[0];
    actor->send_total =
        world_random(world, 3) == 0 ? world_random(world, 200) : world_random(world, SEND_MAX);
    actor->tick.job.run = run_tick;
}

void
actor_open(struct actor *actor, int fd)
{
    actor->is_open = true;
    pyl_stream_init(&actor->stream, &actor->world->worker, fd, true, &ops);
    start_tick(actor);
}

void
actor_check_end(const struct actor *actor)
{
    if (!actor->is_open) {
        return;
    }
    WORLD_CHECK(actor->is_closed);
    WORLD_CHECK(actor->next_release == actor->next_write);
    if (actor->link->is_clean && !actor->world->is_lossy) {
        WORLD_CHECK(!actor->has_error);
        WORLD_CHECK(actor->has_eof);
        WORLD_CHECK(actor->written == actor->send_total);
        WORLD_CHECK(actor->received == actor->peer->send_total);
    }
}
