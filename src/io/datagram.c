/*
 * datagram.c - receiving in batches, and a queue that leaves in one call at the end of the turn.
 *
 * Both directions wait for readiness and then move up to PYL_PACKETS_MAX datagrams with one call,
 * on every backend. Sends are not ops: a ring would need one request for each datagram, and keeps
 * their order only while none has to wait.
 */
#include "io/datagram.h"

#include "base/alloc.h"
#include "base/check.h"

#include <errno.h>
#include <string.h>

enum {
    FIRST_CAPACITY = 8,
    KEPT_CAPACITY = 64,   /* slots that an empty queue keeps */
    SENDS_PER_TURN = 256, /* per socket, before others get their chance */
};

static void run_flush(struct pyl_job *job);
static void run_read(struct pyl_job *job);
static void run_close(struct pyl_job *job);
static void read_complete(struct pyl_op *op, const struct pyl_event *event);
static void write_complete(struct pyl_op *op, const struct pyl_event *event);

void
pyl_datagram_init(struct pyl_datagram_socket *socket, struct pyl_worker *worker, int fd,
                  const struct pyl_datagram_options *options, const struct pyl_datagram_ops *ops)
{
    memset(socket, 0, sizeof(*socket));
    socket->ops = ops;
    socket->worker = worker;
    socket->fd = fd;
    socket->batch = 1;
    socket->size_max = options->size_max > 0 && options->size_max < PYL_PACKET_SIZE_MAX
                           ? options->size_max
                           : PYL_PACKET_SIZE_MAX;
    socket->overhead = options->overhead;
    socket->flush_job.run = run_flush;
    socket->read_job.run = run_read;
    socket->close_job.run = run_close;
    socket->read_op.fd = fd;
    socket->read_op.kind = PYL_OP_POLL;
    socket->read_op.flags = PYL_OP_MULTISHOT;
    socket->read_op.args.poll.events = PYL_POLL_IN;
    socket->read_op.on_complete = read_complete;
    socket->write_op.fd = fd;
    socket->write_op.kind = PYL_OP_POLL;
    socket->write_op.args.poll.events = PYL_POLL_OUT;
    socket->write_op.on_complete = write_complete;
}

/* To be called after anything that may have been the last thing a closed socket waited for. */
static void
settle(struct pyl_datagram_socket *socket)
{
    if (socket->is_closed && !socket->is_close_queued && !socket->is_flush_queued &&
        !socket->is_read_queued && !socket->is_sending && pyl_op_is_idle(&socket->read_op) &&
        pyl_op_is_idle(&socket->write_op) && !socket->worker->is_closing) {
        socket->is_close_queued = true;
        pyl_worker_post(socket->worker, &socket->close_job);
    }
}

/* ---- receiving ---- */

/* Brings the op in line with what is wanted; a CANCELLING one comes here again when it has ended.
 */
static void
update_read_op(struct pyl_datagram_socket *socket)
{
    if (!socket->is_reading) {
        pyl_reactor_cancel(&socket->worker->reactor, &socket->read_op);
    } else if (pyl_op_is_idle(&socket->read_op) && !socket->worker->is_closing) {
        pyl_reactor_submit(&socket->worker->reactor, &socket->read_op);
    }
}

/* A batch that came full makes the next one larger, one that was half empty makes it smaller: a
 * socket with one datagram now and then pays for one, and a busy one receives many with one call.
 */
static int
next_batch(int batch, int count)
{
    if (count == batch) {
        return batch * 2 > PYL_PACKETS_MAX ? PYL_PACKETS_MAX : batch * 2;
    }
    return count > batch / 2 ? batch : (batch + 1) / 2;
}

/* Once a turn: a second call would find nothing most of the time, and the poll tells what is left.
 */
static void
receive(struct pyl_datagram_socket *socket)
{
    const struct pyl_packet *packets;
    int count = pyl_reactor_recv_packets(&socket->worker->reactor, socket->fd, socket->size_max,
                                         socket->batch, &packets);
    if (count < 0) {
        if (count != -EAGAIN) {
            socket->ops->on_error(socket, count);
        }
        return;
    }
    socket->batch = next_batch(socket->batch, count);
    for (int i = 0; i < count && socket->is_reading; i++) {
        socket->ops->on_datagram(socket, packets[i].data, packets[i].size, packets[i].address,
                                 packets[i].address_size);
    }
}

/* From a job and not from the completion: whatever was ready when the turn began comes first, as
 * with asyncio, where a coroutine that begins to wait in this turn misses nothing. */
