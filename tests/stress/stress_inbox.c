/*
 * stress_inbox.c - four threads push into one inbox while the owner takes: nothing is lost, nothing
 * comes twice, and the order of each producer is kept.
 */
#include "base/inbox.h"
#include "stress.h"

#include <pthread.h>
#include <sched.h>

enum { PRODUCERS = 4, PER_PRODUCER = 50000, TOTAL = PRODUCERS * PER_PRODUCER };

struct item {
    struct pyl_inbox_node node;
    int producer;
    int number;
};

static struct pyl_inbox inbox;
static struct item items[PRODUCERS][PER_PRODUCER];

static void *
produce(void *argument)
{
    struct item *own = argument;
    for (int i = 0; i < PER_PRODUCER; i++) {
        (void)pyl_inbox_push(&inbox, &own[i].node);
        if (i % 97 == 0) {
            sched_yield();
        }
    }
    return NULL;
}

int
main(void)
{
    pthread_t threads[PRODUCERS];
    int next[PRODUCERS] = {0};
    int seen = 0;
    int takes = 0;
    pyl_inbox_init(&inbox);
    for (int p = 0; p < PRODUCERS; p++) {
        for (int i = 0; i < PER_PRODUCER; i++) {
            items[p][i] = (struct item){.producer = p, .number = i};
        }
        STRESS_CHECK(pthread_create(&threads[p], NULL, produce, items[p]) == 0);
    }
    while (seen < TOTAL) {
        struct pyl_inbox_node *node = pyl_inbox_take(&inbox);
        takes += node != NULL;
        while (node != NULL) {
            struct item *item = PYL_CONTAINER_OF(node, struct item, node);
            node = node->next;
            STRESS_CHECK(item->number == next[item->producer]);
            next[item->producer]++;
            seen++;
        }
    }
    for (int p = 0; p < PRODUCERS; p++) {
        STRESS_CHECK(pthread_join(threads[p], NULL) == 0);
        STRESS_CHECK(next[p] == PER_PRODUCER);
    }
    STRESS_CHECK(pyl_inbox_is_empty(&inbox));
    printf("inbox: %d items of %d producers in %d takes\n", seen, PRODUCERS, takes);
    return 0;
}
