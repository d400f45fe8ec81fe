/*
 * module.c - creates `pyloop._core`: state, imports from asyncio, types.
 *
 * Knows no type from inside: each has a pyl_*_add() in its own file and a line in `add_functions`.
 */
#include "python/module.h"

#include "base/check.h"
#include "python/loop_internal.h"
#include "sched/job.h"

#include <string.h>

static struct PyModuleDef module_def;

typedef int add_fn(PyObject *module, struct pyl_state *state);

/* In order; a type used as a base stands before the types derived from it. */
static add_fn *const add_functions[] = {
    pyl_handle_types_add,   pyl_poll_type_add,        pyl_loop_type_add,
    pyl_transport_type_add, pyl_listener_type_add,    pyl_future_types_add,
    pyl_task_type_add,      pyl_proxy_type_add,       pyl_spawned_type_add,
    pyl_handover_type_add,

    pyl_reader_type_add,    pyl_reader_read_type_add, pyl_reader_protocol_type_add,
    pyl_writer_types_add,   pyl_http_types_add,       pyl_datagram_type_add,

    pyl_lent_type_add,      pyl_pipe_types_add,       pyl_capsule_add,
};

struct pyl_state *
pyl_state_of_module(PyObject *module)
{
    return PyModule_GetState(module);
}

struct pyl_state *
pyl_state_of_type(PyTypeObject *type)
{
    PyObject *module = PyType_GetModuleByDef(type, &module_def);
    PYL_CHECK(module != NULL);
    return PyModule_GetState(module);
}

int
pyl_add_type(PyObject *module, PyType_Spec *spec, PyObject *bases, bool is_public,
             PyTypeObject **ret_type)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, bases);
    if (type == NULL) {
        return -1;
    }
    if (is_public && PyModule_AddType(module, (PyTypeObject *)type) < 0) {
        Py_DECREF(type);
        return -1;
    }
    *ret_type = (PyTypeObject *)type;
    return 0;
}

void
pyl_state_add_job_kind_with_drop(struct pyl_state *state, pyl_job_fn *run, size_t offset,
                                 pyl_job_fn *drop)
{
    PYL_CHECK(state->job_kind_count < PYL_JOB_KINDS_MAX);
    state->job_kinds[state->job_kind_count++] = (struct pyl_job_kind){run, offset, drop};
}

void
pyl_state_add_job_kind(struct pyl_state *state, pyl_job_fn *run, size_t offset)
{
    pyl_state_add_job_kind_with_drop(state, run, offset, NULL);
}

static const struct pyl_job_kind *
job_kind(const struct pyl_state *state, const struct pyl_job *job)
{
    for (int i = 0; i < state->job_kind_count; i++) {
        if (state->job_kinds[i].run == job->run) {
            return &state->job_kinds[i];
        }
    }
    return NULL;
}

static PyObject *
job_owner(const struct pyl_job_kind *kind, struct pyl_job *job)
{
    return (PyObject *)(void *)((char *)job - kind->offset);
}

PyObject *
pyl_state_job_owner(struct pyl_state *state, struct pyl_job *job)
{
    const struct pyl_job_kind *kind = job_kind(state, job);
    return kind != NULL ? job_owner(kind, job) : NULL;
}

void
pyl_state_drop_job(struct pyl_state *state, struct pyl_job *job)
{
    const struct pyl_job_kind *kind = job_kind(state, job);
    if (kind == NULL) {
        return;
    }
    if (kind->drop != NULL) {
        kind->drop(job);
    } else {
        Py_DECREF(job_owner(kind, job));
    }
}

static PyObject *
import_attribute(const char *module_name, const char *attribute, bool is_required)
{
    PyObject *module = PyImport_ImportModule(module_name);
    if (module == NULL) {
        return NULL;
    }
    PyObject *value = PyObject_GetAttrString(module, attribute);
    Py_DECREF(module);
    if (value == NULL && !is_required && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear();
    }
    return value;
}

static int
state_init(struct pyl_state *state)
{
    pyl_list_init(&state->loops);
#define PYL_STRING_INIT(name)                            \
    state->str.name = PyUnicode_InternFromString(#name); \
    if (state->str.name == NULL) {                       \
        return -1;                                       \
    }
    PYL_STRINGS(PYL_STRING_INIT)
#undef PYL_STRING_INIT
#define PYL_IMPORT_INIT(name, module, attribute, is_required)       \
    state->name = import_attribute(module, attribute, is_required); \
    if (state->name == NULL && PyErr_Occurred()) {                  \
        return -1;                                                  \
    }
    PYL_IMPORTS(PYL_IMPORT_INIT)
#undef PYL_IMPORT_INIT
    state->debug_names = Py_BuildValue("(s)", "debug");
    state->empty_dict = PyDict_New();
    return state->debug_names != NULL && state->empty_dict != NULL ? 0 : -1;
}

static int
module_exec(PyObject *module)
{
    struct pyl_state *state = pyl_state_of_module(module);
    if (state_init(state) < 0 ||
        PyModule_AddStringConstant(module, "__version__", PYL_VERSION) < 0) {
        return -1;
    }
    for (size_t i = 0; i < sizeof(add_functions) / sizeof(add_functions[0]); i++) {
        if (add_functions[i](module, state) < 0) {
            return -1;
        }
    }
    return 0;
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    struct pyl_state *state = pyl_state_of_module(module);
#define PYL_VISIT_TYPE(name) Py_VISIT(state->name);
    PYL_TYPES(PYL_VISIT_TYPE)
#undef PYL_VISIT_TYPE
#define PYL_VISIT_IMPORT(name, module, attribute, is_required) Py_VISIT(state->name);
    PYL_IMPORTS(PYL_VISIT_IMPORT)
#undef PYL_VISIT_IMPORT
    int status = pyl_task_state_traverse(&state->tasks, visit, arg);
    return status != 0 ? status : pyl_http_state_traverse(&state->http, visit, arg);
}

static int
module_clear(PyObject *module)
{
    struct pyl_state *state = pyl_state_of_module(module);
    pyl_freelists_close(&state->freelists); /* before the types go */
    pyl_http_state_clear(&state->http);
    pyl_task_state_clear(&state->tasks);
#define PYL_CLEAR_STRING(name) Py_CLEAR(state->str.name);
    PYL_STRINGS(PYL_CLEAR_STRING)
#undef PYL_CLEAR_STRING
#define PYL_CLEAR_TYPE(name) Py_CLEAR(state->name);
    PYL_TYPES(PYL_CLEAR_TYPE)
#undef PYL_CLEAR_TYPE
#define PYL_CLEAR_IMPORT(name, module, attribute, is_required) Py_CLEAR(state->name);
    PYL_IMPORTS(PYL_CLEAR_IMPORT)
#undef PYL_CLEAR_IMPORT
    Py_CLEAR(state->debug_names);
    Py_CLEAR(state->empty_dict);
    return 0;
}

static void
module_free(void *module)
{
    (void)module_clear(module);
}

static PyMethodDef module_methods[] = {
    {"_abandon_loops", pyl_loop_abandon_all, METH_NOARGS, NULL},
    {NULL},
};

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    PYL_MODULE_SLOTS{0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "pyloop._core",
    .m_doc = PyDoc_STR("The C half of pyloop."),
    .m_size = sizeof(struct pyl_state),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__core(void);

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&module_def);
}
