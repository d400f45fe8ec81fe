/*
 * sim_net.c - see sim_net.h.
 *
 * Bytes are in the receiver's queue from the moment they are written; a segment says when the next
 * of them may be read. So closing the sender takes nothing back.
 *
 * Tested by tests/unit/reactor/test_backend_sim.c.
 */
#include "reactor/sim_net.h"

#include "base/alloc.h"
#include "base/check.h"
#include "base/clock.h"
#include "reactor/op.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>

enum {
    BUFFER_SIZE = 64 * 1024,
    FD_MAX = 1 << 16,
    LATENCY_MAX_US = 50,
    FIRST_PORT = 1024,
};

void
pyl_sim_net_init(struct pyl_sim_net *net, uint64_t seed)
{
    *net = (struct pyl_sim_net){.next_port = FIRST_PORT, .now_ns = PYL_NS_PER_S};
    net->random_state = seed;
}

/* splitmix64: every seed, 0 too, gives a good sequence. */
uint32_t
pyl_sim_net_random(struct pyl_sim_net *net, uint32_t bound)
{
    uint64_t z = net->random_state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (uint32_t)((z ^ (z >> 31)) >> 32) % bound;
}

/* ---- sockets and their numbers ---- */

static struct pyl_sim_socket *
socket_new(enum pyl_sim_kind kind, uint32_t buffer_size)
{
    struct pyl_sim_socket *socket = pyl_alloc_zero(sizeof(*socket));
    if (socket == NULL) {
        return NULL;
    }
    socket->kind = (uint8_t)kind;
    socket->size_max = buffer_size > 0 ? buffer_size : BUFFER_SIZE;
    socket->bytes = pyl_alloc(socket->size_max);
    if (socket->bytes == NULL) {
        pyl_free(socket);
        return NULL;
    }
    return socket;
}

static void
socket_free(struct pyl_sim_socket *socket)
{
    for (uint32_t i = 0; i < socket->backlog_count; i++) {
        struct pyl_sim_socket *pending = socket->backlog[i];
        if (pending->peer != NULL) {
            pending->peer->peer = NULL;
            pending->peer->has_reset = true;
        }
        pyl_free(pending->bytes);
        pyl_free(pending->segments);
        pyl_free(pending);
    }
    pyl_sim_net_drop_datagrams(socket);
    pyl_free(socket->backlog);
    pyl_free(socket->bytes);
    pyl_free(socket->segments);
    pyl_free(socket);
}

void
pyl_sim_net_fini(struct pyl_sim_net *net)
{
    for (uint32_t i = 0; i < net->capacity; i++) {
        if (net->sockets[i] != NULL) {
            pyl_sim_net_close(net, (int)i + PYL_SIM_FD_FIRST, true);
        }
    }
    pyl_free(net->sockets);
    net->sockets = NULL;
}

struct pyl_sim_socket *
pyl_sim_net_find(const struct pyl_sim_net *net, int fd)
{
    int64_t index = (int64_t)fd - PYL_SIM_FD_FIRST;
    return index >= 0 && index < net->capacity ? net->sockets[index] : NULL;
}

/* The lowest free number, as the kernel's: what reuses numbers too early is found soon. */
static int
fd_assign(struct pyl_sim_net *net, struct pyl_sim_socket *socket)
{
    if (net->is_limited) {
        return -EMFILE;
    }
    uint32_t index = 0;
    while (index < net->capacity && net->sockets[index] != NULL) {
        index++;
    }
    if (index == FD_MAX) {
        return -EMFILE;
    }
    if (index == net->capacity) {
        uint32_t capacity = net->capacity > 0 ? net->capacity * 2 : 16;
        struct pyl_sim_socket **sockets =
            pyl_realloc_array(net->sockets, capacity, sizeof(struct pyl_sim_socket *));
        if (sockets == NULL) {
            return -ENOMEM;
        }
        memset(sockets + net->capacity, 0,
               (capacity - net->capacity) * sizeof(struct pyl_sim_socket *));
        net->sockets = sockets;
        net->capacity = capacity;
    }
    net->sockets[index] = socket;
    net->open_count++;
    return (int)index + PYL_SIM_FD_FIRST;
}

int
pyl_sim_net_open(struct pyl_sim_net *net, enum pyl_sim_kind kind, uint32_t buffer_size)
{
    struct pyl_sim_socket *socket = socket_new(kind, buffer_size);
    if (socket == NULL) {
        return -ENOMEM;
    }
    int fd = fd_assign(net, socket);
    if (fd < 0) {
        socket_free(socket);
        return fd;
    }
    if (kind != PYL_SIM_STREAM) {
        socket->port = net->next_port++;
    }
    return fd;
}

