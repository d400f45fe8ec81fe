/*
 * native_call.h - loop._native_call(): C functions run on threads that have no Python thread state.
 */
#ifndef PYL_PYTHON_NATIVE_CALL_H
#define PYL_PYTHON_NATIVE_CALL_H

#include "python/loop.h"

/* A loop's threads and the calls on their way; made by the first call. */
struct pyl_native;

/*
 * _native_call(function, argument, keep, is_checked): the Future of int64_t function(void
 * *argument).
 *
 * function:   its address, not 0.
 * argument:   None for NULL, an int for an address, else an object with a buffer: where that lies.
 * keep:       kept alive, like the buffer, until the function has returned, cancelled or not.
 * is_checked: a result from -4095 to -1 is a negated errno and raises OSError.
 */
PyObject *pyl_loop_py_native_call(PyObject *loop, PyObject *const *args, Py_ssize_t count);

/* For the end of a loop: drops the calls that have not started, waits for the others without the
 * GIL and ends the threads. What the calls hold stays until pyl_native_release(), because their
 * jobs may still stand in the worker's queues. */
void pyl_native_close(struct pyl_loop *loop);
void pyl_native_release(struct pyl_loop *loop);

/* The job is the end of a call: whoever takes it out of its queue leaves it to
 * pyl_native_release(). */
bool pyl_native_owns_job(struct pyl_job *job);

/* In the child of a fork, where the threads do not exist. pyl_native_release() is still to come. */
void pyl_native_abandon(struct pyl_loop *loop);

/* For the loop's tp_traverse: what its calls own. */
int pyl_native_traverse(struct pyl_loop *loop, visitproc visit, void *arg);

#endif
