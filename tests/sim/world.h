/*
 * world.h - a whole stack on the simulation: one worker, streams on both ends of every connection,
 * a listener, timers, posts from "other threads", all driven by one seed. Checks what must hold in
 * any run and ends the program with the seed otherwise.
 */
#ifndef PYL_TESTS_SIM_WORLD_H
#define PYL_TESTS_SIM_WORLD_H

#include "io/connect.h"
#include "io/listener.h"
#include "io/stream.h"
#include "reactor/sim.h"
#include "sched/worker.h"

#include <stdbool.h>
#include <stdint.h>

enum { LINKS_MAX = 6, CLOCKS_MAX = 24, POSTS_MAX = 16, DIRECT_SIZE = 5000 };

struct world;
struct link;

/* One end of a connection. */
struct actor {
    struct pyl_stream stream;
    struct world *world;
    struct link *link;
    struct actor *peer;
    uint32_t id;    /* decides the bytes it sends */
    bool is_open;   /* the stream exists */
    bool is_lost;   /* on_lost was called */
    bool is_closed; /* on_closed was called */
    bool has_eof;
    bool has_error;
    bool is_done_writing;
    uint64_t send_total;
    uint64_t written;
    uint64_t received;
    uint32_t next_write; /* sequence of owned writes */
    uint32_t next_release;
    struct pyl_timer tick;
    bool is_tick_pending;
    uint8_t direct[DIRECT_SIZE];
    size_t direct_size; /* lent by the last get_buffer */
};

/* A connection. `is_clean`: nobody breaks it, so every byte must arrive. */
struct link {
    struct actor ends[2]; /* by connect: 0 connects, 1 is accepted */
    struct pyl_connect connect;
    int connect_fd;
    bool is_connecting;
    bool is_clean;
};

/* A timer with what is expected of it. */
struct alarm_clock {
    struct pyl_timer timer;
    struct world *world;
    int64_t deadline_ns;
    uint32_t order;
    uint32_t fired;
    bool is_stopped;
};

/* A job that "another thread" posts. */
struct post {
    struct pyl_job job;
    struct world *world;
    uint32_t order;
    uint32_t posted;
    uint32_t run;
};

struct world {
    uint64_t seed;
    uint64_t random_state;
    struct pyl_worker worker;
    struct pyl_listener listener;
    int listen_fd;
    struct pyl_sockaddr listen_address;
    bool is_listener_open;
    int64_t shortage_ns;              /* when the listener last reported one; 0 after an accept */
    struct link *arrivals[LINKS_MAX]; /* connected, and not yet accepted, in order */
    uint32_t arrival_count;
    struct link links[LINKS_MAX];
    uint32_t link_count;
    struct alarm_clock clocks[CLOCKS_MAX];
    uint32_t clock_count;
    const struct alarm_clock *last_clock;
    struct post posts[POSTS_MAX];
    uint32_t post_count;
    uint32_t posts_posted; /* order in which the scripts ran */
    uint32_t posts_run;
    struct pyl_connect hopeless; /* to an address that never answers */
    int hopeless_fd;
    int64_t hopeless_deadline_ns;
    bool is_hopeless_done;
    bool is_lossy; /* the network resets connections */
};

extern uint64_t world_seed; /* of the run in progress, for whoever reports a failure */

_Noreturn void world_fail(const char *file, int line, const char *what);

#define WORLD_CHECK(condition)                          \
    do {                                                \
        if (!(condition)) {                             \
            world_fail(__FILE__, __LINE__, #condition); \
        }                                               \
    } while (0)

/* A number below `bound` (> 0). */
uint32_t world_random(struct world *world, uint32_t bound);

/* One whole run. */
void world_run(uint64_t seed);

/* actor.c */
void actor_prepare(struct actor *actor, struct world *world, struct link *link, uint32_t id);
void actor_open(struct actor *actor, int fd);
/* All that was queued was released, all that a clean link owes arrived. */
void actor_check_end(const struct actor *actor);

#endif
