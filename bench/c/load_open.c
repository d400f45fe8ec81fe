/*
 * load_open.c - how the load generator comes by a connection of each kind.
 */
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define SOURCE_PORTS 16384u /* taken from one source address before the next, see bind_source() */
#define SOURCE_HOSTS 65536u
#define SOURCE_NET 0x7f010000u /* 127.1.0.0/16 */

/* A connection that its client closed keeps its ports for a minute. A run that opens a hundred
 * thousand of them therefore goes through many addresses of the loopback network. */
static void
bind_source(struct load *load, struct conn *conn)
{
    struct sockaddr_in source = {
        .sin_family = AF_INET,
        .sin_addr.s_addr =
            htonl(SOURCE_NET + (uint32_t)(load->opened / SOURCE_PORTS % SOURCE_HOSTS)),
    };
    int one = 1;
    setsockopt(conn->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
    if (bind(conn->fd, (struct sockaddr *)&source, sizeof(source)) < 0) {
        load_fail(load, conn, "bind", errno);
    }
}

static void
open_inet(struct load *load, struct conn *conn)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons(load->port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    bool datagram = load->kind == LOAD_UDP;
    conn->fd = socket(AF_INET, (datagram ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0);
    if (conn->fd < 0) {
        load_fail(load, conn, "socket", errno);
    }
    if (load->reconnect) {
        bind_source(load, conn);
    }
    if (connect(conn->fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        load_fail(load, conn, "connect", errno);
    }
    if (!datagram) {
        int one = 1;
        setsockopt(conn->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    }
    conn->fd_out = conn->fd;
    if (load->kind == LOAD_TLS) {
        load_tls_open(load, conn);
    }
}

static void
open_unix(struct load *load, struct conn *conn)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(load->unix_path) >= sizeof(address.sun_path)) {
        load_fail(load, conn, "the path of the socket is too long", 0);
    }
    strcpy(address.sun_path, load->unix_path);
    conn->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (conn->fd < 0 || connect(conn->fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        load_fail(load, conn, "connect", errno);
    }
    conn->fd_out = conn->fd;
}

/* Takes the next pair of the list that the command line gave. */
static void
take_pipes(struct load *load, struct conn *conn)
{
    int used = 0;
    if (sscanf(load->pipes, "%d:%d%n", &conn->fd, &conn->fd_out, &used) != 2) {
        load_fail(load, conn, "no pipes for this connection in --pipes", 0);
    }
    load->pipes += used;
    load->pipes += *load->pipes == ',';
}

static void
set_nonblocking(const struct load *load, const struct conn *conn, int fd)
{
    if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0) {
        load_fail(load, conn, "fcntl", errno);
    }
}

void
load_open(struct load *load, struct conn *conn)
{
    if (load->kind == LOAD_UNIX) {
        open_unix(load, conn);
    } else if (load->kind == LOAD_PIPE) {
        take_pipes(load, conn);
    } else {
        open_inet(load, conn);
    }
    load->opened++;
    set_nonblocking(load, conn, conn->fd);
    set_nonblocking(load, conn, conn->fd_out);
    if (load->path != NULL && conn->response == NULL) {
        conn->response = malloc(RESPONSE_BYTES_MAX);
        if (conn->response == NULL) {
            load_fail(load, conn, "malloc", ENOMEM);
        }
    }
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = conn};
    if (epoll_ctl(load->epoll_fd, EPOLL_CTL_ADD, conn->fd, &event) < 0) {
        load_fail(load, conn, "epoll_ctl", errno);
    }
    conn->want_write = false;
}

void
load_close(struct conn *conn)
{
    if (conn->tls != NULL) {
        load_tls_close(conn);
    }
    if (conn->fd_out != conn->fd) {
        close(conn->fd_out);
    }
    close(conn->fd); /* leaves the epoll set with it */
}
