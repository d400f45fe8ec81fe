/*
 * compat.h - the differences between CPython versions and builds, and nothing else.
 */
#ifndef PYL_PYTHON_COMPAT_H
#define PYL_PYTHON_COMPAT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <stdbool.h>

/* Members of a PyMemberDef: 3.12 gave them public names, 3.11 has only the old ones. */
#ifndef Py_T_OBJECT_EX
#define Py_T_OBJECT_EX T_OBJECT_EX
#define Py_T_PYSSIZET T_PYSSIZET
#define Py_T_INT T_INT
#define Py_T_UINT T_UINT
#define Py_T_DOUBLE T_DOUBLE
#define Py_T_BOOL T_BOOL
#define Py_T_ULONG T_ULONG
#define Py_READONLY READONLY
#endif

/* A bytes object that nobody else holds gets a size it has room for, and forgets its hash. The
 * hash's name is deprecated for readers; there is no other way to write it. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
static inline void
pyl_bytes_reset(PyObject *bytes, size_t size)
{
    Py_SET_SIZE(bytes, (Py_ssize_t)size);
    ((PyBytesObject *)bytes)->ob_shash = -1;
    PyBytes_AS_STRING(bytes)[size] = '\0';
}
#pragma GCC diagnostic pop

/* Does the interpreter look into an instance's __dict__ to find a method as long as there is none?
 * See instance_dict.h. */
#define PYL_SHARES_EMPTY_DICT (PY_VERSION_HEX < 0x030C0000)

/* asyncio's Server: _attach(transport) and _detach(transport) since 3.13, without an argument
 * before. */
#define PYL_SERVER_KNOWS_TRANSPORTS (PY_VERSION_HEX >= 0x030D0000)

/* Per-object locks: free-threaded builds have them, elsewhere the GIL is the lock. */
#ifndef Py_BEGIN_CRITICAL_SECTION
#define Py_BEGIN_CRITICAL_SECTION(object) {
#define Py_END_CRITICAL_SECTION() }
#define Py_BEGIN_CRITICAL_SECTION2(a, b) {
#define Py_END_CRITICAL_SECTION2() }
#endif

/*
 * A lock for C state that Python threads share. On GIL builds holding the GIL is the lock and these
 * cost nothing, so code between lock and unlock must neither run Python nor release the GIL.
 */
#ifdef Py_GIL_DISABLED
#define PYL_FREE_THREADED 1
struct pyl_gil_lock {
    PyMutex mutex;
};
static inline void
pyl_gil_lock_acquire(struct pyl_gil_lock *lock)
{
    PyMutex_Lock(&lock->mutex);
}
static inline void
pyl_gil_lock_release(struct pyl_gil_lock *lock)
{
    PyMutex_Unlock(&lock->mutex);
}

/* An object in its tp_dealloc: this thread made it, and its reference count was never merged. */
static inline bool
pyl_is_born_here(PyObject *object)
{
    return _Py_IsOwnedByCurrentThread(object);
}
#else
#define PYL_FREE_THREADED 0
struct pyl_gil_lock {
    char unused;
};
static inline void
pyl_gil_lock_acquire(struct pyl_gil_lock *lock)
{
    (void)lock;
}
static inline void
pyl_gil_lock_release(struct pyl_gil_lock *lock)
{
    (void)lock;
}

static inline bool
pyl_is_born_here(PyObject *object)
{
    (void)object;
    return true;
}
#endif

/* After fork in the child: whoever held the lock is gone. */
static inline void
pyl_gil_lock_reset(struct pyl_gil_lock *lock)
{
    *lock = (struct pyl_gil_lock){0};
}

#if PY_VERSION_HEX < 0x030C0000
/* New reference to the current exception, cleared; NULL when there is none. */
static inline PyObject *
PyErr_GetRaisedException(void)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (type == NULL) {
        return NULL;
    }
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL) {
        PyException_SetTraceback(value, traceback);
        Py_DECREF(traceback);
    }
    Py_DECREF(type);
    return value;
}

