/*
 * readiness.c - turns "ready" into "done": shared half of epoll and kqueue.
 *
 * An op that waits is on its fd's list. It is QUEUED from the moment it has something to report
 * until its event is performed; while QUEUED it stays on the fd's list. Only op_finish() ends an
 * op.
 *
 * Invariant: an op that is neither QUEUED nor finished is on the list of an fd that the kernel
 * watches for the op's direction, and under EDGE that direction is not in `ready`.
 */
#include "reactor/readiness.h"

#include "base/alloc.h"
#include "base/check.h"
#include "reactor/socket_call.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <unistd.h>

enum {
    READ_BUFFER_SIZE = PYL_TINY_LIMITS ? 512 : 256 * 1024,
    ACCEPTS_PER_TURN = PYL_TINY_LIMITS ? 2 : 32,
};

/* pyl_op.backend_bits */
enum {
    OP_QUEUED = 1, /* on readiness->queue, or in reactor->events */
    OP_DONE = 2,   /* backend_value is the terminal result; no system call is to be made */
};

static struct pyl_readiness *
readiness_of(struct pyl_reactor *reactor)
{
    return reactor->backend;
}

int
pyl_readiness_init(struct pyl_readiness *readiness, const struct pyl_reactor_options *options)
{
    pyl_list_init(&readiness->queue);
    readiness->read_buffer_size =
        options->read_buffer_size > 0 ? options->read_buffer_size : READ_BUFFER_SIZE;
    /* Pages, and not for tidiness: malloc() puts a block of this size 16 bytes behind the start of
     * a page, and processors with fast string instructions copy to just that place up to seven
     * times slower (AMD, Linux 6.18: 100 KiB in 37 us instead of 5). */
    readiness->read_buffer = pyl_alloc_pages(readiness->read_buffer_size);
    return readiness->read_buffer != NULL ? 0 : -ENOMEM;
}

void
pyl_readiness_fini(struct pyl_readiness *readiness)
{
    for (uint32_t i = 0; i < readiness->chunk_count; i++) {
        pyl_free(readiness->chunks[i]);
    }
    pyl_free(readiness->chunks);
    pyl_free_pages(readiness->read_buffer, readiness->read_buffer_size);
    readiness->chunks = NULL;
    readiness->chunk_count = 0;
    readiness->read_buffer = NULL;
}

/* ---- the table of fds ---- */

static struct pyl_ready_fd *
entry_find(struct pyl_readiness *readiness, int fd)
{
    uint32_t chunk = (uint32_t)fd / PYL_READY_CHUNK;
    if (fd < 0 || chunk >= readiness->chunk_count || readiness->chunks[chunk] == NULL) {
        return NULL;
    }
    return &readiness->chunks[chunk]->fds[(uint32_t)fd % PYL_READY_CHUNK];
}

static int
table_grow(struct pyl_readiness *readiness, uint32_t chunk)
{
    uint32_t count = readiness->chunk_count * 2 > chunk ? readiness->chunk_count * 2 : chunk + 1;
    struct pyl_ready_chunk **chunks =
        pyl_realloc_array(readiness->chunks, count, sizeof(*readiness->chunks));
    if (chunks == NULL) {
        return -ENOMEM;
    }
    memset(chunks + readiness->chunk_count, 0,
           (count - readiness->chunk_count) * sizeof(*readiness->chunks));
    readiness->chunks = chunks;
    readiness->chunk_count = count;
    return 0;
}

/* Finds or makes the entry. An fd that is not open makes none: any number may be asked for. */
static int
entry_get(struct pyl_readiness *readiness, int fd, struct pyl_ready_fd **ret_entry)
{
    struct pyl_ready_fd *entry = entry_find(readiness, fd);
    if (PYL_LIKELY(entry != NULL)) {
        *ret_entry = entry;
        return 0;
    }
    if (fd < 0 || fcntl(fd, F_GETFD) < 0) {
        return -EBADF;
    }
    uint32_t chunk = (uint32_t)fd / PYL_READY_CHUNK;
    if (chunk >= readiness->chunk_count) {
        int rc = table_grow(readiness, chunk);
        if (rc < 0) {
            return rc;
        }
    }
    readiness->chunks[chunk] = pyl_alloc_zero(sizeof(struct pyl_ready_chunk));
    if (readiness->chunks[chunk] == NULL) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < PYL_READY_CHUNK; i++) {
        pyl_list_init(&readiness->chunks[chunk]->fds[i].ops);
    }
    *ret_entry = &readiness->chunks[chunk]->fds[(uint32_t)fd % PYL_READY_CHUNK];
    return 0;
}