static void
run_read(struct pyl_job *job)
{
    struct pyl_datagram_socket *socket =
        PYL_CONTAINER_OF(job, struct pyl_datagram_socket, read_job);
    socket->is_read_queued = false;
    if (socket->is_reading && !socket->worker->is_closing) {
        receive(socket);
    }
    settle(socket);
}

static void
read_complete(struct pyl_op *op, const struct pyl_event *event)
{
    struct pyl_datagram_socket *socket = PYL_CONTAINER_OF(op, struct pyl_datagram_socket, read_op);
    if (socket->is_reading && !socket->worker->is_closing) {
        if (event->result < 0 && event->result != -ECANCELED) {
            socket->is_reading = false; /* it cannot be polled */
            socket->ops->on_error(socket, event->result);
        } else if (event->result >= 0 && !socket->is_read_queued) {
            socket->is_read_queued = true;
            pyl_worker_post(socket->worker, &socket->read_job);
        }
    }
    update_read_op(socket);
    settle(socket);
}

void
pyl_datagram_read_start(struct pyl_datagram_socket *socket)
{
    if (!socket->is_closed) {
        socket->is_reading = true;
        update_read_op(socket);
    }
}

void
pyl_datagram_read_stop(struct pyl_datagram_socket *socket)
{
    if (!socket->is_closed) {
        socket->is_reading = false;
        update_read_op(socket);
    }
}

/* ---- the queue ---- */

static struct pyl_datagram_write *
write_at(const struct pyl_datagram_socket *socket, uint32_t index)
{
    return &socket->writes[(socket->write_first + index) & (socket->write_capacity - 1)];
}

/* Doubles the ring. Returns 0 or -ENOMEM. */
static int
grow_ring(struct pyl_datagram_socket *socket)
{
    uint32_t capacity = socket->write_capacity > 0 ? socket->write_capacity * 2 : FIRST_CAPACITY;
    struct pyl_datagram_write *grown =
        capacity > socket->write_capacity ? pyl_alloc_array(capacity, sizeof(*grown)) : NULL;
    if (grown == NULL) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < socket->write_count; i++) {
        grown[i] = *write_at(socket, i);
    }
    pyl_free(socket->writes);
    socket->writes = grown;
    socket->write_capacity = capacity;
    socket->write_first = 0;
    return 0;
}

/* Takes `count` datagrams off the queue. */
static void
pop_writes(struct pyl_datagram_socket *socket, int count)
{
    for (int i = 0; i < count; i++) {
        struct pyl_datagram_write *write = write_at(socket, 0);
        socket->queued_size -= write->size + socket->overhead;
        socket->write_first = (socket->write_first + 1) & (socket->write_capacity - 1);
        socket->write_count--;
        socket->ops->release(socket, write->owner);
    }
    if (socket->write_count == 0 && socket->write_capacity > KEPT_CAPACITY) {
        pyl_free(socket->writes);
        socket->writes = NULL;
        socket->write_capacity = 0;
        socket->write_first = 0;
    }
}

void
pyl_datagram_drop_queue(struct pyl_datagram_socket *socket)
{
    pop_writes(socket, (int)socket->write_count);
    socket->is_progress_pending = false;
}

static void
queue_flush(struct pyl_datagram_socket *socket)
{
    if (!socket->is_flush_queued && !socket->worker->is_closing) {
        socket->is_flush_queued = true;
        pyl_worker_defer(socket->worker, &socket->flush_job);
    }
}

int
pyl_datagram_send(struct pyl_datagram_socket *socket, const void *data, size_t size, void *owner,
                  const struct pyl_sockaddr *address)
{
    if (socket->is_closed) {
        return -EBADF;
    }
    if (socket->write_count == socket->write_capacity) {
        int rc = grow_ring(socket);
        if (rc < 0) {
            return rc;
        }
    }
    struct pyl_datagram_write *write = write_at(socket, socket->write_count);
    write->data = data;
    write->size = size;
    write->owner = owner;
    write->address.size = 0;
    if (address != NULL) {
        write->address.size = address->size;
        memcpy(&write->address.u, &address->u, address->size);
    }
    socket->write_count++;
    socket->queued_size += size + socket->overhead;
    if (pyl_op_is_idle(&socket->write_op)) {
        queue_flush(socket);
    }
    return 0;
}

/* ---- sending ---- */

