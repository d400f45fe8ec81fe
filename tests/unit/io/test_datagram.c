/*
 * test_datagram.c - receiving in batches, the queue, errors, the end; over the kernel's UDP and
 * over the simulation's (PYLOOP_BACKEND=sim, where datagrams may overtake one another).
 */
#include "io/datagram.h"

#include "reactor/sim.h"
#include "support/worker_fixture.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RECEIVED_MAX = 1024 };

static struct pyl_worker worker;
static bool is_sim;

struct end {
    struct pyl_datagram_socket socket;
    struct pyl_sockaddr address;
    int fd;
    int received; /* datagrams, and the bits of their numbers */
    bool seen[RECEIVED_MAX];
    size_t last_size;
    struct pyl_sockaddr last_source;
    int errors;
    int last_error;
    int progress;
    int released;
    int in_turn;     /* datagrams since the test looked */
    int stops_after; /* on_datagram stops reading; 0: never */
    bool does_close; /* instead of stopping */
    bool does_echo;
    bool has_event;
    bool is_closed;
};

static struct end a, b;

static struct end *
end_of(struct pyl_datagram_socket *socket)
{
    return PYL_CONTAINER_OF(socket, struct end, socket);
}

static void
on_datagram(struct pyl_datagram_socket *socket, const uint8_t *data, size_t size,
            const struct sockaddr *source, socklen_t source_size)
{
    struct end *end = end_of(socket);
    cr_assert_not(end->is_closed);
    end->has_event = true;
    end->last_size = size;
    end->in_turn++;
    end->received++;
    end->last_source.size = source_size;
    memcpy(&end->last_source.u, source, source_size);
    if (size >= sizeof(int)) {
        int number;
        memcpy(&number, data, sizeof(number));
        if (number >= 0 && number < RECEIVED_MAX) {
            cr_assert_not(end->seen[number], "number %d came twice", number);
            end->seen[number] = true;
        }
    }
    if (end->does_echo) {
        cr_assert_eq(pyl_datagram_send(socket, "echo", 4, NULL, &end->last_source), 0);
    }
    if (end->received == end->stops_after) {
        (end->does_close ? pyl_datagram_close : pyl_datagram_read_stop)(socket);
    }
}

static void
on_error(struct pyl_datagram_socket *socket, int error)
{
    struct end *end = end_of(socket);
    end->has_event = true;
    end->errors++;
    end->last_error = error;
}

static void
on_progress(struct pyl_datagram_socket *socket)
{
    end_of(socket)->has_event = true;
    end_of(socket)->progress++;
}

static void
on_closed(struct pyl_datagram_socket *socket)
{
    cr_assert_not(end_of(socket)->is_closed);
    end_of(socket)->is_closed = true;
}

static void
release(struct pyl_datagram_socket *socket, void *owner)
{
    end_of(socket)->released++;
    free(owner);
}

static const struct pyl_datagram_ops ops = {
    .on_datagram = on_datagram,
    .on_error = on_error,
    .on_progress = on_progress,
    .on_closed = on_closed,
    .release = release,
};

static void
open_end(struct end *end, uint32_t sim_room, size_t overhead)
{
    struct pyl_datagram_options options = {.size_max = PYL_PACKET_SIZE_UDP, .overhead = overhead};
    memset(end, 0, sizeof(*end));
    if (is_sim) {
        end->fd = pyl_sim_datagram_socket(&worker.reactor, sim_room, &end->address.u.storage,
                                          &end->address.size);
        cr_assert_geq(end->fd, 0);
    } else {
        cr_assert_eq(pyl_sockaddr_parse(&end->address, "127.0.0.1", 0), 0);
        end->fd = pyl_socket_open(AF_INET, SOCK_DGRAM, 0);
        cr_assert_geq(end->fd, 0);
        cr_assert_eq(bind(end->fd, &end->address.u.any, end->address.size), 0);
        cr_assert_eq(pyl_socket_local_address(end->fd, &end->address), 0);
    }
    pyl_datagram_init(&end->socket, &worker, end->fd, &options, &ops);
}

static void
setup(void)
{
    const char *backend = getenv("PYLOOP_BACKEND");
    is_sim = backend != NULL && strcmp(backend, "sim") == 0;
    if (is_sim) {
        struct pyl_reactor_options options = {.backend = "sim", .sim_seed = 7};
        cr_assert_eq(pyl_worker_init(&worker, &options, NULL, NULL, 0), 0);
    } else {
        fixture_open(&worker);
    }
    open_end(&a, 0, 0);
    open_end(&b, 0, 0);
}

static void
close_end(struct end *end)
{
    pyl_datagram_close(&end->socket);
    pyl_datagram_close(&end->socket);
    if (end->fd >= 0) {
        pyl_reactor_close_now(&worker.reactor, end->fd);
    }
    fixture_turn_until(&worker, &end->is_closed);
}