/* Steals the exception; NULL: none. */
static inline void
PyErr_SetRaisedException(PyObject *exception)
{
    if (exception == NULL) {
        PyErr_Clear();
        return;
    }
    PyObject *type = Py_NewRef((PyObject *)Py_TYPE(exception));
    PyErr_Restore(type, exception, PyException_GetTraceback(exception));
}
#endif

#if PY_VERSION_HEX < 0x030D0000
static inline bool
pyl_is_finalizing(void)
{
    return _Py_IsFinalizing();
}
#else
static inline bool
pyl_is_finalizing(void)
{
    return Py_IsFinalizing();
}
#endif

/* asyncio's datagrams: can an empty one be sent, and what does a queued one count for beside its
 * bytes. */
#if PY_VERSION_HEX < 0x030D0000
enum { PYL_SENDS_EMPTY_DATAGRAMS = 0, PYL_DATAGRAM_OVERHEAD = 0 };
#else
enum { PYL_SENDS_EMPTY_DATAGRAMS = 1, PYL_DATAGRAM_OVERHEAD = 8 };
#endif

/* The __dict__ of a heap type: new reference. */
static inline PyObject *
pyl_type_dict(PyTypeObject *type)
{
#if PY_VERSION_HEX < 0x030C0000
    return Py_NewRef(type->tp_dict);
#else
    return PyType_GetDict(type);
#endif
}

/* Takes the key out: its value (new reference), or NULL, with an exception only if something went
 * wrong. */
static inline PyObject *
pyl_dict_pop(PyObject *dict, PyObject *key)
{
#if PY_VERSION_HEX < 0x030D0000
    PyObject *none = Py_None;
    PyObject *value = _PyDict_Pop(dict, key, none);
    if (value == none) {
        Py_CLEAR(value);
    }
    return value;
#else
    PyObject *value;
    (void)PyDict_Pop(dict, key, &value);
    return value;
#endif
}

/* Puts back what PyErr_GetRaisedException() gave, NULL included. Steals it. */
static inline void
pyl_restore_exception(PyObject *exception)
{
    if (exception != NULL) {
        PyErr_SetRaisedException(exception);
    }
}

/* The object a weak reference refers to (new reference), or NULL: without an exception if it is
 * gone. */
static inline PyObject *
pyl_weakref_get(PyObject *ref)
{
#if PY_VERSION_HEX < 0x030D0000
    PyObject *object = PyWeakref_GetObject(ref);
    return object == NULL || Py_IsNone(object) ? NULL : Py_NewRef(object);
#else
    PyObject *object;
    (void)PyWeakref_GetRef(ref, &object);
    return object;
#endif
}

/* Whether `context` is the one this thread has entered last. */
static inline bool
pyl_context_is_current(PyObject *context)
{
    return PyThreadState_Get()->context == context;
}

/* Whether this thread's context has no values, so that a copy of it is a new context. */
static inline bool
pyl_context_is_empty(void)
{
    PyObject *context = PyThreadState_Get()->context;
    return context == NULL || PyMapping_Size(context) == 0;
}

/* Whether the value that Python code hands to a setter of ours is the result of an expression that
 * nobody else has. From 3.14 on a local variable is lent: its one reference is the variable's. */
static inline bool
pyl_is_temporary(PyObject *value)
{
#if PY_VERSION_HEX >= 0x030E0000
    return PyUnstable_Object_IsUniqueReferencedTemporary(value);
#else
    return Py_REFCNT(value) == 1;
#endif
}

#if PY_VERSION_HEX < 0x030D0000
static inline int
PyObject_GetOptionalAttr(PyObject *object, PyObject *name, PyObject **ret)
{
    return _PyObject_LookupAttr(object, name, ret);
}

static inline int
PyModule_Add(PyObject *module, const char *name, PyObject *value)
{
    int status = PyModule_AddObjectRef(module, name, value);
    Py_XDECREF(value);
    return status;
}
#endif

/* Rows of a module's slots that not every version knows: a GIL of its own per interpreter (3.12),
 * none at all (3.13). */
#if PY_VERSION_HEX >= 0x030D0000
#define PYL_MODULE_SLOTS                                                  \
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED}, \
        {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#elif PY_VERSION_HEX >= 0x030C0000
#define PYL_MODULE_SLOTS {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#else
#define PYL_MODULE_SLOTS
#endif

#endif