/* Describes the head of the queue. */
static int
fill_packets(const struct pyl_datagram_socket *socket, struct pyl_packet *packets)
{
    int count = 0;
    while (count < PYL_PACKETS_MAX && (uint32_t)count < socket->write_count) {
        struct pyl_datagram_write *write = write_at(socket, (uint32_t)count);
        bool has_address = write->address.size > 0;
        packets[count++] = (struct pyl_packet){
            .data = (uint8_t *)(uintptr_t)write->data,
            .size = write->size,
            .address = has_address ? &write->address.u.any : NULL,
            .address_size = write->address.size,
        };
    }
    return count;
}

/* Sends until the queue is empty, the kernel takes nothing, or `budget` is used up. */
static void
send_queue(struct pyl_datagram_socket *socket, int budget)
{
    struct pyl_packet packets[PYL_PACKETS_MAX];
    if (socket->is_sending || !pyl_op_is_idle(&socket->write_op) || socket->worker->is_closing) {
        return;
    }
    socket->is_sending = true; /* on_error may send, flush, drop and close */
    while (socket->write_count > 0 && budget > 0) {
        int count = fill_packets(socket, packets);
        int sent = pyl_reactor_send_packets(&socket->worker->reactor, socket->fd, packets, count);
        if (sent == -EAGAIN) {
            socket->was_blocked = true;
            pyl_reactor_submit(&socket->worker->reactor, &socket->write_op);
            break;
        }
        budget -= sent > 0 ? sent : 1;
        socket->is_progress_pending = socket->was_blocked;
        pop_writes(socket, sent > 0 ? sent : 1);
        if (sent < 0) {
            socket->ops->on_error(socket, sent);
        }
    }
    socket->is_sending = false;
    if (socket->write_count == 0) {
        socket->was_blocked = false;
    }
}

static void
report_progress(struct pyl_datagram_socket *socket)
{
    if (socket->is_progress_pending) {
        socket->is_progress_pending = false;
        if (!socket->is_closed && !socket->worker->is_closing) {
            socket->ops->on_progress(socket);
        }
    }
}

/* A turn's share; what is over it goes on in the next one. */
static void
send_share(struct pyl_datagram_socket *socket)
{
    send_queue(socket, SENDS_PER_TURN);
    if (socket->write_count > 0 && pyl_op_is_idle(&socket->write_op)) {
        queue_flush(socket);
    }
    report_progress(socket);
    settle(socket);
}

static void
run_flush(struct pyl_job *job)
{
    struct pyl_datagram_socket *socket =
        PYL_CONTAINER_OF(job, struct pyl_datagram_socket, flush_job);
    socket->is_flush_queued = false;
    send_share(socket);
}

/* The kernel may take datagrams again, or waiting for that failed: sending tells which. */
static void
write_complete(struct pyl_op *op, const struct pyl_event *event)
{
    struct pyl_datagram_socket *socket = PYL_CONTAINER_OF(op, struct pyl_datagram_socket, write_op);
    (void)event;
    send_share(socket);
}

void
pyl_datagram_flush(struct pyl_datagram_socket *socket)
{
    send_queue(socket, INT32_MAX);
    if (socket->is_progress_pending) {
        queue_flush(socket);
    }
    settle(socket);
}

/* ---- the end ---- */

static void
free_ring(struct pyl_datagram_socket *socket)
{
    pyl_free(socket->writes);
    socket->writes = NULL;
    socket->write_capacity = 0;
}

void
pyl_datagram_close(struct pyl_datagram_socket *socket)
{
    if (socket->is_closed) {
        return;
    }
    struct pyl_reactor *reactor = &socket->worker->reactor;
    pyl_datagram_drop_queue(socket);
    socket->is_closed = true;
    socket->is_reading = false;
    pyl_reactor_cancel(reactor, &socket->read_op);
    pyl_reactor_cancel(reactor, &socket->write_op);
    pyl_reactor_forget(reactor, socket->fd);
    settle(socket);
}

/* The owner may free the socket in on_closed. */
static void
run_close(struct pyl_job *job)
{
    struct pyl_datagram_socket *socket =
        PYL_CONTAINER_OF(job, struct pyl_datagram_socket, close_job);
    free_ring(socket);
    socket->ops->on_closed(socket);
}

void
pyl_datagram_dispose(struct pyl_datagram_socket *socket)
{
    if (socket->ops == NULL) {
        return;
    }
    PYL_CHECK(pyl_op_is_idle(&socket->read_op) && pyl_op_is_idle(&socket->write_op));
    socket->is_closed = true;
    socket->is_reading = false;
    pyl_datagram_drop_queue(socket);
    free_ring(socket);
}