/* ---- ops ---- */

/* The direction an op waits for, as PYL_POLL_IN | PYL_POLL_OUT. */
static uint8_t
op_direction(const struct pyl_op *op)
{
    switch ((enum pyl_op_kind)op->kind) {
    case PYL_OP_ACCEPT:
    case PYL_OP_RECV:
        return PYL_POLL_IN;
    case PYL_OP_CONNECT:
    case PYL_OP_SEND:
        return PYL_POLL_OUT;
    case PYL_OP_POLL:
        return op->args.poll.events & (PYL_POLL_IN | PYL_POLL_OUT);
    }
    PYL_UNREACHABLE();
    return 0;
}

static void
op_queue(struct pyl_readiness *readiness, struct pyl_op *op)
{
    if ((op->backend_bits & OP_QUEUED) == 0) {
        op->backend_bits |= OP_QUEUED;
        pyl_list_append(&readiness->queue, &op->queue);
    }
}

/* The op ends with this result in the next round. */
static void
op_queue_done(struct pyl_readiness *readiness, struct pyl_op *op, int result)
{
    op->backend_bits |= OP_DONE;
    op->backend_value = result;
    op_queue(readiness, op);
}

/* What an error or a hang-up means to ops that wait for one direction: try, and see. */
static uint8_t
ready_directions(uint8_t bits)
{
    uint8_t directions = bits & (PYL_POLL_IN | PYL_POLL_OUT);
    if (bits & (PYL_POLL_ERROR | PYL_POLL_HANGUP)) {
        directions = PYL_POLL_IN | PYL_POLL_OUT;
    }
    if (bits & PYL_READY_READ_ON) {
        directions |= PYL_POLL_IN;
    }
    return directions;
}

/* ---- what the kernel has to watch ---- */

/* TCP_NODELAY can be read from TCP sockets and from nothing else, on every system. */
static bool
socket_is_tcp(int fd)
{
    int value;
    socklen_t size = sizeof(value);
    return getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &value, &size) == 0;
}

static bool
entry_is_known_tcp(const struct pyl_ready_fd *entry)
{
    for (struct pyl_list *node = entry->ops.next; node != &entry->ops; node = node->next) {
        if ((PYL_CONTAINER_OF(node, struct pyl_op, wait)->flags & PYL_OP_TCP) != 0) {
            return true;
        }
    }
    return false;
}

/* How the ops of an entry want to be watched, and for which directions. */
static enum pyl_watch
entry_wanted(const struct pyl_ready_fd *entry, uint8_t *ret_mask)
{
    bool has_poll = false;
    bool has_multishot = false;
    uint8_t all = 0;
    uint8_t waiting = 0;
    for (struct pyl_list *node = entry->ops.next; node != &entry->ops; node = node->next) {
        struct pyl_op *op = PYL_CONTAINER_OF(node, struct pyl_op, wait);
        uint8_t direction = op_direction(op);
        all |= direction;
        if ((op->backend_bits & OP_QUEUED) == 0) {
            waiting |= direction;
        }
        if (op->kind == PYL_OP_POLL) {
            has_poll = true;
            has_multishot |= (op->flags & PYL_OP_MULTISHOT) != 0;
        }
    }
    if (pyl_list_is_empty(&entry->ops)) {
        *ret_mask = 0;
        return PYL_WATCH_NONE;
    }
    if (!has_poll) {
        *ret_mask = PYL_POLL_IN | PYL_POLL_OUT;
        return PYL_WATCH_EDGE;
    }
    *ret_mask = has_multishot ? all : waiting;
    return has_multishot ? PYL_WATCH_LEVEL : PYL_WATCH_ONESHOT;
}

