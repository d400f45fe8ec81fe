/*
 * packet.h - one datagram on its way to or from the kernel, and how many go with one call.
 */
#ifndef PYL_REACTOR_PACKET_H
#define PYL_REACTOR_PACKET_H

#include "base/platform.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

enum {
    PYL_PACKETS_MAX = PYL_TINY_LIMITS ? 2 : 32, /* per call */
    PYL_PACKET_SIZE_UDP = 64 * 1024,            /* no UDP datagram is larger */
    PYL_PACKET_SIZE_MAX = 256 * 1024,           /* asyncio's limit for any datagram */
};

struct pyl_packet {
    uint8_t *data; /* not written when sending */
    size_t size;   /* receiving: the room, and afterwards what came; a longer datagram is cut */
    /* Sending: NULL and 0 for the address the socket is connected to. Receiving: the room, and
     * afterwards the sender's; 0 when it has none (an unbound Unix socket). */
    struct sockaddr *address;
    socklen_t address_size;
};

struct pyl_reactor;

/* Frees what pyl_reactor_recv_packets() (reactor.h) has made. */
void pyl_packets_fini(struct pyl_reactor *reactor);

#endif