int
pyl_sim_net_pair(struct pyl_sim_net *net, uint32_t buffer_size, int fds[2])
{
    int first = pyl_sim_net_open(net, PYL_SIM_STREAM, buffer_size);
    if (first < 0) {
        return first;
    }
    int second = pyl_sim_net_open(net, PYL_SIM_STREAM, buffer_size);
    if (second < 0) {
        pyl_sim_net_close(net, first, false);
        return second;
    }
    struct pyl_sim_socket *a = pyl_sim_net_find(net, first);
    struct pyl_sim_socket *b = pyl_sim_net_find(net, second);
    a->state = b->state = PYL_SIM_CONNECTED;
    a->peer = b;
    b->peer = a;
    fds[0] = first;
    fds[1] = second;
    return 0;
}

/* ---- segments ---- */

static int64_t
segment_arrival(struct pyl_sim_net *net, const struct pyl_sim_socket *receiver)
{
    int64_t arrive_ns = net->now_ns;
    if (pyl_sim_net_random(net, 4) != 0) { /* one in four is there at once */
        arrive_ns += pyl_sim_net_random(net, LATENCY_MAX_US) * PYL_NS_PER_US;
    }
    if (receiver->segment_count > 0) {
        const struct pyl_sim_segment *last =
            &receiver->segments[receiver->segment_first + receiver->segment_count - 1];
        arrive_ns = arrive_ns > last->arrive_ns ? arrive_ns : last->arrive_ns;
    }
    return arrive_ns;
}

static int
segment_push(struct pyl_sim_net *net, struct pyl_sim_socket *receiver,
             enum pyl_sim_segment_kind kind, uint32_t size)
{
    int64_t arrive_ns = segment_arrival(net, receiver);
    if (receiver->segment_first > 0) {
        memmove(receiver->segments, receiver->segments + receiver->segment_first,
                receiver->segment_count * sizeof(*receiver->segments));
        receiver->segment_first = 0;
    }
    if (receiver->segment_count == receiver->segment_capacity) {
        uint32_t capacity = receiver->segment_capacity > 0 ? receiver->segment_capacity * 2 : 4;
        struct pyl_sim_segment *segments =
            pyl_realloc_array(receiver->segments, capacity, sizeof(*segments));
        if (segments == NULL) {
            return -ENOMEM;
        }
        receiver->segments = segments;
        receiver->segment_capacity = capacity;
    }
    receiver->segments[receiver->segment_count++] =
        (struct pyl_sim_segment){.arrive_ns = arrive_ns, .size = size, .kind = (uint8_t)kind};
    return 0;
}

static void
segment_arrive(struct pyl_sim_socket *socket, const struct pyl_sim_segment *segment)
{
    switch ((enum pyl_sim_segment_kind)segment->kind) {
    case PYL_SIM_DATA:
        socket->arrived += segment->size;
        break;
    case PYL_SIM_FIN:
        socket->has_end = true;
        break;
    case PYL_SIM_RESET:
        socket->has_reset = true; /* unread bytes are gone, as with TCP */
        socket->arrived = 0;
        socket->count = 0;
        break;
    }
}

static void
socket_deliver(struct pyl_sim_net *net, struct pyl_sim_socket *socket)
{
    while (socket->segment_count > 0 &&
           socket->segments[socket->segment_first].arrive_ns <= net->now_ns) {
        struct pyl_sim_segment segment = socket->segments[socket->segment_first++];
        socket->segment_count--;
        if (!socket->has_reset) {
            segment_arrive(socket, &segment);
        }
    }
    if (socket->state == PYL_SIM_CONNECTING && socket->connected_ns <= net->now_ns) {
        socket->state = socket->connect_error == 0 ? PYL_SIM_CONNECTED : PYL_SIM_UNCONNECTED;
    }
}

void
pyl_sim_net_deliver(struct pyl_sim_net *net)
{
    for (uint32_t i = 0; i < net->capacity; i++) {
        if (net->sockets[i] != NULL) {
            socket_deliver(net, net->sockets[i]);
        }
    }
}

int64_t
pyl_sim_net_next_ns(const struct pyl_sim_net *net)
{
    int64_t next_ns = PYL_NEVER_NS;
    for (uint32_t i = 0; i < net->capacity; i++) {
        const struct pyl_sim_socket *socket = net->sockets[i];
        if (socket == NULL) {
            continue;
        }
        if (socket->segment_count > 0 &&
            socket->segments[socket->segment_first].arrive_ns < next_ns) {
            next_ns = socket->segments[socket->segment_first].arrive_ns;
        }
        if (socket->state == PYL_SIM_CONNECTING && socket->connected_ns < next_ns) {
            next_ns = socket->connected_ns;
        }
        const struct pyl_sim_datagram *first = socket->datagrams;
        if (first != NULL && first->arrive_ns > net->now_ns && first->arrive_ns < next_ns) {
            next_ns = first->arrive_ns;
        }
    }
    return next_ns;
}

