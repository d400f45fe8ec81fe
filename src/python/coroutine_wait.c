/*
 * coroutine_wait.c - a native task waits for a coroutine: two threads that agree on who may use the
 * task's memory, and on who ends its wait.
 *
 *   WAITING --make, take begin--> IN_CALL --make has returned--> WAITING
 *                                         --the outcome is known--> OVER
 *   WAITING --the task is cancelled--> OVER
 *
 * The task's worker moves from WAITING to OVER, the loop's thread does the rest. Whoever comes to
 * OVER ends the wait; from then on the loop's thread uses neither the task nor `argument`.
 *
 * Tested by tests/python/test_extension.py.
 */
#include "python/coroutine_wait.h"

#include <errno.h>
#include <pthread.h>

#include "api/api.h"
#include "base/alloc.h"
#include "python/outside.h"

enum state { WAITING, IN_CALL, OVER };

struct coroutine_wait {
    struct pyl_coroutine coroutine;
    struct pyl_port_item cancel; /* posted at most once; its port is counted for all */
    _Atomic uint32_t references; /* the task's, the coroutine's and that of `cancel` */
    pyloop_make *make;
    pyloop_take *take;
    void *argument;
    struct pyl_task *task;
    pthread_mutex_t lock;
    enum state state;  /* guarded by lock, as the next one */
    bool is_cancelled; /* the task, in IN_CALL */
};

static void
wait_unref(struct coroutine_wait *wait)
{
    /* Acquire-release: whoever frees it comes after what the others did with it. */
    if (atomic_fetch_sub_explicit(&wait->references, 1, memory_order_acq_rel) == 1) {
        pthread_mutex_destroy(&wait->lock);
        pyl_port_unref(wait->cancel.port);
        pyl_free(wait);
    }
}

static void
release(struct pyl_coroutine *coroutine)
{
    wait_unref(PYL_CONTAINER_OF(coroutine, struct coroutine_wait, coroutine));
}

/* ---- the loop's thread, attached ---- */

/* False: the task does not wait any more. */
static bool
begin_call(struct coroutine_wait *wait)
{
    pthread_mutex_lock(&wait->lock);
    bool is_waiting = wait->state == WAITING;
    if (is_waiting) {
        wait->state = IN_CALL;
    }
    pthread_mutex_unlock(&wait->lock);
    return is_waiting;
}

/* With the lock, which on_outcome() takes before the task goes on: else the task, and its runtime,
 * could end while its worker is still being woken. */
static void
end_wait(struct coroutine_wait *wait, int64_t result)
{
    wait->state = OVER;
    pyl_task_end_wait(wait->task, result);
}

static PyObject *
make(void *argument)
{
    struct coroutine_wait *wait = argument;
    if (!begin_call(wait)) {
        PyErr_SetString(PyExc_RuntimeError, "the native task was cancelled"); /* nobody hears it */
        return NULL;
    }
    PyObject *coroutine = wait->make(wait->argument);
    pthread_mutex_lock(&wait->lock);
    wait->state = WAITING;
    if (wait->is_cancelled) {
        end_wait(wait, -ECANCELED);
    }
    pthread_mutex_unlock(&wait->lock);
    return coroutine;
}

static void
done(void *argument, PyObject *result, PyObject *exception)
{
    struct coroutine_wait *wait = argument;
    /* In the child of a fork there is no worker, and the lock may be anybody's. */
    if (pyl_port_is_abandoned(wait->cancel.port) || !begin_call(wait)) {
        return;
    }
    bool is_closed = result == NULL && exception == NULL;
    int64_t value = is_closed ? -ECANCELED : wait->take(wait->argument, result, exception);
    pthread_mutex_lock(&wait->lock);
    end_wait(wait, value);
    pthread_mutex_unlock(&wait->lock);
}

/* Comes after the run of the coroutine's item: both are posted by the task's worker. */
static void
cancel_coroutine(struct pyl_port_item *item, struct pyl_loop *loop)
{
    struct coroutine_wait *wait = PYL_CONTAINER_OF(item, struct coroutine_wait, cancel);
    PyObject *task = loop != NULL ? Py_XNewRef(wait->coroutine.item.object) : NULL;
    if (task != NULL) { /* else it has ended or was never made */
        PyObject *answer = PyObject_CallMethod(task, "cancel", NULL);
        if (answer == NULL) {
            pyl_loop_report(loop, "Exception in the cancellation of a coroutine", "task", task);
        }
        Py_XDECREF(answer);
        Py_DECREF(task);
    }
    wait_unref(wait);
}

/* ---- the task's worker ---- */

static void
post_cancel(struct coroutine_wait *wait)
{
    (void)atomic_fetch_add_explicit(&wait->references, 1, memory_order_relaxed);
    if (pyl_port_post(&wait->cancel) < 0) {
        wait_unref(wait);
    }
}

static void
on_cancelled(struct pyl_task *task)
{
    struct coroutine_wait *wait = task->waiting.outside.user;
    pthread_mutex_lock(&wait->lock);
    enum state state = wait->state;
    wait->is_cancelled = true;
    if (state == WAITING) {
        wait->state = OVER;
    }
    pthread_mutex_unlock(&wait->lock);
    if (state != OVER) {
        post_cancel(wait);
    }
    if (state == WAITING) {
        pyl_task_complete(task, -ECANCELED);
    }
}

static void
on_outcome(struct pyl_task *task, int64_t result)
{
    struct coroutine_wait *wait = task->waiting.outside.user;
    if (wait != NULL) {
        pthread_mutex_lock(&wait->lock); /* see end_wait() */
        pthread_mutex_unlock(&wait->lock);
        wait_unref(wait);
    }
    pyloop_task_resume(task, result);
}

static struct coroutine_wait *
wait_new(struct pyl_task *task, struct pyloop_port *port)
{
    struct coroutine_wait *wait = pyl_alloc_zero(sizeof(*wait));
    if (wait != NULL) {
        wait->coroutine.make = make;
        wait->coroutine.done = done;
        wait->coroutine.argument = wait;
        wait->coroutine.release = release;
        pyl_port_item_init(&wait->cancel, port);
        wait->cancel.run = cancel_coroutine;
        atomic_init(&wait->references, 2); /* the task's and the coroutine's */
        wait->task = task;
        pthread_mutex_init(&wait->lock, NULL);
    }
    return wait;
}

void
pyl_wait_coroutine(struct pyloop_task *task, struct pyloop_port *port, pyloop_make *make_coroutine,
                   pyloop_take *take, void *argument, pyloop_step *next)
{
    struct pyl_task *base = &task->base;
    task->next = next;
    if (!pyl_task_wait_outside(base, on_cancelled, NULL, on_outcome)) {
        return;
    }
    struct coroutine_wait *wait = wait_new(base, port);
    if (wait == NULL) {
        pyl_task_complete(base, -ENOMEM);
        return;
    }
    wait->make = make_coroutine;
    wait->take = take;
    wait->argument = argument;
    base->waiting.outside.user = wait;
    int rc = pyl_coroutine_start(&wait->coroutine, port);
    if (rc < 0) {
        wait_unref(wait);
        pyl_task_complete(base, rc);
    }
}
