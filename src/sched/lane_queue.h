/*
 * lane_queue.h - the new strands of one lane: two rings, dealt in turn. The owner takes the oldest,
 * a thief half of them from one ring, that is every second one: neighbours are often alike (what
 * one loop spawned first is often the heavy part), and a strand stays where it begins.
 */
#ifndef PYL_SCHED_LANE_QUEUE_H
#define PYL_SCHED_LANE_QUEUE_H

#include "sched/run_queue.h"

enum { PYL_LANE_QUEUE_SLOTS = 2 * PYL_RUN_QUEUE_SLOTS };

struct pyl_lane_queue {
    struct pyl_run_queue rings[2];
    /* Owner: since the queue was last empty. Their parity says whose turn it is. */
    uint32_t pushed;
    uint32_t popped;
};

/* An empty queue. */
void pyl_lane_queue_init(struct pyl_lane_queue *queue);

/* Owner. Returns false when there is no room, also because thieves have not finished yet. */
PYL_NODISCARD bool pyl_lane_queue_push(struct pyl_lane_queue *queue, struct pyl_run_entry entry);

/* Owner: how many more fit. An empty queue may have no room, see pyl_run_queue_room(). */
uint32_t pyl_lane_queue_room(const struct pyl_lane_queue *queue);

/* Owner: the oldest entry. Returns false when there is none. */
PYL_NODISCARD bool pyl_lane_queue_pop(struct pyl_lane_queue *queue,
                                      struct pyl_run_entry *ret_entry);

/*
 * Moves half of the victim's entries (rounded up), but only those ready since `not_after_ns` or
 * earlier, to the thief's queue, as far as there is room.
 *
 * Thread:  the owner of `thief`, whose queue is empty; it is not the victim's owner.
 * Returns: how many were moved. 0: nothing was old enough, there is no room, or other thieves are
 * at work.
 */
uint32_t pyl_lane_queue_steal(struct pyl_lane_queue *victim, struct pyl_lane_queue *thief,
                              int64_t not_after_ns);

/* Any thread: entries right now; as old as the call when it returns. */
uint32_t pyl_lane_queue_count(const struct pyl_lane_queue *queue);

/* Any thread: see pyl_run_queue_oldest_ns(). */
int64_t pyl_lane_queue_oldest_ns(const struct pyl_lane_queue *queue);

#endif
