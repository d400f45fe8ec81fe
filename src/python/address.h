/*
 * address.h - addresses as Python's socket module has them.
 */
#ifndef PYL_PYTHON_ADDRESS_H
#define PYL_PYTHON_ADDRESS_H

#include "python/module.h"

#include "io/sockaddr.h"

/* New reference; Py_NotImplemented for a family that only the socket module knows; or NULL. */
PyObject *pyl_address_to_python(const struct pyl_sockaddr *address);

/* What sendto() of a socket of that family takes, as far as it needs no resolver: a numeric host in
 * a tuple, a path. The objects converted cannot change. Returns whether it could; sets no
 * exception. */
bool pyl_address_from_python(struct pyl_sockaddr *ret_address, int family, PyObject *object);

#endif
