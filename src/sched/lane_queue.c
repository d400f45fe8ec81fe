/*
 * lane_queue.c - see lane_queue.h. All that threads share is in run_queue.c.
 */
#include "sched/lane_queue.h"

void
pyl_lane_queue_init(struct pyl_lane_queue *queue)
{
    pyl_run_queue_init(&queue->rings[0]);
    pyl_run_queue_init(&queue->rings[1]);
    queue->pushed = 0;
    queue->popped = 0;
}

bool
pyl_lane_queue_push(struct pyl_lane_queue *queue, struct pyl_run_entry entry)
{
    if (pyl_lane_queue_count(queue) == 0) {
        queue->pushed = 0;
        queue->popped = 0;
    }
    uint32_t turn = queue->pushed & 1;
    queue->pushed++;
    return pyl_run_queue_push(&queue->rings[turn], entry) ||
           pyl_run_queue_push(&queue->rings[turn ^ 1], entry);
}

uint32_t
pyl_lane_queue_room(const struct pyl_lane_queue *queue)
{
    return pyl_run_queue_room(&queue->rings[0]) + pyl_run_queue_room(&queue->rings[1]);
}

bool
pyl_lane_queue_pop(struct pyl_lane_queue *queue, struct pyl_run_entry *ret_entry)
{
    int64_t first_ns = pyl_run_queue_oldest_ns(&queue->rings[0]);
    int64_t second_ns = pyl_run_queue_oldest_ns(&queue->rings[1]);
    uint32_t turn = first_ns == second_ns ? queue->popped & 1 : second_ns < first_ns;
    queue->popped++;
    return pyl_run_queue_pop(&queue->rings[turn], ret_entry) ||
           pyl_run_queue_pop(&queue->rings[turn ^ 1], ret_entry);
}

uint32_t
pyl_lane_queue_steal(struct pyl_lane_queue *victim, struct pyl_lane_queue *thief,
                     int64_t not_after_ns)
{
    uint32_t first = pyl_run_queue_count(&victim->rings[0]);
    uint32_t second = pyl_run_queue_count(&victim->rings[1]);
    uint32_t half = first + second - (first + second) / 2;
    uint32_t fuller = first > second ? 0 : 1; /* alike: the owner goes on with the first */
    uint32_t count =
        pyl_run_queue_steal(&victim->rings[fuller], &thief->rings[0], half, not_after_ns);
    if (count > 0) {
        return count;
    }
    return pyl_run_queue_steal(&victim->rings[fuller ^ 1], &thief->rings[0], half, not_after_ns);
}

uint32_t
pyl_lane_queue_count(const struct pyl_lane_queue *queue)
{
    return pyl_run_queue_count(&queue->rings[0]) + pyl_run_queue_count(&queue->rings[1]);
}

int64_t
pyl_lane_queue_oldest_ns(const struct pyl_lane_queue *queue)
{
    int64_t first_ns = pyl_run_queue_oldest_ns(&queue->rings[0]);
    int64_t second_ns = pyl_run_queue_oldest_ns(&queue->rings[1]);
    return first_ns < second_ns ? first_ns : second_ns;
}
