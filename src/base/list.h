/*
 * list.h - intrusive doubly linked list with a sentinel, and an intrusive singly linked FIFO.
 * Both are plain data: no locks, owner thread only.
 */
#ifndef PYL_BASE_LIST_H
#define PYL_BASE_LIST_H

#include "base/platform.h"

#include <stdbool.h>

struct pyl_list {
    struct pyl_list *next;
    struct pyl_list *prev;
};

static inline void
pyl_list_init(struct pyl_list *list)
{
    list->next = list;
    list->prev = list;
}

static inline bool
pyl_list_is_empty(const struct pyl_list *list)
{
    return list->next == list;
}

static inline void
pyl_list_append(struct pyl_list *list, struct pyl_list *node)
{
    node->prev = list->prev;
    node->next = list;
    list->prev->next = node;
    list->prev = node;
}

/* Leaves the node pointing at itself, so that removing twice is harmless. */
static inline void
pyl_list_remove(struct pyl_list *node)
{
    node->prev->next = node->next;
    node->next->prev = node->prev;
    node->next = node;
    node->prev = node;
}

/* Moves all nodes of `from` to the empty list `to`. */
static inline void
pyl_list_move_all(struct pyl_list *to, struct pyl_list *from)
{
    if (pyl_list_is_empty(from)) {
        pyl_list_init(to);
        return;
    }
    *to = *from;
    to->next->prev = to;
    to->prev->next = to;
    pyl_list_init(from);
}

#endif