/* ---- connections ---- */

void
pyl_sim_net_close(struct pyl_sim_net *net, int fd, bool is_reset)
{
    struct pyl_sim_socket *socket = pyl_sim_net_find(net, fd);
    if (socket == NULL) {
        return;
    }
    struct pyl_sim_socket *peer = socket->peer;
    if (peer != NULL) {
        enum pyl_sim_segment_kind kind =
            is_reset || socket->count > 0 ? PYL_SIM_RESET : PYL_SIM_FIN;
        if ((kind == PYL_SIM_RESET || !socket->is_write_shut) &&
            segment_push(net, peer, kind, 0) < 0) {
            peer->has_reset = true; /* no memory for an orderly end */
        }
        peer->peer = NULL;
    }
    socket_free(socket);
    net->sockets[fd - PYL_SIM_FD_FIRST] = NULL;
    net->open_count--;
}

static struct pyl_sim_socket *
listener_find(const struct pyl_sim_net *net, uint16_t port)
{
    for (uint32_t i = 0; i < net->capacity; i++) {
        struct pyl_sim_socket *socket = net->sockets[i];
        if (socket != NULL && socket->kind == PYL_SIM_LISTENER && socket->port == port) {
            return socket;
        }
    }
    return NULL;
}

static int
backlog_push(struct pyl_sim_socket *listener, struct pyl_sim_socket *pending)
{
    if (listener->backlog_count == listener->backlog_capacity) {
        uint32_t capacity = listener->backlog_capacity > 0 ? listener->backlog_capacity * 2 : 8;
        struct pyl_sim_socket **backlog =
            pyl_realloc_array(listener->backlog, capacity, sizeof(struct pyl_sim_socket *));
        if (backlog == NULL) {
            return -ENOMEM;
        }
        listener->backlog = backlog;
        listener->backlog_capacity = capacity;
    }
    listener->backlog[listener->backlog_count++] = pending;
    return 0;
}

int
pyl_sim_net_connect(struct pyl_sim_net *net, int fd, const struct sockaddr *address, socklen_t size)
{
    struct pyl_sim_socket *socket = pyl_sim_net_find(net, fd);
    struct sockaddr_in target;
    if (socket == NULL) {
        return -EBADF;
    }
    if (size < sizeof(target) || address->sa_family != AF_INET) {
        return -EAFNOSUPPORT;
    }
    if (socket->state != PYL_SIM_UNCONNECTED) {
        return -EISCONN;
    }
    memcpy(&target, address, sizeof(target));
    uint16_t port = ntohs(target.sin_port);
    socket->state = PYL_SIM_CONNECTING;
    if (port == PYL_SIM_SILENT_PORT) {
        socket->connected_ns = PYL_NEVER_NS;
        return 0;
    }
    socket->connected_ns = segment_arrival(net, socket);
    struct pyl_sim_socket *listener = listener_find(net, port);
    socket->connect_error = listener == NULL ? -ECONNREFUSED : 0;
    if (listener == NULL) {
        return 0;
    }
    struct pyl_sim_socket *pending = socket_new(PYL_SIM_STREAM, (uint32_t)socket->size_max);
    if (pending == NULL || backlog_push(listener, pending) < 0) {
        if (pending != NULL) {
            socket_free(pending);
        }
        socket->state = PYL_SIM_UNCONNECTED;
        return -ENOMEM;
    }
    pending->state = PYL_SIM_CONNECTED;
    pending->peer = socket;
    socket->peer = pending;
    return 0;
}

int
pyl_sim_net_accept(struct pyl_sim_net *net, struct pyl_sim_socket *listener)
{
    if (listener->kind != PYL_SIM_LISTENER) {
        return -EINVAL;
    }
    if (listener->backlog_count == 0) {
        return -EAGAIN;
    }
    struct pyl_sim_socket *pending = listener->backlog[0];
    int fd = fd_assign(net, pending);
    if (fd < 0) {
        return fd;
    }
    listener->backlog_count--;
    memmove(listener->backlog, listener->backlog + 1,
            listener->backlog_count * sizeof(struct pyl_sim_socket *));
    return fd;
}

