/*
 * test_backend_bulk.c - RECV of more than a ring buffer holds: a backend may change how it receives
 * while an op is active, and nobody may notice.
 */
#include "suite.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { LARGE = 300 * 1024, SMALL = 100 };

struct transfer {
    struct env *env;
    struct probe recv;
    int peer;
    uint8_t *pattern; /* LARGE bytes, sent again and again */
    size_t sent;
};

static void
transfer_init(struct transfer *transfer, struct env *env)
{
    int fds[2];
    memset(transfer, 0, sizeof(*transfer));
    transfer->env = env;
    net_pair(env, fds);
    transfer->peer = fds[1];
    transfer->pattern = malloc(LARGE);
    pattern_fill(transfer->pattern, LARGE, 7);
    probe_init(&transfer->recv, env, PYL_OP_RECV, fds[0]);
    probe_submit(&transfer->recv);
}

static void
transfer_fini(struct transfer *transfer)
{
    free(transfer->pattern);
}

/* The peer writes what it can of the next `size` bytes of the stream. */
static size_t
transfer_write(struct transfer *transfer, size_t size)
{
    size_t at = transfer->sent % LARGE;
    ssize_t count = net_write(transfer->env, transfer->peer, transfer->pattern + at,
                              size < LARGE - at ? size : LARGE - at);
    if (count < 0) {
        cr_assert_eq(count, -EAGAIN);
        return 0;
    }
    transfer->sent += (size_t)count;
    return (size_t)count;
}

static void
transfer_check(const struct transfer *transfer)
{
    cr_assert_eq(transfer->recv.size, transfer->sent);
    for (size_t i = 0; i < transfer->sent; i += LARGE) {
        size_t left = transfer->sent - i < LARGE ? transfer->sent - i : LARGE;
        cr_assert_eq(memcmp(transfer->recv.data + i, transfer->pattern, left), 0);
    }
}

/* Sends `size` bytes and receives them. */
static void
transfer_message(struct transfer *transfer, size_t size)
{
    while (size > 0) {
        size -= transfer_write(transfer, size);
        env_turn(transfer->env, size > 0 ? PYL_NS_PER_MS : 0);
    }
    probe_until_size(&transfer->recv, transfer->sent);
}

/* Goal: large and small messages in any order arrive whole. */
BACKEND_TEST(backend_bulk, sizes_change)
{
    static const size_t sizes[] = {SMALL, LARGE, SMALL, SMALL, SMALL, LARGE, LARGE, 1,
                                   LARGE, SMALL, 1,     16384, 16384, 1,     SMALL, LARGE};
    static struct transfer transfer;
    transfer_init(&transfer, env);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        transfer_message(&transfer, sizes[i]);
        transfer_check(&transfer);
    }
    transfer_fini(&transfer);
}

/* Goal: a pause at any moment loses nothing. */
BACKEND_TEST(backend_bulk, pauses)
{
    static struct transfer transfer;
    transfer_init(&transfer, env);
    for (int i = 0; i < 60; i++) {
        size_t left = i % 3 == 2 ? SMALL : LARGE;
        while (left > 0) {
            left -= transfer_write(&transfer, left);
            env_turn(env, 0);
            if (transfer.sent % 7 < 3) {
                pyl_reactor_cancel(&env->reactor, &transfer.recv.op);
                env_until(env, &transfer.recv.terminals, 1);
                cr_assert_eq(transfer.recv.last_result, -ECANCELED);
                transfer.recv.terminals = 0;
                probe_submit(&transfer.recv);
            }
        }
    }
    probe_until_size(&transfer.recv, transfer.sent);
    transfer_check(&transfer);
    transfer_fini(&transfer);
}

static void
cancel_other(struct probe *probe, const struct pyl_event *event)
{
    (void)event;
    struct probe *other = probe->user;
    if (probe->size > LARGE && other->size > LARGE && !pyl_op_is_idle(&other->op)) {
        pyl_reactor_cancel(&probe->env->reactor, &other->op);
    }
}

/* Goal: an op that is cancelled while its event waits for dispatch delivers nothing more. */
BACKEND_TEST(backend_bulk, cancelled_by_another)
{
    static struct transfer transfers[2];
    for (int i = 0; i < 2; i++) {
        transfer_init(&transfers[i], env);
        transfer_message(&transfers[i], LARGE);
        transfers[i].recv.then = cancel_other;
        transfers[i].recv.user = &transfers[1 - i].recv;
    }
    while (transfers[0].recv.terminals + transfers[1].recv.terminals == 0) {
        transfer_write(&transfers[0], LARGE);
        transfer_write(&transfers[1], LARGE);
        env_turn(env, PYL_NS_PER_MS);
    }
    for (int i = 0; i < 2; i++) {
        struct probe *recv = &transfers[i].recv;
        if (recv->terminals > 0) {
            size_t before = recv->size;
            cr_assert_eq(recv->last_result, -ECANCELED);
            env_settle(env);
            cr_assert_eq(recv->size, before);
        }
        transfer_fini(&transfers[i]);
    }
}

/* Goal: the end of the stream comes after all of its bytes. */
BACKEND_TEST(backend_bulk, end_of_stream)
{
    static struct transfer transfer;
    transfer_init(&transfer, env);
    transfer_message(&transfer, LARGE);
    size_t left = LARGE;
    while (left > 0) {
        left -= transfer_write(&transfer, left);
        env_turn(env, 0);
    }
    net_shutdown(env, transfer.peer);
    env_until(env, &transfer.recv.terminals, 1);
    cr_assert_eq(transfer.recv.last_result, 0);
    transfer_check(&transfer);
    transfer_fini(&transfer);
}

static void *
turn_elsewhere(void *argument)
{
    struct transfer *transfer = argument;
    for (int i = 0; i < 5; i++) {
        (void)transfer_write(transfer, LARGE);
        env_turn(transfer->env, PYL_NS_PER_MS);
    }
    return NULL;
}

/* Goal: a transfer goes on when another thread becomes the owner in its middle. */
BACKEND_TEST(backend_bulk, owner_changes)
{
    static struct transfer transfer;
    transfer_init(&transfer, env);
    for (int i = 0; i < 8; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, turn_elsewhere, &transfer);
        pthread_join(thread, NULL);
        turn_elsewhere(&transfer);
    }
    probe_until_size(&transfer.recv, transfer.sent);
    transfer_check(&transfer);
    transfer_fini(&transfer);
}
