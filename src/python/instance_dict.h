/*
 * instance_dict.h - the __dict__ of instances that have one and seldom use it.
 *
 * CPython calls a method of an instance without looking into its __dict__ if it knows there is
 * nothing in it: from 3.12 on also while there is no dict yet (LOAD_ATTR_METHOD_LAZY_DICT). 3.11
 * knows only of a dict that exists (LOAD_METHOD_WITH_DICT), and a lookup costs some 110
 * instructions where that costs 15. So there all instances without attributes of their own share
 * one empty dict. Nobody gets to see it: who asks for it, or sets an attribute, makes the instance
 * give it up first.
 */
#ifndef PYL_PYTHON_INSTANCE_DICT_H
#define PYL_PYTHON_INSTANCE_DICT_H

#include "python/module.h"

/* What a new instance begins with: a new reference or NULL. */
static inline PyObject *
pyl_instance_dict_new(struct pyl_state *state)
{
    return PYL_SHARES_EMPTY_DICT ? Py_NewRef(state->empty_dict) : NULL;
}

/* Has it attributes of its own, or had it ever? */
static inline bool
pyl_instance_dict_is_used(const struct pyl_state *state, const PyObject *dict)
{
    return dict != NULL && dict != state->empty_dict;
}

/* The slot is the last of a type's, so that it can be left out where no dict is shared. */
#define PYL_INSTANCE_DICT_SETATTRO (PYL_SHARES_EMPTY_DICT ? Py_tp_setattro : 0)

/* tp_setattro and the getter of __dict__ of an instance whose dict is in *slot. */
int pyl_instance_dict_set_attribute(struct pyl_state *state, PyObject **slot, PyObject *self,
                                    PyObject *name, PyObject *value);
PyObject *pyl_instance_dict_get(struct pyl_state *state, PyObject **slot, PyObject *self,
                                void *closure);

#endif