int
pyl_sim_net_shutdown(struct pyl_sim_net *net, struct pyl_sim_socket *socket)
{
    if (socket->state != PYL_SIM_CONNECTED) {
        return -ENOTCONN;
    }
    if (!socket->is_write_shut && socket->peer != NULL) {
        int rc = segment_push(net, socket->peer, PYL_SIM_FIN, 0);
        if (rc < 0) {
            return rc;
        }
    }
    socket->is_write_shut = true;
    return 0;
}

void
pyl_sim_net_break(struct pyl_sim_socket *socket)
{
    static const struct pyl_sim_segment reset = {.kind = PYL_SIM_RESET};
    if (socket->peer != NULL) {
        segment_arrive(socket->peer, &reset);
        socket->peer->peer = NULL;
        socket->peer = NULL;
    }
    segment_arrive(socket, &reset);
}

/* ---- bytes ---- */

static int64_t
tell_reset(struct pyl_sim_socket *socket, int64_t afterwards)
{
    if (socket->is_reset_told) {
        return afterwards;
    }
    socket->is_reset_told = true;
    return -ECONNRESET;
}

int64_t
pyl_sim_net_read(struct pyl_sim_net *net, struct pyl_sim_socket *socket, void *buffer, size_t size)
{
    (void)net;
    if (socket->state != PYL_SIM_CONNECTED) {
        return -ENOTCONN;
    }
    if (socket->has_reset) {
        return tell_reset(socket, 0);
    }
    if (socket->arrived == 0) {
        return socket->has_end ? 0 : -EAGAIN;
    }
    size_t count = size < socket->arrived ? size : socket->arrived;
    memcpy(buffer, socket->bytes + socket->first, count);
    socket->first += count;
    socket->count -= count;
    socket->arrived -= count;
    if (socket->count == 0) {
        socket->first = 0;
    }
    return (int64_t)count;
}

/* Cuts what is written into segments that arrive one after the other. */
static int
write_segments(struct pyl_sim_net *net, struct pyl_sim_socket *receiver, size_t size)
{
    while (size > 0) {
        uint32_t piece = (uint32_t)size;
        if (pyl_sim_net_random(net, 3) == 0) {
            piece = 1 + pyl_sim_net_random(net, (uint32_t)size);
        }
        int rc = segment_push(net, receiver, PYL_SIM_DATA, piece);
        if (rc < 0) {
            return rc;
        }
        size -= piece;
    }
    return 0;
}

int64_t
pyl_sim_net_write(struct pyl_sim_net *net, struct pyl_sim_socket *socket, const void *data,
                  size_t size)
{
    struct pyl_sim_socket *receiver = socket->peer;
    if (socket->state != PYL_SIM_CONNECTED) {
        return -ENOTCONN;
    }
    if (socket->has_reset) {
        return tell_reset(socket, -EPIPE);
    }
    if (socket->is_write_shut) {
        return -EPIPE;
    }
    if (receiver == NULL) {
        socket->has_reset = true; /* what is sent to a closed peer is answered with a reset */
        return (int64_t)size;
    }
    size_t room = receiver->size_max - receiver->count;
    size_t count = size < room ? size : room;
    if (count == 0) {
        return size == 0 ? 0 : -EAGAIN;
    }
    memmove(receiver->bytes, receiver->bytes + receiver->first, receiver->count);
    receiver->first = 0;
    memcpy(receiver->bytes + receiver->count, data, count);
    receiver->count += count;
    int rc = write_segments(net, receiver, count);
    if (rc < 0) {
        pyl_sim_net_break(socket);
        return rc;
    }
    return (int64_t)count;
}

uint32_t
pyl_sim_net_ready(const struct pyl_sim_net *net, const struct pyl_sim_socket *socket)
{
    if (socket->kind == PYL_SIM_DATAGRAM) {
        return pyl_sim_net_datagram_ready(net, socket);
    }
    if (socket->kind == PYL_SIM_LISTENER) {
        return socket->backlog_count > 0 ? PYL_POLL_IN : 0;
    }
    switch ((enum pyl_sim_state)socket->state) {
    case PYL_SIM_UNCONNECTED:
        return PYL_POLL_OUT | PYL_POLL_HANGUP;
    case PYL_SIM_CONNECTING:
        return 0;
    case PYL_SIM_CONNECTED:
        break;
    }
    if (socket->has_reset) {
        return PYL_POLL_IN | PYL_POLL_OUT | PYL_POLL_ERROR | PYL_POLL_HANGUP;
    }
    uint32_t ready = 0;
    if (socket->arrived > 0 || socket->has_end) {
        ready |= PYL_POLL_IN;
    }
    if (socket->is_write_shut || socket->peer == NULL ||
        socket->peer->count < socket->peer->size_max) {
        ready |= PYL_POLL_OUT;
    }
    return ready;
}
