/*
 * instance_dict.c - giving up the shared empty __dict__, on CPython 3.11.
 */
#include "python/instance_dict.h"

static void
give_up(struct pyl_state *state, PyObject **slot)
{
    if (PYL_SHARES_EMPTY_DICT && *slot == state->empty_dict) {
        Py_CLEAR(*slot);
    }
}

/* Attributes of the type leave the instance without a dict, which then has the shared one again. */
int
pyl_instance_dict_set_attribute(struct pyl_state *state, PyObject **slot, PyObject *self,
                                PyObject *name, PyObject *value)
{
    give_up(state, slot);
    int status = PyObject_GenericSetAttr(self, name, value);
    if (*slot == NULL) {
        *slot = pyl_instance_dict_new(state);
    }
    return status;
}

PyObject *
pyl_instance_dict_get(struct pyl_state *state, PyObject **slot, PyObject *self, void *closure)
{
    give_up(state, slot);
    return PyObject_GenericGetDict(self, closure);
}
