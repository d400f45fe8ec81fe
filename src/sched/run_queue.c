/*
 * run_queue.c - the ring of ready strands. No memory is ever freed while a thief may look at it,
 * which is why the ring has a fixed size and what does not fit goes elsewhere.
 *
 * Invariant: stolen <= taken <= tail and tail - stolen <= SLOTS, in arithmetic modulo 2^32.
 */
#include "sched/run_queue.h"

#define SLOT_MASK ((uint32_t)PYL_RUN_QUEUE_SLOTS - 1)

static uint64_t
head_pack(uint32_t stolen, uint32_t taken)
{
    return (uint64_t)stolen << 32 | taken;
}

static uint32_t
head_stolen(uint64_t head)
{
    return (uint32_t)(head >> 32);
}

static uint32_t
head_taken(uint64_t head)
{
    return (uint32_t)head;
}

void
pyl_run_queue_init(struct pyl_run_queue *queue)
{
    atomic_init(&queue->head, 0);
    atomic_init(&queue->tail, 0);
    for (uint32_t i = 0; i < PYL_RUN_QUEUE_SLOTS; i++) {
        atomic_init(&queue->slots[i].item, NULL);
        atomic_init(&queue->slots[i].since_ns, 0);
    }
}

static void
slot_store(struct pyl_run_queue *queue, uint32_t position, struct pyl_run_entry entry)
{
    struct pyl_run_slot *slot = &queue->slots[position & SLOT_MASK];
    atomic_store_explicit(&slot->item, entry.item, memory_order_relaxed);
    atomic_store_explicit(&slot->since_ns, entry.since_ns, memory_order_relaxed);
}

static struct pyl_run_entry
slot_load(const struct pyl_run_queue *queue, uint32_t position)
{
    const struct pyl_run_slot *slot = &queue->slots[position & SLOT_MASK];
    return (struct pyl_run_entry){
        .item = atomic_load_explicit(&slot->item, memory_order_relaxed),
        .since_ns = atomic_load_explicit(&slot->since_ns, memory_order_relaxed),
    };
}

bool
pyl_run_queue_push(struct pyl_run_queue *queue, struct pyl_run_entry entry)
{
    uint32_t tail = atomic_load_explicit(&queue->tail, memory_order_relaxed); /* ours */
    /* Acquire: a thief's release of `stolen` orders its copying before our overwriting. */
    uint64_t head = atomic_load_explicit(&queue->head, memory_order_acquire);
    if (tail - head_stolen(head) >= PYL_RUN_QUEUE_SLOTS) {
        return false;
    }
    slot_store(queue, tail, entry);
    /* Sequentially consistent: the pusher then asks who sleeps; a sleeper asks in the other order.
     */
    atomic_store_explicit(&queue->tail, tail + 1, memory_order_seq_cst);
    return true;
}

uint32_t
pyl_run_queue_room(const struct pyl_run_queue *queue)
{
    uint32_t tail = atomic_load_explicit(&queue->tail, memory_order_relaxed); /* ours */
    /* Acquire: as in push. */
    uint64_t head = atomic_load_explicit(&queue->head, memory_order_acquire);
    return PYL_RUN_QUEUE_SLOTS - (tail - head_stolen(head));
}

bool
pyl_run_queue_pop(struct pyl_run_queue *queue, struct pyl_run_entry *ret_entry)
{
    uint32_t tail = atomic_load_explicit(&queue->tail, memory_order_relaxed); /* ours */
    uint64_t head = atomic_load_explicit(&queue->head, memory_order_acquire);
    struct pyl_run_entry entry;
    uint64_t next;
    do {
        uint32_t taken = head_taken(head);
        if (taken == tail) {
            return false;
        }
        entry = slot_load(queue, taken); /* only we overwrite slots, so it is what was pushed */
        bool is_stealing = head_stolen(head) != taken;
        next = head_pack(is_stealing ? head_stolen(head) : taken + 1, taken + 1);
    } while (!atomic_compare_exchange_weak_explicit(&queue->head, &head, next, memory_order_acq_rel,
                                                    memory_order_acquire));
    *ret_entry = entry;
    return true;
}

