/*
 * load.h - what the parts of the load generator share: the run (load.c), how a connection is opened
 * (load_open.c) and TLS (load_tls.c, or load_tls_none.c where there is no OpenSSL). Single thread.
 */
#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

#include "hist.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define REQUEST_BYTES_MAX 1024u
#define RESPONSE_BYTES_MAX 16384u /* a whole HTTP response, head and body */

/* What a connection is made of. */
enum load_kind {
    LOAD_TCP,
    LOAD_TLS,
    LOAD_UNIX,
    LOAD_UDP,  /* a connected datagram socket; one message is one datagram */
    LOAD_PIPE, /* two pipes that were inherited */
};

struct conn {
    int fd;     /* read from */
    int fd_out; /* written to; the same but for pipes */
    void *tls;  /* LOAD_TLS only: load_tls.c's */
    uint32_t sent;
    uint32_t received;
    uint32_t shift; /* where this message starts in the pattern */
    uint64_t started_ns;
    uint64_t due_ns;   /* when the next message is to start, where they are paced */
    uint64_t served;   /* answers in this run */
    uint64_t sequence; /* messages ever started */
    bool busy;         /* a message is in flight */
    bool want_write;   /* EPOLLOUT is registered */
    char *response;    /* HTTP only, RESPONSE_BYTES_MAX */
};

struct load {
    enum load_kind kind;
    uint16_t port;
    const char *unix_path;
    const char *pipes; /* "READ:WRITE,READ:WRITE,...": descriptors, one pair a connection */
    bool reconnect;    /* a connection carries one message, then it is closed and opened again */
    uint32_t connections;
    uint32_t size;      /* bytes of one message */
    const char *path;   /* HTTP when set */
    const char *expect; /* the body every response must have */
    double seconds;
    uint64_t messages;

    int epoll_fd;
    struct conn *conns;
    char *pattern;
    char *scratch;
    char request[REQUEST_BYTES_MAX];
    uint64_t opened; /* connections ever opened */

    /* one run */
    uint64_t started;
    uint64_t completed;
    uint64_t target;
    uint64_t deadline_ns;
    uint64_t pace_ns; /* between two messages of a connection; 0: as soon as one is answered */
    uint64_t bytes;
    uint32_t in_flight;
    struct hist hist;
};

/* Ends the program with status 1 and a sentence about the connection (NULL: all of them). */
_Noreturn void load_fail(const struct load *load, const struct conn *conn, const char *what,
                         int error);

/* Opens the connection, blocking, then non-blocking and in the epoll set. Failure ends the program.
 */
void load_open(struct load *load, struct conn *conn);
void load_close(struct conn *conn);

/* TLS over a connected, still blocking socket. */
void load_tls_open(struct load *load, struct conn *conn);
void load_tls_close(struct conn *conn);

/* As send(2) and recv(2): -1 with EAGAIN in errno when it would block. */
ssize_t load_tls_send(struct conn *conn, const void *bytes, size_t count);
ssize_t load_tls_recv(struct conn *conn, void *bytes, size_t count);

#endif
