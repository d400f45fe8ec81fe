/*
 * run_queue.h - the ready strands of one worker that any worker may still run: a ring of fixed
 * size, FIFO for its owner, of which thieves take old ones. Memory orders: sched/README.md.
 *
 * `head` packs two positions: where the owner takes next (low half) and where the oldest entry lies
 * that a thief is still copying (high half). They differ only during a theft.
 */
#ifndef PYL_SCHED_RUN_QUEUE_H
#define PYL_SCHED_RUN_QUEUE_H

#include "base/platform.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum { PYL_RUN_QUEUE_SLOTS = PYL_TINY_LIMITS ? 4 : 256 };

/* What the queue holds: never looked into, so an entry may be freed once it has been taken. */
struct pyl_run_entry {
    void *item;
    int64_t
        since_ns; /* when it became ready; not decreasing along the queue, but for injected ones */
};

struct pyl_run_slot {
    _Atomic(void *) item;     /* owner writes before it publishes tail; thieves read relaxed */
    _Atomic int64_t since_ns; /* the same */
};

struct pyl_run_queue {
    _Atomic uint64_t head; /* owner and thieves, compare-exchange only */
    char thief_pad[PYL_CACHE_LINE];
    _Atomic uint32_t tail; /* owner stores (seq_cst), anyone loads */
    struct pyl_run_slot slots[PYL_RUN_QUEUE_SLOTS];
};

/* An empty queue. */
void pyl_run_queue_init(struct pyl_run_queue *queue);

/* Owner. Returns false when there is no room, also because a thief has not finished yet. */
PYL_NODISCARD bool pyl_run_queue_push(struct pyl_run_queue *queue, struct pyl_run_entry entry);

/* Owner: how many more fit. While a thief copies, what it reserved and everything behind that
 * counts as used, so an empty queue may have no room. */
uint32_t pyl_run_queue_room(const struct pyl_run_queue *queue);

/* Owner: the oldest entry. Returns false when there is none. */
PYL_NODISCARD bool pyl_run_queue_pop(struct pyl_run_queue *queue, struct pyl_run_entry *ret_entry);

/*
 * Moves the oldest of the victim's entries, `most` of them, but only those ready since
 * `not_after_ns` or earlier, to the end of the thief's queue, as far as there is room.
 *
 * Thread:  the owner of `thief`, whose queue is empty; it is not the victim's owner.
 * Returns: how many were moved. 0: nothing was old enough, there is no room, or another thief is at
 *          work.
 */
uint32_t pyl_run_queue_steal(struct pyl_run_queue *victim, struct pyl_run_queue *thief,
                             uint32_t most, int64_t not_after_ns);

/* Any thread: entries right now; as old as the call when it returns. */
uint32_t pyl_run_queue_count(const struct pyl_run_queue *queue);

/* Any thread: since when the oldest entry is ready; INT64_MAX when there is none. A hint: it may be
 * gone already. Ordered after the caller's earlier sequentially consistent operations. */
int64_t pyl_run_queue_oldest_ns(const struct pyl_run_queue *queue);

#endif
