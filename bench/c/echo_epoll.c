/*
 * echo_epoll.c - the floor of the echo benchmark: the plainest fast TCP echo over epoll.
 *
 * One thread, level-triggered, one shared read buffer; what a peer does not take at once is kept
 * for it and nothing more is read from it until it is gone. Ends on SIGTERM.
 */
#include "echo_common.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>

#define EVENTS_MAX 512
#define BUFFER_BYTES (256u * 1024u)

struct conn {
    int fd;
    char *pending; /* bytes not taken by the peer yet; NULL when none */
    size_t pending_bytes;
};

static char buffer[BUFFER_BYTES];

static void
watch(int epoll_fd, int operation, struct conn *conn, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = conn};
    if (epoll_ctl(epoll_fd, operation, conn->fd, &event) < 0) {
        die("epoll_ctl");
    }
}

static void
conn_close(struct conn *conn)
{
    close(conn->fd);
    free(conn->pending);
    free(conn);
}

/* Sends what it can. Returns the bytes taken, or -1 when the connection is lost. */
static ssize_t
send_some(int fd, const char *bytes, size_t count)
{
    size_t sent = 0;
    while (sent < count) {
        ssize_t n = send(fd, bytes + sent, count - sent, MSG_NOSIGNAL);
        if (n >= 0) {
            sent += (size_t)n;
        } else if (errno == EAGAIN) {
            break;
        } else if (errno != EINTR) {
            return -1;
        }
    }
    return (ssize_t)sent;
}

static void
conn_readable(int epoll_fd, struct conn *conn)
{
    ssize_t count = recv(conn->fd, buffer, sizeof(buffer), 0);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    ssize_t sent = count > 0 ? send_some(conn->fd, buffer, (size_t)count) : -1;
    if (sent < 0) {
        conn_close(conn);
        return;
    }
    if (sent < count) {
        conn->pending_bytes = (size_t)(count - sent);
        conn->pending = malloc(conn->pending_bytes);
        if (conn->pending == NULL) {
            die("malloc");
        }
        memcpy(conn->pending, buffer + sent, conn->pending_bytes);
        watch(epoll_fd, EPOLL_CTL_MOD, conn, EPOLLOUT);
    }
}

static void
conn_writable(int epoll_fd, struct conn *conn)
{
    ssize_t sent = send_some(conn->fd, conn->pending, conn->pending_bytes);
    if (sent < 0) {
        conn_close(conn);
        return;
    }
    conn->pending_bytes -= (size_t)sent;
    if (conn->pending_bytes > 0) {
        memmove(conn->pending, conn->pending + sent, conn->pending_bytes);
        return;
    }
    free(conn->pending);
    conn->pending = NULL;
    watch(epoll_fd, EPOLL_CTL_MOD, conn, EPOLLIN);
}

static void
accept_all(int epoll_fd, int listen_fd)
{
    int fd;
    while ((fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct conn *conn = calloc(1, sizeof(*conn));
        if (conn == NULL) {
            die("calloc");
        }
        conn->fd = fd;
        set_nodelay(fd);
        watch(epoll_fd, EPOLL_CTL_ADD, conn, EPOLLIN);
    }
    if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
        die("accept");
    }
}

int
main(void)
{
    static struct epoll_event events[EVENTS_MAX];
    struct conn listener = {.fd = listen_loopback(SOCK_NONBLOCK)};
    int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_fd < 0) {
        die("epoll_create1");
    }
    watch(epoll_fd, EPOLL_CTL_ADD, &listener, EPOLLIN);
    for (;;) {
        int count = epoll_wait(epoll_fd, events, EVENTS_MAX, -1);
        if (count < 0 && errno != EINTR) {
            die("epoll_wait");
        }
        for (int i = 0; i < count; i++) {
            struct conn *conn = events[i].data.ptr;
            if (conn == &listener) {
                accept_all(epoll_fd, listener.fd);
            } else if (conn->pending != NULL) {
                conn_writable(epoll_fd, conn);
            } else {
                conn_readable(epoll_fd, conn);
            }
        }
    }
}
