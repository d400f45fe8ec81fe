/*
 * echo_uring.c - the floor of the echo benchmark over io_uring.
 *
 * One ring, one thread: multishot accept, multishot receive into a shared ring of buffers, and
 * each received buffer is sent back as it lies, one send in flight per connection. A receive that
 * found no buffer is armed again when one comes back. Ends on SIGTERM.
 *
 * Invariant: a buffer is either in the kernel's ring or in exactly one connection's queue.
 */
#include "echo_common.h"

#include <errno.h>
#include <liburing.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define SQ_ENTRIES 1024u
#define CQ_ENTRIES 8192u
#define BUFFER_COUNT 1024u /* a power of two: the ring's mask */
#define BUFFER_BYTES (32u * 1024u)
#define GROUP_ID 0
#define NO_BUFFER UINT16_MAX

enum kind { KIND_ACCEPT, KIND_RECV, KIND_SEND }; /* in the low bits of user_data */
#define KIND_MASK 3u

struct conn {
    int fd;
    uint16_t first; /* queue of received buffers, linked through buffer_next */
    uint16_t last;
    uint32_t sent; /* of the first buffer */
    bool receiving;
    bool sending;
    bool starved; /* wants a buffer, is in the starved list */
    bool closing;
    struct conn *starved_next;
};

struct server {
    struct io_uring ring;
    struct io_uring_buf_ring *buffer_ring;
    char *memory;
    uint16_t buffer_next[BUFFER_COUNT];
    uint32_t buffer_bytes[BUFFER_COUNT];
    int listen_fd;
    struct conn *starved;
    bool buffer_returned; /* since the starved were last fed */
};

static struct io_uring_sqe *
get_sqe(struct server *server)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&server->ring);
    while (sqe == NULL) {
        io_uring_submit(&server->ring);
        sqe = io_uring_get_sqe(&server->ring);
    }
    return sqe;
}

/* After the prep function, which may clear user_data. */
static void
tag(struct io_uring_sqe *sqe, enum kind kind, struct conn *conn)
{
    sqe->user_data = (uint64_t)(uintptr_t)conn | kind;
}

static void
arm_accept(struct server *server)
{
    struct io_uring_sqe *sqe = get_sqe(server);
    io_uring_prep_multishot_accept(sqe, server->listen_fd, NULL, NULL, SOCK_CLOEXEC);
    tag(sqe, KIND_ACCEPT, NULL);
}

static void
arm_recv(struct server *server, struct conn *conn)
{
    struct io_uring_sqe *sqe = get_sqe(server);
    io_uring_prep_recv_multishot(sqe, conn->fd, NULL, 0, 0);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = GROUP_ID;
    tag(sqe, KIND_RECV, conn);
    conn->receiving = true;
}

static void
send_first(struct server *server, struct conn *conn)
{
    struct io_uring_sqe *sqe = get_sqe(server);
    const char *bytes = server->memory + (size_t)conn->first * BUFFER_BYTES + conn->sent;
    io_uring_prep_send(sqe, conn->fd, bytes, server->buffer_bytes[conn->first] - conn->sent,
                       MSG_NOSIGNAL);
    tag(sqe, KIND_SEND, conn);
    conn->sending = true;
}

static void
give_buffer(struct server *server, uint16_t id)
{
    io_uring_buf_ring_add(server->buffer_ring, server->memory + (size_t)id * BUFFER_BYTES,
                          BUFFER_BYTES, id, io_uring_buf_ring_mask(BUFFER_COUNT), 0);
    io_uring_buf_ring_advance(server->buffer_ring, 1);
    server->buffer_returned = true;
}

static void
pop_buffer(struct server *server, struct conn *conn)
{
    uint16_t id = conn->first;
    conn->first = server->buffer_next[id];
    conn->sent = 0;
    give_buffer(server, id);
}

static void
unlink_starved(struct server *server, struct conn *conn)
{
    struct conn **link = &server->starved;
    while (*link != conn) {
        link = &(*link)->starved_next;
    }
    *link = conn->starved_next;
    conn->starved = false;
}

/* Frees the connection once nothing of it is in the kernel. */
static void
close_when_idle(struct server *server, struct conn *conn)
{
    if (!conn->closing) {
        conn->closing = true;
        shutdown(conn->fd, SHUT_RDWR); /* ends the operations in flight */
    }
    if (conn->receiving || conn->sending) {
        return;
    }
    if (conn->starved) {
        unlink_starved(server, conn);
    }
    while (conn->first != NO_BUFFER) {
        pop_buffer(server, conn);
    }
    close(conn->fd);
    free(conn);
}

static void
on_accept(struct server *server, const struct io_uring_cqe *cqe)
{
    if ((cqe->flags & IORING_CQE_F_MORE) == 0) {
        arm_accept(server);
    }
    if (cqe->res < 0) {
        return;
    }
    struct conn *conn = calloc(1, sizeof(*conn));
    if (conn == NULL) {
        die("calloc");
    }
    conn->fd = cqe->res;
    conn->first = NO_BUFFER;
    set_nodelay(conn->fd);
    arm_recv(server, conn);
}

