/*
 * sim_net.h - the sockets of the simulation: byte streams whose segments take time to arrive. Knows
 * nothing of ops. Shared by backend_sim.c and sim_net.c only.
 */
#ifndef PYL_REACTOR_SIM_NET_H
#define PYL_REACTOR_SIM_NET_H

#include "base/platform.h"
#include "reactor/packet.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

enum {
    PYL_SIM_FD_FIRST = 1 << 20, /* no real fd is that high by accident */
    PYL_SIM_SILENT_PORT = 1,    /* nobody listens there, and nobody says so */
};

enum pyl_sim_kind { PYL_SIM_STREAM, PYL_SIM_LISTENER, PYL_SIM_DATAGRAM };

enum pyl_sim_state { PYL_SIM_UNCONNECTED, PYL_SIM_CONNECTING, PYL_SIM_CONNECTED };

enum pyl_sim_segment_kind { PYL_SIM_DATA, PYL_SIM_FIN, PYL_SIM_RESET };

/* A run of bytes, or an end, on its way. Arrival times never decrease along a stream. */
struct pyl_sim_segment {
    int64_t arrive_ns;
    uint32_t size; /* of DATA */
    uint8_t kind;  /* enum pyl_sim_segment_kind */
};

/* A datagram on its way, or waiting to be read. */
struct pyl_sim_datagram {
    struct pyl_sim_datagram *next;
    int64_t arrive_ns;
    size_t size;
    uint16_t source_port;
    uint8_t data[];
};

struct pyl_sim_socket {
    uint8_t kind;  /* enum pyl_sim_kind */
    uint8_t state; /* enum pyl_sim_state */
    bool has_end;  /* FIN has arrived */
    bool has_reset;
    bool is_reset_told; /* ECONNRESET is reported once */
    bool is_write_shut;
    int connect_error;
    int64_t connected_ns;        /* CONNECTING: when it is decided */
    struct pyl_sim_socket *peer; /* NULL after either side closed */
    /* Receiving side: `arrived` of `count` bytes may be read. */
    uint8_t *bytes;
    size_t size_max;
    size_t first;
    size_t count;
    size_t arrived;
    struct pyl_sim_segment *segments;
    uint32_t segment_first;
    uint32_t segment_count;
    uint32_t segment_capacity;
    uint16_t port; /* LISTENER, DATAGRAM */
    /* DATAGRAM: by arrival; `count` bytes of at most size_max. */
    struct pyl_sim_datagram *datagrams;
    uint16_t full_port; /* the last send found this one full: not writable until it has room */
    size_t full_size;   /* for so much */
    /* LISTENER */
    struct pyl_sim_socket **backlog;
    uint32_t backlog_count;
    uint32_t backlog_capacity;
};

struct pyl_sim_net {
    struct pyl_sim_socket **sockets; /* by fd - PYL_SIM_FD_FIRST; NULL: free */
    uint32_t capacity;
    uint32_t open_count;
    uint16_t next_port;
    bool is_limited;
    uint64_t random_state;
    int64_t now_ns;
};

/* No sockets; the clock at one second. Allocates nothing. */
void pyl_sim_net_init(struct pyl_sim_net *net, uint64_t seed);
/* Closes and frees every socket. */
void pyl_sim_net_fini(struct pyl_sim_net *net);

/* The next number of the seed, below `bound` (> 0). */
uint32_t pyl_sim_net_random(struct pyl_sim_net *net, uint32_t bound);
/* NULL: not open. */
struct pyl_sim_socket *pyl_sim_net_find(const struct pyl_sim_net *net, int fd);
/* Returns the fd, -EMFILE or -ENOMEM. */
int pyl_sim_net_open(struct pyl_sim_net *net, enum pyl_sim_kind kind, uint32_t buffer_size);
int pyl_sim_net_pair(struct pyl_sim_net *net, uint32_t buffer_size, int fds[2]);
void pyl_sim_net_close(struct pyl_sim_net *net, int fd, bool is_reset);
int pyl_sim_net_connect(struct pyl_sim_net *net, int fd, const struct sockaddr *address,
                        socklen_t size);
/* The fd of the next connection, -EAGAIN, or another error. */
int pyl_sim_net_accept(struct pyl_sim_net *net, struct pyl_sim_socket *listener);
int64_t pyl_sim_net_read(struct pyl_sim_net *net, struct pyl_sim_socket *socket, void *buffer,
                         size_t size);
int64_t pyl_sim_net_write(struct pyl_sim_net *net, struct pyl_sim_socket *socket, const void *data,
                          size_t size);
int pyl_sim_net_shutdown(struct pyl_sim_net *net, struct pyl_sim_socket *socket);
/* Datagrams, in sim_datagram.c. Each returns how many went, or -errno when that concerns the first.
 * Sending to a socket that is full: -EAGAIN; to nobody: as if it had been sent. */
int pyl_sim_net_send_packets(struct pyl_sim_net *net, struct pyl_sim_socket *sender,
                             const struct pyl_packet *packets, int count);
int pyl_sim_net_recv_packets(struct pyl_sim_net *net, struct pyl_sim_socket *receiver,
                             struct pyl_packet *packets, int count);
/* pyl_sim_net_ready() of one. */
uint32_t pyl_sim_net_datagram_ready(const struct pyl_sim_net *net,
                                    const struct pyl_sim_socket *socket);
/* Frees what was not received. */
void pyl_sim_net_drop_datagrams(struct pyl_sim_socket *socket);

/* The address of a port. */
void pyl_sim_net_address(uint16_t port, struct sockaddr_storage *ret_address, socklen_t *ret_size);

/* The connection breaks for both sides, now. */
void pyl_sim_net_break(struct pyl_sim_socket *socket);

/* PYL_POLL_* of what would not block now. */
uint32_t pyl_sim_net_ready(const struct pyl_sim_net *net, const struct pyl_sim_socket *socket);

/* Lets arrive what is due at now_ns. */
void pyl_sim_net_deliver(struct pyl_sim_net *net);
/* When the next thing arrives; PYL_NEVER_NS when nothing is on its way. */
int64_t pyl_sim_net_next_ns(const struct pyl_sim_net *net);

#endif
