/*
 * inbox.h - intrusive many-producer single-consumer list: push from any thread or signal handler,
 * the consumer takes everything at once and gets it in FIFO order per producer.
 *
 * A Treiber stack whose consumer exchanges the whole list, so there is no ABA problem and no
 * reclamation. Depends on stdatomic.h only: model checkers include this file as it is.
 */
#ifndef PYL_BASE_INBOX_H
#define PYL_BASE_INBOX_H

#include "base/platform.h"

#include <stdatomic.h>
#include <stdbool.h>

struct pyl_inbox_node {
    struct pyl_inbox_node *next; /* owned by whoever holds the node; published by the push */
};

struct pyl_inbox {
    _Atomic(struct pyl_inbox_node *) top; /* any thread pushes (release), owner takes (acquire) */
};

static inline void
pyl_inbox_init(struct pyl_inbox *inbox)
{
    atomic_init(&inbox->top, NULL);
}

/* Any thread. Returns true if the inbox was empty before. */
static inline bool
pyl_inbox_push(struct pyl_inbox *inbox, struct pyl_inbox_node *node)
{
    struct pyl_inbox_node *top = atomic_load_explicit(&inbox->top, memory_order_relaxed);
    do {
        node->next = top;
        /* Release publishes the node; pairs with the acquire exchange in pyl_inbox_take(). */
    } while (!atomic_compare_exchange_weak_explicit(&inbox->top, &top, node, memory_order_release,
                                                    memory_order_relaxed));
    return top == NULL;
}

static inline bool
pyl_inbox_is_empty(struct pyl_inbox *inbox)
{
    return atomic_load_explicit(&inbox->top, memory_order_relaxed) == NULL;
}

/* The list in the other order. */
static inline struct pyl_inbox_node *
pyl_inbox_reverse(struct pyl_inbox_node *node)
{
    struct pyl_inbox_node *reversed = NULL;
    while (node != NULL) {
        struct pyl_inbox_node *next = node->next;
        node->next = reversed;
        reversed = node;
        node = next;
    }
    return reversed;
}

/* Consumer only. Returns the oldest node of a NULL-terminated list, or NULL. */
static inline struct pyl_inbox_node *
pyl_inbox_take(struct pyl_inbox *inbox)
{
    return pyl_inbox_reverse(atomic_exchange_explicit(&inbox->top, NULL, memory_order_acquire));
}

#endif