static void
on_recv(struct server *server, struct conn *conn, const struct io_uring_cqe *cqe)
{
    conn->receiving = (cqe->flags & IORING_CQE_F_MORE) != 0;
    if ((cqe->flags & IORING_CQE_F_BUFFER) != 0) {
        uint16_t id = (uint16_t)(cqe->flags >> IORING_CQE_BUFFER_SHIFT);
        if (cqe->res <= 0) {
            give_buffer(server, id);
        } else {
            server->buffer_bytes[id] = (uint32_t)cqe->res;
            server->buffer_next[id] = NO_BUFFER;
            if (conn->first == NO_BUFFER) {
                conn->first = id;
            } else {
                server->buffer_next[conn->last] = id;
            }
            conn->last = id;
        }
    }
    if (conn->closing || (cqe->res <= 0 && cqe->res != -ENOBUFS)) {
        close_when_idle(server, conn);
        return;
    }
    if (!conn->sending && conn->first != NO_BUFFER) {
        send_first(server, conn);
    }
    if (!conn->receiving && cqe->res == -ENOBUFS) {
        conn->starved = true;
        conn->starved_next = server->starved;
        server->starved = conn;
    } else if (!conn->receiving) {
        arm_recv(server, conn);
    }
}

static void
on_send(struct server *server, struct conn *conn, const struct io_uring_cqe *cqe)
{
    conn->sending = false;
    if (conn->closing || cqe->res < 0) {
        close_when_idle(server, conn);
        return;
    }
    conn->sent += (uint32_t)cqe->res;
    if (conn->sent == server->buffer_bytes[conn->first]) {
        pop_buffer(server, conn);
    }
    if (conn->first != NO_BUFFER) {
        send_first(server, conn);
    }
}

/* Whoever found no buffer may try again once one came back. */
static void
feed_starved(struct server *server)
{
    if (!server->buffer_returned) {
        return;
    }
    server->buffer_returned = false;
    while (server->starved != NULL) {
        struct conn *conn = server->starved;
        server->starved = conn->starved_next;
        conn->starved = false;
        arm_recv(server, conn);
    }
}

static void
dispatch(struct server *server, const struct io_uring_cqe *cqe)
{
    struct conn *conn = (struct conn *)(uintptr_t)(cqe->user_data & ~(uint64_t)KIND_MASK);
    switch ((enum kind)(cqe->user_data & KIND_MASK)) {
    case KIND_ACCEPT:
        on_accept(server, cqe);
        break;
    case KIND_RECV:
        on_recv(server, conn, cqe);
        break;
    case KIND_SEND:
        on_send(server, conn, cqe);
        break;
    }
}

static void
set_up(struct server *server)
{
    struct io_uring_params params = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE |
                 IORING_SETUP_SUBMIT_ALL,
        .cq_entries = CQ_ENTRIES,
    };
    int rc = io_uring_queue_init_params(SQ_ENTRIES, &server->ring, &params);
    if (rc < 0) {
        errno = -rc;
        die("io_uring_queue_init_params");
    }
    size_t ring_bytes = BUFFER_COUNT * sizeof(struct io_uring_buf);
    void *ring_memory = NULL;
    void *memory = NULL;
    if (posix_memalign(&ring_memory, 4096, ring_bytes) != 0 ||
        posix_memalign(&memory, 4096, (size_t)BUFFER_COUNT * BUFFER_BYTES) != 0) {
        die("posix_memalign");
    }
    server->buffer_ring = ring_memory;
    server->memory = memory;
    struct io_uring_buf_reg registration = {
        .ring_addr = (uint64_t)(uintptr_t)ring_memory,
        .ring_entries = BUFFER_COUNT,
        .bgid = GROUP_ID,
    };
    rc = io_uring_register_buf_ring(&server->ring, &registration, 0);
    if (rc < 0) {
        errno = -rc;
        die("io_uring_register_buf_ring");
    }
    io_uring_buf_ring_init(server->buffer_ring);
    for (uint32_t id = 0; id < BUFFER_COUNT; id++) {
        give_buffer(server, (uint16_t)id);
    }
}

int
main(void)
{
    static struct server server;
    set_up(&server);
    server.listen_fd = listen_loopback(0);
    arm_accept(&server);
    for (;;) {
        int rc = io_uring_submit_and_wait(&server.ring, 1);
        if (rc < 0 && rc != -EINTR) {
            errno = -rc;
            die("io_uring_submit_and_wait");
        }
        unsigned head;
        unsigned count = 0;
        struct io_uring_cqe *cqe;
        io_uring_for_each_cqe(&server.ring, head, cqe)
        {
            dispatch(&server, cqe);
            count++;
        }
        io_uring_cq_advance(&server.ring, count);
        feed_starved(&server);
    }
}