/* Brings the kernel's view up to date after the entry's ops or their state changed. */
static int
entry_watch(struct pyl_reactor *reactor, int fd, struct pyl_ready_fd *entry)
{
    struct pyl_readiness *readiness = readiness_of(reactor);
    if (entry->watch == PYL_WATCH_EDGE && pyl_list_is_empty(&entry->ops)) {
        return 0; /* stays registered until the fd is forgotten: the next op costs nothing */
    }
    uint8_t mask;
    enum pyl_watch watch = entry_wanted(entry, &mask);
    if (watch == PYL_WATCH_NONE && entry->watch != PYL_WATCH_LEVEL) {
        /* A ONESHOT registration that is left over fires once at most and finds no op. But the
         * fd may be closed and its number reused without a word to us, so nothing is known
         * about it now. */
        entry->armed = 0;
        return 0;
    }
    switch (watch) {
    case PYL_WATCH_EDGE:
        if (entry->watch == PYL_WATCH_EDGE) {
            return 0;
        }
        entry->is_tcp = entry_is_known_tcp(entry) || socket_is_tcp(fd);
        (void)pyl_socket_silence(fd); /* fails for what is no socket, and then nothing is sent */
        break;
    case PYL_WATCH_LEVEL:
        if (entry->watch == PYL_WATCH_LEVEL && entry->armed == mask) {
            return 0;
        }
        break;
    case PYL_WATCH_ONESHOT:
        if (mask == 0 || (entry->watch == PYL_WATCH_ONESHOT && (entry->armed & mask) == mask)) {
            return 0;
        }
        break;
    case PYL_WATCH_NONE:
        break;
    }
    entry->ready = 0; /* the kernel reports anew what is ready at this moment */
    int rc = readiness->watch(reactor, fd, entry, watch, mask);
    if (rc < 0) {
        entry->watch = PYL_WATCH_NONE;
        entry->armed = 0;
        return rc;
    }
    entry->watch = (uint8_t)watch;
    entry->armed = mask;
    return 0;
}

/* As entry_watch(); on failure everything that waits on the fd fails with its error. */
static void
entry_watch_or_fail(struct pyl_reactor *reactor, int fd, struct pyl_ready_fd *entry)
{
    int rc = entry_watch(reactor, fd, entry);
    if (rc == 0) {
        return;
    }
    for (struct pyl_list *node = entry->ops.next; node != &entry->ops; node = node->next) {
        struct pyl_op *op = PYL_CONTAINER_OF(node, struct pyl_op, wait);
        if ((op->backend_bits & OP_QUEUED) == 0) {
            op_queue_done(readiness_of(reactor), op, rc);
        }
    }
}

/* ---- submit, cancel, forget ---- */

/* Returns 0 when the connection is being made, or the result. */
static int
connect_begin(struct pyl_op *op, bool *ret_in_progress)
{
    *ret_in_progress = false;
    if (connect(op->fd, op->args.connect.address, op->args.connect.address_size) == 0) {
        return 0;
    }
    switch (errno) {
    case EINPROGRESS:
    case EINTR: /* connect(2): the connection is established asynchronously */
        *ret_in_progress = true;
        return 0;
    case EAGAIN:
        /* A Unix socket whose peer has a full backlog; no readiness will ever tell when there
         * is room. The BSDs say ECONNREFUSED here. */
        return -ECONNREFUSED;
    default:
        return -errno;
    }
}

static void
op_start(struct pyl_reactor *reactor, struct pyl_op *op, struct pyl_ready_fd *entry)
{
    struct pyl_readiness *readiness = readiness_of(reactor);
    if (op_direction(op) == 0) {
        op_queue_done(readiness, op, -EINVAL);
        return;
    }
    if (op->kind == PYL_OP_CONNECT) {
        bool in_progress;
        entry->ready &= (uint8_t)~PYL_POLL_OUT; /* that was about the unconnected socket */
        int rc = connect_begin(op, &in_progress);
        if (!in_progress) {
            op_queue_done(readiness, op, rc);
            return;
        }
    }
    pyl_list_append(&entry->ops, &op->wait);
    entry_watch_or_fail(reactor, op->fd, entry);
    if (ready_directions(entry->ready) & op_direction(op)) {
        op_queue(readiness, op);
    }
}

