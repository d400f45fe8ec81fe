/*
 * test_inbox.c - FIFO per producer, nothing lost between threads.
 */
#include "base/inbox.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdlib.h>

enum { PRODUCERS = 4, PER_PRODUCER = 20000 };

struct item {
    struct pyl_inbox_node node;
    int producer;
    int number;
};

static struct pyl_inbox inbox;
static struct item *items[PRODUCERS];

static void *
produce(void *argument)
{
    int producer = (int)(intptr_t)argument;
    for (int i = 0; i < PER_PRODUCER; i++) {
        items[producer][i] = (struct item){.producer = producer, .number = i};
        pyl_inbox_push(&inbox, &items[producer][i].node);
    }
    return NULL;
}

/* Goal: push tells whether the inbox was empty; take gives the oldest first. */
Test(inbox, fifo_and_empty_report)
{
    struct pyl_inbox_node nodes[3];
    pyl_inbox_init(&inbox);
    cr_assert(pyl_inbox_is_empty(&inbox));
    cr_assert_null(pyl_inbox_take(&inbox));
    cr_assert(pyl_inbox_push(&inbox, &nodes[0]));
    cr_assert_not(pyl_inbox_push(&inbox, &nodes[1]));
    cr_assert_not(pyl_inbox_push(&inbox, &nodes[2]));
    struct pyl_inbox_node *node = pyl_inbox_take(&inbox);
    for (int i = 0; i < 3; i++, node = node->next) {
        cr_assert_eq(node, &nodes[i]);
    }
    cr_assert_null(node);
    cr_assert(pyl_inbox_is_empty(&inbox));
}

/* Goal: with four producers nothing is lost and each producer's order holds. */
Test(inbox, many_producers)
{
    pthread_t threads[PRODUCERS];
    pyl_inbox_init(&inbox);
    for (int i = 0; i < PRODUCERS; i++) {
        items[i] = calloc(PER_PRODUCER, sizeof(struct item));
        pthread_create(&threads[i], NULL, produce, (void *)(intptr_t)i);
    }
    int next[PRODUCERS] = {0}, total = 0;
    while (total < PRODUCERS * PER_PRODUCER) {
        struct pyl_inbox_node *node = pyl_inbox_take(&inbox);
        while (node != NULL) {
            struct item *item = PYL_CONTAINER_OF(node, struct item, node);
            node = node->next;
            cr_assert_eq(item->number, next[item->producer]);
            next[item->producer]++;
            total++;
        }
    }
    for (int i = 0; i < PRODUCERS; i++) {
        pthread_join(threads[i], NULL);
        free(items[i]);
    }
}
