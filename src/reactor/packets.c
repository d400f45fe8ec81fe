/*
 * packets.c - datagrams beside the ops: received into memory of the reactor, sent from the
 * caller's.
 *
 * Not by multishot receives into the ring's provided buffers: those are a quarter of the size of a
 * large datagram, which would be cut, and buffers that hold every datagram would each be used for
 * the few hundred bytes of the usual one. One call for up to 32 of them costs a busy socket little,
 * and a quiet one holds no memory.
 *
 * Tested by tests/unit/io/test_datagram.c.
 */
#include "reactor/packet.h"

#include "base/alloc.h"
#include "reactor/reactor.h"
#include "reactor/socket_call.h"

#include <errno.h>
#include <sys/mman.h>

enum {
    DATA_SIZE = PYL_PACKETS_MAX * PYL_PACKET_SIZE_UDP,
    /* Packets that began at equal places of their pages would meet in a few cache sets. */
    STRIDE_GAP = 2 * PYL_CACHE_LINE,
};

/* A page is resident from its first use on: small datagrams touch the first of each slot. */
struct pyl_packet_memory {
    struct pyl_packet packets[PYL_PACKETS_MAX];
    struct sockaddr_storage addresses[PYL_PACKETS_MAX];
    uint8_t data[DATA_SIZE + PYL_PACKET_SIZE_MAX + PYL_PACKETS_MAX * STRIDE_GAP];
};

static struct pyl_packet_memory *
memory_of(struct pyl_reactor *reactor)
{
    if (reactor->packet_memory == NULL) {
        reactor->packet_memory = pyl_alloc_pages(sizeof(struct pyl_packet_memory));
        if (reactor->packet_memory != NULL) {
            /* Advice only: it may fail. */
            (void)madvise(reactor->packet_memory, sizeof(struct pyl_packet_memory),
                          PYL_MADV_SMALL_PAGES);
        }
    }
    return reactor->packet_memory;
}

void
pyl_packets_fini(struct pyl_reactor *reactor)
{
    pyl_free_pages(reactor->packet_memory, sizeof(struct pyl_packet_memory));
    reactor->packet_memory = NULL;
}

int
pyl_reactor_recv_packets(struct pyl_reactor *reactor, int fd, size_t size_max, int count,
                         const struct pyl_packet **ret_packets)
{
    struct pyl_packet_memory *memory = memory_of(reactor);
    if (memory == NULL) {
        return -ENOMEM;
    }
    int count_max = size_max <= PYL_PACKET_SIZE_UDP ? PYL_PACKETS_MAX : (int)(DATA_SIZE / size_max);
    if (count > count_max) {
        count = count_max > 0 ? count_max : 1;
    }
    for (int i = 0; i < count; i++) {
        memory->packets[i] = (struct pyl_packet){
            .data = memory->data + (size_t)i * (size_max + STRIDE_GAP),
            .size = size_max,
            .address = (struct sockaddr *)&memory->addresses[i],
            .address_size = sizeof(memory->addresses[i]),
        };
    }
    *ret_packets = memory->packets;
    if (reactor->ops->recv_packets != NULL) {
        return reactor->ops->recv_packets(reactor, fd, memory->packets, count);
    }
    return pyl_socket_recv_packets(fd, memory->packets, count);
}

int
pyl_reactor_send_packets(struct pyl_reactor *reactor, int fd, const struct pyl_packet *packets,
                         int count)
{
    if (reactor->ops->send_packets != NULL) {
        return reactor->ops->send_packets(reactor, fd, packets, count);
    }
    return pyl_socket_send_packets(fd, packets, count);
}