void
pyl_readiness_submit(struct pyl_reactor *reactor, struct pyl_op *op)
{
    struct pyl_readiness *readiness = readiness_of(reactor);
    struct pyl_ready_fd *entry;

    op->backend_bits = 0;
    pyl_list_init(&op->wait);
    pyl_list_init(&op->queue);
    int rc = entry_get(readiness, op->fd, &entry);
    if (rc < 0) {
        op_queue_done(readiness, op, rc);
        return;
    }
    op_start(reactor, op, entry);
}

void
pyl_readiness_cancel(struct pyl_reactor *reactor, struct pyl_op *op)
{
    struct pyl_readiness *readiness = readiness_of(reactor);
    op_queue(readiness, op);
    if (pyl_op_lets_go_of_fd(op)) {
        /* The user may close the fd as soon as we return: let go of it now. */
        struct pyl_ready_fd *entry = entry_find(readiness, op->fd);
        pyl_list_remove(&op->wait);
        if (entry != NULL) {
            entry_watch_or_fail(reactor, op->fd, entry);
        }
    }
}

void
pyl_readiness_forget(struct pyl_reactor *reactor, int fd)
{
    struct pyl_readiness *readiness = readiness_of(reactor);
    struct pyl_ready_fd *entry = entry_find(readiness, fd);
    if (entry == NULL) {
        return;
    }
    PYL_DCHECK(pyl_list_is_empty(&entry->ops));
    if (entry->watch != PYL_WATCH_NONE) {
        /* Always, and before the close: a duplicate of the fd would keep the registration alive. */
        (void)readiness->watch(reactor, fd, entry, PYL_WATCH_NONE, 0);
    }
    entry->watch = PYL_WATCH_NONE;
    entry->armed = 0;
    entry->ready = 0;
    entry->generation++;
}

/* ---- what the kernel reports ---- */

void
pyl_readiness_report(struct pyl_reactor *reactor, int fd, uint32_t generation, uint8_t bits,
                     uint8_t disarmed)
{
    struct pyl_readiness *readiness = readiness_of(reactor);
    struct pyl_ready_fd *entry = entry_find(readiness, fd);
    if (entry == NULL || entry->generation != generation) {
        return;
    }
    if (entry->watch == PYL_WATCH_EDGE) {
        entry->ready |= bits;
    } else if (entry->watch == PYL_WATCH_ONESHOT) {
        entry->armed &= (uint8_t)~disarmed;
    }
    uint8_t directions = ready_directions(bits);
    for (struct pyl_list *node = entry->ops.next; node != &entry->ops; node = node->next) {
        struct pyl_op *op = PYL_CONTAINER_OF(node, struct pyl_op, wait);
        if ((directions & op_direction(op)) == 0 || (op->backend_bits & OP_DONE) != 0) {
            continue;
        }
        if (op->kind == PYL_OP_POLL) {
            uint8_t seen = bits & (op_direction(op) | PYL_POLL_ERROR | PYL_POLL_HANGUP);
            if (seen == 0) {
                continue;
            }
            op->backend_value = op->backend_bits & OP_QUEUED ? op->backend_value | seen : seen;
        }
        op_queue(readiness, op);
    }
    if (entry->watch == PYL_WATCH_ONESHOT) {
        entry_watch_or_fail(reactor, fd, entry); /* the ops that were not meant wait on */
    }
}

void
pyl_readiness_report_error(struct pyl_reactor *reactor, int fd, uint32_t generation,
                           uint8_t direction, int error)
{
    struct pyl_readiness *readiness = readiness_of(reactor);
    struct pyl_ready_fd *entry = entry_find(readiness, fd);
    if (entry == NULL || entry->generation != generation) {
        return;
    }
    entry->armed &= (uint8_t)~direction;
    for (struct pyl_list *node = entry->ops.next; node != &entry->ops; node = node->next) {
        struct pyl_op *op = PYL_CONTAINER_OF(node, struct pyl_op, wait);
        if ((op_direction(op) & direction) != 0 && (op->backend_bits & OP_DONE) == 0) {
            op_queue_done(readiness, op, error);
        }
    }
}