static void
teardown(void)
{
    close_end(&a);
    close_end(&b);
    pyl_worker_fini(&worker);
}

TestSuite(datagram, .init = setup, .fini = teardown);

static void
send_number(struct end *from, const struct end *to, int number, size_t size)
{
    uint8_t *data = calloc(1, size);
    cr_assert_not_null(data);
    memcpy(data, &number, sizeof(number));
    cr_assert_eq(pyl_datagram_send(&from->socket, data, size, data, &to->address), 0);
}

static void
turn_until_event(struct end *end)
{
    end->has_event = false;
    fixture_turn_until(&worker, &end->has_event);
}

static void
turn_until_received(struct end *end, int count)
{
    while (end->received < count) {
        turn_until_event(end);
    }
}

/* Goal: content, size and sender arrive; nothing before reading was started; zero bytes count. */
Test(datagram, delivers)
{
    send_number(&a, &b, 5, 100);
    fixture_turn_times(&worker, 3);
    cr_assert_eq(b.received, 0);
    cr_assert_eq(a.released, 1, "the bytes are released when they were sent");
    pyl_datagram_read_start(&b.socket);
    pyl_datagram_read_start(&b.socket);
    turn_until_received(&b, 1);
    cr_assert(b.seen[5]);
    cr_assert_eq(b.last_size, 100);
    cr_assert_eq(pyl_sockaddr_compare(&b.last_source, &a.address), 0);
    cr_assert_eq(pyl_datagram_send(&a.socket, "", 0, NULL, &b.address), 0);
    turn_until_received(&b, 2);
    cr_assert_eq(b.last_size, 0);
    send_number(&a, &b, 6, 60000);
    turn_until_received(&b, 3);
    cr_assert_eq(b.last_size, 60000);
}

/* Goal: what was sent in one turn leaves at its end, all of it, and comes in bounded batches. */
Test(datagram, batches_are_bounded)
{
    enum { COUNT = 200 };
    pyl_datagram_read_start(&b.socket);
    for (int i = 0; i < COUNT; i++) {
        send_number(&a, &b, i, 64);
    }
    cr_assert_eq(pyl_datagram_queued_size(&a.socket), COUNT * 64);
    cr_assert_eq(a.released, 0);
    int largest = 0;
    while (b.received < COUNT) {
        b.in_turn = 0;
        cr_assert_eq(pyl_worker_turn(&worker, true), 0);
        largest = b.in_turn > largest ? b.in_turn : largest;
    }
    cr_assert_eq(a.released, COUNT);
    cr_assert_leq(largest, PYL_PACKETS_MAX);
    cr_assert_eq(pyl_datagram_queued_size(&a.socket), 0);
}

/* Goal: more than a turn's share leaves in several turns, and in order. */
Test(datagram, share_of_a_turn)
{
    enum { COUNT = 600 };
    for (int i = 0; i < COUNT; i++) {
        send_number(&a, &b, i, 8);
    }
    cr_assert_eq(pyl_worker_turn(&worker, false), 0);
    cr_assert_gt(a.released, 0);
    cr_assert_lt(a.released, COUNT);
    fixture_turn_times(&worker, 10);
    cr_assert_eq(a.released, COUNT);
}

/* Goal: stopping in the middle of a batch delivers nothing more; the rest of it is lost, as
 * datagrams may be, and reading goes on after. */
Test(datagram, stops_within_a_batch)
{
    pyl_datagram_read_start(&b.socket);
    b.socket.batch = PYL_PACKETS_MAX;
    b.stops_after = 1;
    for (int i = 0; i < 2; i++) {
        send_number(&a, &b, i, 8);
    }
    pyl_datagram_flush(&a.socket);
    turn_until_received(&b, 1);
    fixture_turn_times(&worker, 5);
    cr_assert_eq(b.received, 1);
    pyl_datagram_read_start(&b.socket);
    send_number(&a, &b, 2, 8);
    while (!b.seen[2]) {
        turn_until_event(&b);
    }
}

/* Goal: close in on_datagram; the fd is ours at once. */
Test(datagram, closes_within_a_batch)
{
    pyl_datagram_read_start(&b.socket);
    b.stops_after = 1;
    b.does_close = true;
    for (int i = 0; i < 5; i++) {
        send_number(&a, &b, i, 8);
    }
    turn_until_received(&b, 1);
    pyl_reactor_close_now(&worker.reactor, b.fd);
    b.fd = -1;
    fixture_turn_until(&worker, &b.is_closed);
    cr_assert_eq(b.received, 1);
    cr_assert_eq(pyl_datagram_send(&b.socket, "x", 1, NULL, &a.address), -EBADF);
}

