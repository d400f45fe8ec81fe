/*
 * sim.h - the world of backend "sim", for tests: sockets in memory, a virtual clock, a seed.
 *
 * A simulated fd is a number that only this reactor knows; both ends of a connection are such fds,
 * so a test can play the peer, or submit ops on both. Time passes only in pyl_reactor_wait() and
 * pyl_sim_advance(): a wait jumps to the next thing that happens. The seed
 * (pyl_reactor_options.sim_seed) decides the order of completions, where streams are cut, how long
 * bytes travel and how much a send takes; the same seed gives the same run.
 *
 * Owner thread. Every reactor given here runs backend "sim".
 */
#ifndef PYL_REACTOR_SIM_H
#define PYL_REACTOR_SIM_H

#include "reactor/reactor.h"

/* Chances in 256ths. All zero, which is the default: only what any network may do. */
struct pyl_sim_faults {
    uint8_t reset;      /* a receive or send finds the connection reset */
    uint8_t starve;     /* a receive that could complete is put off to a later round */
    uint8_t early_wait; /* a wait returns early and empty, as after a signal */
    uint8_t no_memory;  /* an accept ends with -ENOMEM */
};

/* From now on, until set again. */
void pyl_sim_set_faults(struct pyl_reactor *reactor, const struct pyl_sim_faults *faults);

/* From now on accept ends with -EMFILE, or works again. */
void pyl_sim_limit_fds(struct pyl_reactor *reactor, bool is_limited);

/* Two connected fds with room for buffer_size bytes in each direction (0: 64 KiB). 0 or -ENOMEM. */
PYL_NODISCARD int pyl_sim_pair(struct pyl_reactor *reactor, uint32_t buffer_size, int fds[2]);

/* A listening fd with an address of its own, or -ENOMEM. */
PYL_NODISCARD int pyl_sim_listen(struct pyl_reactor *reactor, struct sockaddr_storage *ret_address,
                                 socklen_t *ret_size);

/* A datagram socket with an address of its own and room for buffer_size bytes that were not
 * received yet (0: 64 KiB), or -ENOMEM. Datagrams travel each on its own and may overtake one
 * another; none is lost. */
PYL_NODISCARD int pyl_sim_datagram_socket(struct pyl_reactor *reactor, uint32_t buffer_size,
                                          struct sockaddr_storage *ret_address,
                                          socklen_t *ret_size);

/* An unconnected fd, for PYL_OP_CONNECT or pyl_sim_connect(). */
PYL_NODISCARD int pyl_sim_socket(struct pyl_reactor *reactor);

/* An address that never answers. */
void pyl_sim_silent_address(struct sockaddr_storage *ret_address, socklen_t *ret_size);

/* Begins to connect; 0, -ECONNREFUSED, -EISCONN, -EBADF or -ENOMEM. Writable when connected. */
PYL_NODISCARD int pyl_sim_connect(struct pyl_reactor *reactor, int fd,
                                  const struct sockaddr *address, socklen_t size);

/* As write(2) and read(2) on non-blocking sockets: a count, 0 at the end, or -errno. */
int64_t pyl_sim_write(struct pyl_reactor *reactor, int fd, const void *data, size_t size);
int64_t pyl_sim_read(struct pyl_reactor *reactor, int fd, void *buffer, size_t size);

/* Ends the sending direction. 0 or -errno. */
int pyl_sim_shutdown(struct pyl_reactor *reactor, int fd);

/* Closes the fd; with unread bytes, or `is_reset`, the peer sees a reset, otherwise the end. */
void pyl_sim_close(struct pyl_reactor *reactor, int fd, bool is_reset);

/* Open fds: what a test that closes everything compares with 0. */
uint32_t pyl_sim_fd_count(const struct pyl_reactor *reactor);

/* Lets time pass without a wait. */
void pyl_sim_advance(struct pyl_reactor *reactor, int64_t duration_ns);

/* Something outside the program happens at a time: `act` runs inside a wait or advance that reaches
 * it, and may call functions of this header and pyl_reactor_wake(), nothing else. 0 or -ENOMEM. */
typedef void pyl_sim_act_fn(struct pyl_reactor *reactor, void *user);
PYL_NODISCARD int pyl_sim_at(struct pyl_reactor *reactor, int64_t deadline_ns, pyl_sim_act_fn *act,
                             void *user);

/* A number from the run's seed, below `bound` (> 0): for scripts that want to vary. */
uint32_t pyl_sim_random(struct pyl_reactor *reactor, uint32_t bound);

#endif