void
pyl_readiness_collect(struct pyl_reactor *reactor)
{
    struct pyl_readiness *readiness = readiness_of(reactor);
    while (reactor->event_count < reactor->events_max && pyl_readiness_has_queued(readiness)) {
        struct pyl_op *op = PYL_CONTAINER_OF(readiness->queue.next, struct pyl_op, queue);
        pyl_list_remove(&op->queue);
        reactor->events[reactor->event_count++] =
            (struct pyl_event){.op = op, .flags = PYL_EVENT_READY};
    }
}

/* ---- dispatch time ---- */

static void
op_finish(struct pyl_reactor *reactor, struct pyl_op *op)
{
    struct pyl_ready_fd *entry = entry_find(readiness_of(reactor), op->fd);
    op->backend_bits = 0;
    if (!pyl_list_is_empty(&op->wait)) {
        pyl_list_remove(&op->wait);
        entry_watch_or_fail(reactor, op->fd, entry);
    }
}

/* The call was made and the op goes on waiting. Under EDGE, `may_continue` says that the
 * direction is still ready; otherwise the kernel is asked again. */
static void
op_wait_on(struct pyl_reactor *reactor, struct pyl_op *op, struct pyl_ready_fd *entry,
           bool may_continue)
{
    op->backend_bits &= (uint8_t)~OP_QUEUED;
    if (entry->watch != PYL_WATCH_EDGE) {
        entry_watch_or_fail(reactor, op->fd, entry);
    } else if (may_continue) {
        op_queue(readiness_of(reactor), op);
    } else {
        entry->ready &= (uint8_t)~op_direction(op);
    }
}

/* A call that would block although the kernel reported HANGUP or ERROR must wait for the next
 * edge, so those bits may not keep the direction ready. */
static void
op_wait_for_edge(struct pyl_reactor *reactor, struct pyl_op *op, struct pyl_ready_fd *entry)
{
    entry->ready &= PYL_POLL_IN | PYL_POLL_OUT;
    op_wait_on(reactor, op, entry, false);
}

static bool
perform_recv(struct pyl_reactor *reactor, struct pyl_event *event)
{
    struct pyl_readiness *readiness = readiness_of(reactor);
    struct pyl_op *op = event->op;
    struct pyl_ready_fd *entry = entry_find(readiness, op->fd);

    int64_t count = pyl_socket_recv(op->fd, readiness->read_buffer, readiness->read_buffer_size);
    if (pyl_socket_would_block(count)) {
        op_wait_for_edge(reactor, op, entry);
        return false;
    }
    event->result = (int32_t)count;
    if (count <= 0) {
        op_finish(reactor, op);
        return true;
    }
    event->flags = PYL_EVENT_MORE;
    event->data = readiness->read_buffer;
    bool is_short = count < readiness->read_buffer_size && entry->is_tcp &&
                    (entry->ready & (uint8_t) ~(PYL_POLL_IN | PYL_POLL_OUT)) == 0;
    op_wait_on(reactor, op, entry, !is_short);
    return true;
}

static bool
perform_accept(struct pyl_reactor *reactor, struct pyl_event *slot, struct pyl_event *event)
{
    struct pyl_op *op = event->op;
    struct pyl_ready_fd *entry = entry_find(readiness_of(reactor), op->fd);

    /* buffer_id is not used by READY slots: here it counts the calls of this turn. */
    while (slot->buffer_id++ < ACCEPTS_PER_TURN) {
        event->result = pyl_socket_accept(op->fd);
        if (event->result >= 0) {
            slot->flags |= PYL_EVENT_READY; /* the op stays QUEUED: this slot goes on */
            event->flags = PYL_EVENT_MORE;
            return true;
        }
        if (pyl_socket_would_block(event->result)) {
            op_wait_for_edge(reactor, op, entry);
            return false;
        }
        if (event->result != -EINTR && !pyl_socket_accept_is_transient(event->result)) {
            op_finish(reactor, op);
            return true;
        }
    }
    op_wait_on(reactor, op, entry, true);
    return false;
}