/* Goal: an answer from inside on_datagram. */
Test(datagram, echo)
{
    pyl_datagram_read_start(&a.socket);
    pyl_datagram_read_start(&b.socket);
    b.does_echo = true;
    for (int i = 0; i < 40; i++) {
        send_number(&a, &b, i, 8);
    }
    turn_until_received(&a, 40);
    cr_assert_eq(b.received, 40);
    cr_assert_eq(a.last_size, 4);
}

/* Goal: what cannot be sent is dropped with its error, and the rest is sent. */
Test(datagram, one_that_is_too_long)
{
    pyl_datagram_read_start(&b.socket);
    send_number(&a, &b, 0, 8);
    send_number(&a, &b, 1, 100 * 1024);
    send_number(&a, &b, 2, 8);
    turn_until_received(&b, 2);
    cr_assert_eq(a.errors, 1);
    cr_assert_eq(a.last_error, -EMSGSIZE);
    cr_assert(b.seen[0] && b.seen[2]);
    cr_assert_eq(a.released, 3);
}

/* Goal: a refusal that comes back as an ICMP message is an error of receiving, and not the end. */
Test(datagram, refused)
{
    if (is_sim) {
        cr_skip_test("the simulation sends no ICMP");
    }
    pyl_datagram_read_start(&a.socket);
    cr_assert_eq(connect(a.fd, &b.address.u.any, b.address.size), 0);
    close(b.fd);
    cr_assert_eq(pyl_datagram_send(&a.socket, "x", 1, NULL, NULL), 0);
    turn_until_event(&a);
    cr_assert_eq(a.last_error, -ECONNREFUSED);
    cr_assert(a.socket.is_reading);
    b.fd = -1;
}

/* Two ends of which the second has little room: a Unix pair, or the simulation's. */
static void
reopen_with_little_room(void)
{
    close_end(&a);
    close_end(&b);
    open_end(&a, 0, 8);
    open_end(&b, 2048, 8);
    if (!is_sim) {
        int fds[2];
        cr_assert_eq(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
        cr_assert_eq(dup3(fds[0], a.fd, O_CLOEXEC), a.fd);
        cr_assert_eq(dup3(fds[1], b.fd, O_CLOEXEC), b.fd);
        close(fds[0]);
        close(fds[1]);
    }
}

static void
queue_full(int count)
{
    for (int i = 0; i < count; i++) {
        uint8_t *data = calloc(1, 1000);
        cr_assert_not_null(data);
        memcpy(data, &i, sizeof(i));
        cr_assert_eq(pyl_datagram_send(&a.socket, data, 1000, data, is_sim ? &b.address : NULL), 0);
    }
}

/* Goal: what the kernel refuses stays queued, with the overhead counted; it goes on when there is
 * room, and on_progress tells. */
Test(datagram, waits_for_room)
{
    enum { COUNT = 700 };
    reopen_with_little_room();
    queue_full(COUNT);
    pyl_datagram_flush(&a.socket);
    size_t left = pyl_datagram_queued_size(&a.socket);
    cr_assert_gt(left, 0);
    cr_assert_eq(left, (size_t)(COUNT - a.released) * 1008);
    fixture_turn_times(&worker, 5);
    cr_assert_eq(pyl_datagram_queued_size(&a.socket), left);
    cr_assert_eq(a.progress, 0);
    pyl_datagram_read_start(&b.socket);
    turn_until_received(&b, COUNT);
    cr_assert_eq(pyl_datagram_queued_size(&a.socket), 0);
    cr_assert_gt(a.progress, 0);
    cr_assert_eq(a.released, COUNT);
    cr_assert_eq(a.errors + b.errors, 0);
}

/* Goal: closing releases what is queued, sent or not, and sends no more of it. */
Test(datagram, close_drops_the_queue)
{
    enum { COUNT = 700 };
    reopen_with_little_room();
    queue_full(COUNT);
    pyl_datagram_flush(&a.socket);
    int sent = a.released;
    pyl_datagram_close(&a.socket);
    cr_assert_eq(a.released, COUNT);
    pyl_datagram_read_start(&b.socket);
    turn_until_received(&b, sent);
    fixture_turn_times(&worker, 5);
    cr_assert_eq(b.received, sent);
}

/* Goal: the worker ends first; nothing is called but release. */
Test(datagram, dispose)
{
    pyl_datagram_read_start(&a.socket);
    send_number(&a, &b, 1, 8);
    pyl_worker_drain(&worker);
    pyl_datagram_dispose(&a.socket);
    pyl_datagram_dispose(&b.socket);
    cr_assert_eq(a.released, 1);
    cr_assert_eq(a.received + a.errors + b.received, 0);
    cr_assert_not(a.is_closed);
    pyl_worker_fini(&worker);
    if (!is_sim) {
        close(a.fd);
        close(b.fd);
    }
    setup(); /* for teardown */
}
