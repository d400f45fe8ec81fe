/*
 * test_list.c - the intrusive list.
 */
#include "base/list.h"

#include <criterion/criterion.h>

/* Goal: nodes come out in the order they went in, whatever was removed in between. */
Test(list, keeps_order)
{
    struct pyl_list list, nodes[5];
    pyl_list_init(&list);
    cr_assert(pyl_list_is_empty(&list));
    for (int i = 0; i < 5; i++) {
        pyl_list_append(&list, &nodes[i]);
    }
    pyl_list_remove(&nodes[2]);
    pyl_list_remove(&nodes[2]);
    int expected[] = {0, 1, 3, 4}, count = 0;
    for (struct pyl_list *node = list.next; node != &list; node = node->next) {
        cr_assert_eq(node, &nodes[expected[count++]]);
    }
    cr_assert_eq(count, 4);
}

/* Goal: moving leaves the source empty and the nodes linked to the new head. */
Test(list, move_all)
{
    struct pyl_list from, to, nodes[2];
    pyl_list_init(&from);
    pyl_list_move_all(&to, &from);
    cr_assert(pyl_list_is_empty(&to));
    pyl_list_append(&from, &nodes[0]);
    pyl_list_append(&from, &nodes[1]);
    pyl_list_move_all(&to, &from);
    cr_assert(pyl_list_is_empty(&from));
    cr_assert_eq(to.next, &nodes[0]);
    cr_assert_eq(to.prev, &nodes[1]);
    pyl_list_remove(&nodes[0]);
    pyl_list_remove(&nodes[1]);
    cr_assert(pyl_list_is_empty(&to));
}