static bool
perform_connect(struct pyl_reactor *reactor, struct pyl_event *event)
{
    struct pyl_op *op = event->op;
    int error = 0;
    socklen_t size = sizeof(error);
    if (getsockopt(op->fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0) {
        error = errno;
    }
    if (error == 0) {
        /* Ready without an error is not yet connected: an edge may be left from before
         * connect(2). */
        struct sockaddr_storage peer;
        size = sizeof(peer);
        if (getpeername(op->fd, (struct sockaddr *)&peer, &size) < 0 && errno == ENOTCONN) {
            op_wait_for_edge(reactor, op, entry_find(readiness_of(reactor), op->fd));
            return false;
        }
    }
    event->result = -error;
    op_finish(reactor, op);
    return true;
}

static bool
perform_send(struct pyl_reactor *reactor, struct pyl_event *event)
{
    struct pyl_op *op = event->op;
    struct pyl_ready_fd *entry = entry_find(readiness_of(reactor), op->fd);

    int64_t count = pyl_socket_sendmsg(op->fd, op->args.send.message);
    if (pyl_socket_would_block(count)) {
        op_wait_for_edge(reactor, op, entry);
        return false;
    }
    if (count >= 0 && (size_t)count < pyl_message_size(op->args.send.message)) {
        entry->ready &= (uint8_t)~PYL_POLL_OUT; /* the socket is full: an edge will follow */
    }
    event->result = (int32_t)count;
    op_finish(reactor, op);
    return true;
}

static bool
perform_poll(struct pyl_reactor *reactor, struct pyl_event *event)
{
    struct pyl_op *op = event->op;
    event->result = op->backend_value;
    if (op->flags & PYL_OP_MULTISHOT) {
        op->backend_bits &= (uint8_t)~OP_QUEUED; /* level-triggered: the kernel will say it again */
        event->flags = PYL_EVENT_MORE;
    } else {
        op_finish(reactor, op);
    }
    return true;
}

bool
pyl_readiness_perform(struct pyl_reactor *reactor, struct pyl_event *slot, struct pyl_event *event)
{
    struct pyl_op *op = slot->op;
    slot->flags &= (uint16_t)~PYL_EVENT_READY;
    *event = (struct pyl_event){.op = op};
    if (op->backend_bits & OP_DONE) {
        event->result = op->backend_value;
        op_finish(reactor, op);
        return true;
    }
    if (op->state == PYL_OP_CANCELLING) {
        event->result = -ECANCELED;
        op_finish(reactor, op);
        return true;
    }
    switch ((enum pyl_op_kind)op->kind) {
    case PYL_OP_RECV:
        return perform_recv(reactor, event);
    case PYL_OP_SEND:
        return perform_send(reactor, event);
    case PYL_OP_ACCEPT:
        return perform_accept(reactor, slot, event);
    case PYL_OP_CONNECT:
        return perform_connect(reactor, event);
    case PYL_OP_POLL:
        return perform_poll(reactor, event);
    }
    PYL_UNREACHABLE();
    return false;
}

int64_t
pyl_readiness_send_now(struct pyl_reactor *reactor, int fd, const struct iovec *iov, int iov_count)
{
    struct msghdr message = {.msg_iov = (struct iovec *)(uintptr_t)iov};
    message.msg_iovlen = (size_t)iov_count;
    int64_t count = pyl_socket_sendmsg(fd, &message);
    if (pyl_socket_would_block(count) ||
        (count >= 0 && (size_t)count < pyl_message_size(&message))) {
        /* Full: a SEND op that follows waits for the edge instead of trying again. */
        struct pyl_ready_fd *entry = entry_find(readiness_of(reactor), fd);
        if (entry != NULL) {
            entry->ready &= (uint8_t)~PYL_POLL_OUT;
        }
    }
    return count;
}