/* How many of `available` a thief takes: the old ones, at most `limit`. They are only looked at,
 * the reservation that follows fails if the owner took one meanwhile. */
static uint32_t
count_stealable(const struct pyl_run_queue *victim, uint32_t first, uint32_t available,
                uint32_t limit, int64_t not_after_ns)
{
    uint32_t most = available < limit ? available : limit;
    uint32_t count = 0;
    while (count < most && slot_load(victim, first + count).since_ns <= not_after_ns) {
        count++;
    }
    return count;
}

/* Reserves entries [*ret_first, *ret_first + count) for the caller. Returns their count. */
static uint32_t
steal_reserve(struct pyl_run_queue *victim, uint32_t limit, int64_t not_after_ns,
              uint32_t *ret_first)
{
    uint64_t head = atomic_load_explicit(&victim->head, memory_order_acquire);
    for (;;) {
        uint32_t taken = head_taken(head);
        if (head_stolen(head) != taken) {
            return 0; /* one thief at a time */
        }
        /* Acquire: the slots that this tail publishes. */
        uint32_t tail = atomic_load_explicit(&victim->tail, memory_order_acquire);
        uint32_t available = tail - taken;
        if (available > PYL_RUN_QUEUE_SLOTS) {
            /* The tail is newer than the head: the owner went on in between. */
            head = atomic_load_explicit(&victim->head, memory_order_acquire);
            continue;
        }
        uint32_t count = count_stealable(victim, taken, available, limit, not_after_ns);
        if (count == 0) {
            return 0;
        }
        uint64_t next = head_pack(taken, taken + count);
        if (atomic_compare_exchange_weak_explicit(&victim->head, &head, next, memory_order_acq_rel,
                                                  memory_order_acquire)) {
            *ret_first = taken;
            return count;
        }
    }
}

/* Gives the slots back to the owner, which may have taken entries behind ours meanwhile. */
static void
steal_finish(struct pyl_run_queue *victim)
{
    uint64_t head = atomic_load_explicit(&victim->head, memory_order_relaxed);
    uint64_t next;
    do {
        next = head_pack(head_taken(head), head_taken(head));
    } while (!atomic_compare_exchange_weak_explicit(&victim->head, &head, next,
                                                    memory_order_acq_rel, memory_order_relaxed));
}

uint32_t
pyl_run_queue_steal(struct pyl_run_queue *victim, struct pyl_run_queue *thief, uint32_t most,
                    int64_t not_after_ns)
{
    uint32_t first;
    /* The thief's queue is empty, but another thief may still be copying from it. */
    uint32_t room = pyl_run_queue_room(thief);
    uint32_t count = steal_reserve(victim, most < room ? most : room, not_after_ns, &first);
    if (count == 0) {
        return 0;
    }
    uint32_t tail = atomic_load_explicit(&thief->tail, memory_order_relaxed); /* ours */
    for (uint32_t i = 0; i < count; i++) {
        slot_store(thief, tail + i, slot_load(victim, first + i));
    }
    atomic_store_explicit(&thief->tail, tail + count, memory_order_seq_cst);
    steal_finish(victim);
    return count;
}

uint32_t
pyl_run_queue_count(const struct pyl_run_queue *queue)
{
    uint32_t taken = head_taken(atomic_load_explicit(&queue->head, memory_order_acquire));
    uint32_t count = atomic_load_explicit(&queue->tail, memory_order_seq_cst) - taken;
    return count <= PYL_RUN_QUEUE_SLOTS ? count : PYL_RUN_QUEUE_SLOTS;
}

int64_t
pyl_run_queue_oldest_ns(const struct pyl_run_queue *queue)
{
    uint32_t tail = atomic_load_explicit(&queue->tail, memory_order_seq_cst);
    uint32_t taken = head_taken(atomic_load_explicit(&queue->head, memory_order_acquire));
    /* A head newer than the tail: the owner is active and looks at its queue itself. */
    if ((int32_t)(tail - taken) <= 0) {
        return INT64_MAX;
    }
    return slot_load(queue, taken).since_ns;
}
