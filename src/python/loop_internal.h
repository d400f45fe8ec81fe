/*
 * loop_internal.h - the parts of the loop to one another: loop_type.c owns the type, loop_run.c
 * runs it, loop_call.c schedules, loop_fd.c watches descriptors.
 */
#ifndef PYL_PYTHON_LOOP_INTERNAL_H
#define PYL_PYTHON_LOOP_INTERNAL_H

#include "python/handle.h"
#include "python/loop.h"

/* loop_type.c */
PyObject *pyl_loop_abandon_all(PyObject *module, PyObject *unused);

/* Closing has two halves, and between them the last ops end: first what is queued and watched is
 * dropped, then what the ops referred to. */
void pyl_loop_detach(struct pyl_loop *loop);
/* See above. */
void pyl_loop_release(struct pyl_loop *loop);

/* task_current.c: the loop's tp_hash. */
Py_hash_t pyl_loop_hash(PyObject *op);

/* loop_run.c */
struct pyl_worker_hooks pyl_loop_hooks(struct pyl_loop *loop);
PyObject *pyl_loop_run(PyObject *self, PyObject *checkpoint);

/* loop_call.c: rows for the method table; see each definition. */
PyObject *pyl_loop_py_call_soon(PyObject *self, PyObject *const *args, Py_ssize_t count,
                                PyObject *names);
PyObject *pyl_loop_py_call_soon_threadsafe(PyObject *self, PyObject *const *args, Py_ssize_t count,
                                           PyObject *names);
PyObject *pyl_loop_py_call_later(PyObject *self, PyObject *const *args, Py_ssize_t count,
                                 PyObject *names);
PyObject *pyl_loop_py_call_at(PyObject *self, PyObject *const *args, Py_ssize_t count,
                              PyObject *names);
PyObject *pyl_loop_py_time(PyObject *self, PyObject *unused);
PyObject *pyl_loop_py_create_future(PyObject *self, PyObject *unused);
PyObject *pyl_loop_py_create_task(PyObject *self, PyObject *const *args, Py_ssize_t count,
                                  PyObject *names);
/* To be called when a run begins: settles makes_tasks and makes_futures for it. */
void pyl_loop_choose_types(struct pyl_loop *loop);
/* loop.time() in seconds, honouring an override; -1.0 with an exception. */
double pyl_loop_now(struct pyl_loop *loop);

/* loop_fd.c */
PyObject *pyl_loop_py_add_reader(PyObject *self, PyObject *const *args, Py_ssize_t count,
                                 PyObject *names);
PyObject *pyl_loop_py_add_writer(PyObject *self, PyObject *const *args, Py_ssize_t count,
                                 PyObject *names);
PyObject *pyl_loop_py_remove_reader(PyObject *self, PyObject *fd);
PyObject *pyl_loop_py_remove_writer(PyObject *self, PyObject *fd);
PyObject *pyl_loop_py_watched(PyObject *self, PyObject *object);
PyObject *pyl_loop_py_check_fd_free(PyObject *self, PyObject *const *args, Py_ssize_t count);
PyObject *pyl_loop_py_poll_start(PyObject *self, PyObject *const *args, Py_ssize_t count);
int pyl_loop_fd_traverse(struct pyl_loop *loop, visitproc visit, void *arg);
/* Before the worker ends: drops every handle and future; the ops end in pyl_worker_fini(). */
void pyl_loop_fd_clear(struct pyl_loop *loop);
/* After the worker ended, when no op is active. */
void pyl_loop_fd_free(struct pyl_loop *loop);

#endif
