/*
 * sim_datagram.c - datagrams of the simulation: whole, each with a journey of its own.
 *
 * Tested by tests/unit/io/test_datagram.c.
 */
#include "reactor/sim_net.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "reactor/op.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>

enum { LATENCY_MAX_US = 50 };

void
pyl_sim_net_address(uint16_t port, struct sockaddr_storage *ret_address, socklen_t *ret_size)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    memset(ret_address, 0, sizeof(*ret_address));
    memcpy(ret_address, &address, sizeof(address));
    *ret_size = sizeof(address);
}

/* NULL: nobody has the port. */
static struct pyl_sim_socket *
find_port(const struct pyl_sim_net *net, uint16_t port)
{
    for (uint32_t i = 0; i < net->capacity; i++) {
        struct pyl_sim_socket *socket = net->sockets[i];
        if (socket != NULL && socket->kind == PYL_SIM_DATAGRAM && socket->port == port) {
            return socket;
        }
    }
    return NULL;
}

static size_t
room(const struct pyl_sim_socket *receiver)
{
    return receiver->size_max - receiver->count;
}

uint32_t
pyl_sim_net_datagram_ready(const struct pyl_sim_net *net, const struct pyl_sim_socket *socket)
{
    const struct pyl_sim_datagram *first = socket->datagrams;
    const struct pyl_sim_socket *full =
        socket->full_port != 0 ? find_port(net, socket->full_port) : NULL;
    uint32_t ready = first != NULL && first->arrive_ns <= net->now_ns ? PYL_POLL_IN : 0;
    return full == NULL || room(full) >= socket->full_size ? ready | PYL_POLL_OUT : ready;
}

static int
send_packet(struct pyl_sim_net *net, struct pyl_sim_socket *sender, const struct pyl_packet *packet)
{
    struct sockaddr_in address;
    if (packet->address_size < sizeof(address)) {
        return -EDESTADDRREQ;
    }
    memcpy(&address, packet->address, sizeof(address));
    struct pyl_sim_socket *receiver = find_port(net, ntohs(address.sin_port));
    sender->full_port = 0;
    if (receiver == NULL) {
        return 0;
    }
    if (packet->size > receiver->size_max) {
        return -EMSGSIZE;
    }
    if (packet->size > room(receiver)) {
        sender->full_port = receiver->port;
        sender->full_size = packet->size;
        return -EAGAIN;
    }
    struct pyl_sim_datagram *datagram = pyl_alloc(sizeof(*datagram) + packet->size);
    if (datagram == NULL) {
        return -ENOMEM;
    }
    datagram->arrive_ns = net->now_ns + pyl_sim_net_random(net, LATENCY_MAX_US) * PYL_NS_PER_US;
    datagram->size = packet->size;
    datagram->source_port = sender->port;
    if (packet->size > 0) {
        memcpy(datagram->data, packet->data, packet->size);
    }
    struct pyl_sim_datagram **place = &receiver->datagrams;
    while (*place != NULL && (*place)->arrive_ns <= datagram->arrive_ns) {
        place = &(*place)->next;
    }
    datagram->next = *place;
    *place = datagram;
    receiver->count += packet->size;
    return 0;
}

int
pyl_sim_net_send_packets(struct pyl_sim_net *net, struct pyl_sim_socket *sender,
                         const struct pyl_packet *packets, int count)
{
    for (int i = 0; i < count; i++) {
        int rc = send_packet(net, sender, &packets[i]);
        if (rc < 0) {
            return i > 0 ? i : rc;
        }
    }
    return count;
}

int
pyl_sim_net_recv_packets(struct pyl_sim_net *net, struct pyl_sim_socket *receiver,
                         struct pyl_packet *packets, int count)
{
    int received = 0;
    while (received < count && receiver->datagrams != NULL &&
           receiver->datagrams->arrive_ns <= net->now_ns) {
        struct pyl_sim_datagram *datagram = receiver->datagrams;
        struct pyl_packet *packet = &packets[received++];
        struct sockaddr_storage source;
        socklen_t source_size;
        receiver->datagrams = datagram->next;
        receiver->count -= datagram->size;
        packet->size = datagram->size < packet->size ? datagram->size : packet->size;
        if (packet->size > 0) {
            memcpy(packet->data, datagram->data, packet->size);
        }
        pyl_sim_net_address(datagram->source_port, &source, &source_size);
        packet->address_size =
            source_size < packet->address_size ? source_size : packet->address_size;
        memcpy(packet->address, &source, packet->address_size);
        pyl_free(datagram);
    }
    return received > 0 ? received : -EAGAIN;
}

void
pyl_sim_net_drop_datagrams(struct pyl_sim_socket *socket)
{
    while (socket->datagrams != NULL) {
        struct pyl_sim_datagram *datagram = socket->datagrams;
        socket->datagrams = datagram->next;
        pyl_free(datagram);
    }
}
