/*
 * idle.c - the set of sleepers and the count of searchers.
 *
 * Invariant, when the lock is free: a worker is in `sleepers`, or counted in `searching`, or
 * neither, never both; `watchers` are some of the searching ones.
 */
#include "sched/idle.h"

#include "base/check.h"

int
pyl_idle_init(struct pyl_idle *idle, uint32_t worker_count)
{
    PYL_CHECK(worker_count >= 1 && worker_count <= PYL_IDLE_WORKERS_MAX);
    *idle = (struct pyl_idle){.worker_count = worker_count};
    return -pthread_mutex_init(&idle->lock, NULL);
}

void
pyl_idle_fini(struct pyl_idle *idle)
{
    (void)pthread_mutex_destroy(&idle->lock);
}

/* Exact under the lock; without it see pyl_idle_claim(). */
static uint32_t
searching_of(const struct pyl_idle *idle)
{
    return atomic_load_explicit(&idle->searching, memory_order_seq_cst);
}

static uint64_t
sleepers_of(const struct pyl_idle *idle)
{
    return atomic_load_explicit(&idle->sleepers, memory_order_seq_cst);
}

/* Under the lock. */
static void
set_searching(struct pyl_idle *idle, uint32_t count)
{
    atomic_store_explicit(&idle->searching, count, memory_order_seq_cst);
}

static void
set_sleepers(struct pyl_idle *idle, uint64_t mask)
{
    atomic_store_explicit(&idle->sleepers, mask, memory_order_seq_cst);
}

bool
pyl_idle_begin_search(struct pyl_idle *idle)
{
    uint32_t limit = (idle->worker_count + 1) / 2;
    if (searching_of(idle) >= limit) {
        return false;
    }
    (void)pthread_mutex_lock(&idle->lock);
    uint32_t searching = searching_of(idle);
    if (searching < limit) {
        set_searching(idle, searching + 1);
    }
    (void)pthread_mutex_unlock(&idle->lock);
    return searching < limit;
}

bool
pyl_idle_end_search(struct pyl_idle *idle)
{
    (void)pthread_mutex_lock(&idle->lock);
    uint32_t searching = searching_of(idle);
    PYL_DCHECK(searching > 0);
    set_searching(idle, searching - 1);
    (void)pthread_mutex_unlock(&idle->lock);
    return searching == 1;
}

bool
pyl_idle_enter(struct pyl_idle *idle, uint32_t worker, bool is_searching)
{
    (void)pthread_mutex_lock(&idle->lock);
    /* In either order: whoever loads between the two is covered by the second look after both. */
    set_sleepers(idle, sleepers_of(idle) | UINT64_C(1) << worker);
    uint32_t searching = searching_of(idle);
    if (is_searching) {
        PYL_DCHECK(searching > 0);
        searching--;
        set_searching(idle, searching);
    }
    (void)pthread_mutex_unlock(&idle->lock);
    return searching == 0;
}

bool
pyl_idle_leave(struct pyl_idle *idle, uint32_t worker)
{
    (void)pthread_mutex_lock(&idle->lock);
    uint64_t bit = UINT64_C(1) << worker;
    uint64_t sleepers = sleepers_of(idle);
    bool is_claimed = (sleepers & bit) == 0;
    if (!is_claimed) {
        set_sleepers(idle, sleepers & ~bit);
    }
    (void)pthread_mutex_unlock(&idle->lock);
    return is_claimed;
}

void
pyl_idle_watch(struct pyl_idle *idle, uint32_t worker)
{
    uint64_t bit = UINT64_C(1) << worker;
    (void)atomic_fetch_or_explicit(&idle->watchers, bit, memory_order_seq_cst);
}

void
pyl_idle_unwatch(struct pyl_idle *idle, uint32_t worker)
{
    uint64_t bit = UINT64_C(1) << worker;
    (void)atomic_fetch_and_explicit(&idle->watchers, ~bit, memory_order_seq_cst);
}

static bool
claim_sleeper(struct pyl_idle *idle, uint32_t *ret_worker)
{
    (void)pthread_mutex_lock(&idle->lock);
    uint64_t sleepers = sleepers_of(idle);
    bool is_claimed = searching_of(idle) == 0 && sleepers != 0;
    if (is_claimed) {
        *ret_worker = (uint32_t)__builtin_ctzll(sleepers);
        set_searching(idle, 1);
        set_sleepers(idle, sleepers & (sleepers - 1));
    }
    (void)pthread_mutex_unlock(&idle->lock);
    return is_claimed;
}

bool
pyl_idle_claim(struct pyl_idle *idle, bool is_urgent, uint32_t *ret_worker)
{
    /* The last searcher looks at everything once more before it sleeps. */
    if (searching_of(idle) == 0) {
        return sleepers_of(idle) != 0 && claim_sleeper(idle, ret_worker);
    }
    uint64_t watchers = is_urgent ? atomic_load_explicit(&idle->watchers, memory_order_seq_cst) : 0;
    if (watchers != 0) {
        *ret_worker = (uint32_t)__builtin_ctzll(watchers);
    }
    return watchers != 0;
}
