/*
 * world.c - sets a world up from its seed, turns its worker until everything has ended, and checks.
 */
#include "world.h"

#include "base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Virtual time is free, so a run that needs this many turns is stuck. */
enum { TURNS_MAX = 2000000 };

uint64_t world_seed;

void
world_fail(const char *file, int line, const char *what)
{
    fprintf(stderr, "FAILED: seed %llu: %s:%d: %s\n", (unsigned long long)world_seed, file, line,
            what);
    abort();
}

uint32_t
world_random(struct world *world, uint32_t bound)
{
    uint64_t z = world->random_state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (uint32_t)((z ^ (z >> 31)) >> 32) % bound;
}

static int64_t
now_ns(struct world *world)
{
    return pyl_reactor_now_ns(&world->worker.reactor);
}

/* ---- timers ---- */

static void
run_clock(struct pyl_job *job)
{
    struct alarm_clock *clock = PYL_CONTAINER_OF(job, struct alarm_clock, timer.job);
    struct world *world = clock->world;
    WORLD_CHECK(now_ns(world) >= clock->deadline_ns);
    WORLD_CHECK(!clock->is_stopped);
    WORLD_CHECK(!clock->timer.is_armed);
    clock->fired++;
    if (world->last_clock != NULL) {
        const struct alarm_clock *last = world->last_clock;
        WORLD_CHECK(last->deadline_ns < clock->deadline_ns ||
                    (last->deadline_ns == clock->deadline_ns && last->order < clock->order));
    }
    world->last_clock = clock;
    /* Sometimes stops another one. */
    struct alarm_clock *other = &world->clocks[world_random(world, world->clock_count)];
    if (other->timer.is_armed && world_random(world, 4) == 0) {
        pyl_timer_stop(&world->worker, &other->timer);
        other->is_stopped = true;
    }
}

static void
start_clocks(struct world *world)
{
    world->clock_count = 1 + world_random(world, CLOCKS_MAX);
    int64_t start_ns = now_ns(world) + PYL_NS_PER_US;
    for (uint32_t i = 0; i < world->clock_count; i++) {
        struct alarm_clock *clock = &world->clocks[i];
        clock->world = world;
        clock->order = i;
        clock->timer.job.run = run_clock;
        clock->deadline_ns = start_ns + world_random(world, 40) * 50 * PYL_NS_PER_US;
        WORLD_CHECK(pyl_timer_start(&world->worker, &clock->timer, clock->deadline_ns) == 0);
    }
}

/* ---- posts from outside ---- */

static void
run_post(struct pyl_job *job)
{
    struct post *post = PYL_CONTAINER_OF(job, struct post, job);
    struct world *world = post->world;
    WORLD_CHECK(post->posted == 1);
    post->run++;
    WORLD_CHECK(post->order == world->posts_run); /* in the order of posting */
    world->posts_run++;
}

/* Runs inside a wait, where another thread would. */
static void
post_from_outside(struct pyl_reactor *reactor, void *user)
{
    struct post *post = user;
    post->order = post->world->posts_posted++;
    post->posted++;
    pyl_worker_post_remote(&post->world->worker, &post->job);
}

static void
start_posts(struct world *world)
{
    world->post_count = world_random(world, POSTS_MAX + 1);
    for (uint32_t i = 0; i < world->post_count; i++) {
        struct post *post = &world->posts[i];
        post->world = world;
        post->job.run = run_post;
        int64_t when_ns = now_ns(world) + world_random(world, 30) * 100 * PYL_NS_PER_US;
        WORLD_CHECK(pyl_sim_at(&world->worker.reactor, when_ns, post_from_outside, post) == 0);
    }
}

/* ---- connections ---- */

static struct link *
pop_arrival(struct world *world)
{
    WORLD_CHECK(world->arrival_count > 0);
    struct link *link = world->arrivals[0];
    world->arrival_count--;
    memmove(world->arrivals, world->arrivals + 1, world->arrival_count * sizeof(link));
    return link;
}

static void
on_accept(struct pyl_listener *listener, int fd)
{
    struct world *world = PYL_CONTAINER_OF(listener, struct world, listener);
    world->shortage_ns = 0;
    actor_open(&pop_arrival(world)->ends[1], fd);
    if (world_random(world, 4) == 0) {
        pyl_listener_stop(listener);
        pyl_listener_start(listener);
    }
}

static void
on_listener_error(struct pyl_listener *listener, int error, bool will_retry)
{
    struct world *world = PYL_CONTAINER_OF(listener, struct world, listener);
    WORLD_CHECK(will_retry);
    WORLD_CHECK(world->shortage_ns == 0 ||
                now_ns(world) - world->shortage_ns >= PYL_LISTENER_RETRY_NS);
    world->shortage_ns = now_ns(world);
    if (error == -ENOMEM) { /* the simulation has thrown this connection away */
        pop_arrival(world)->is_clean = false;
    } else {
        WORLD_CHECK(error == -EMFILE);
    }
}

static void
on_listener_closed(struct pyl_listener *listener)
{
    struct world *world = PYL_CONTAINER_OF(listener, struct world, listener);
    WORLD_CHECK(world->is_listener_open);
    world->is_listener_open = false;
}

static const struct pyl_listener_ops listener_ops = {
    .on_accept = on_accept,
    .on_error = on_listener_error,
    .on_closed = on_listener_closed,
};

/* The owner may free a connect in its callback. */
static void
poison_connect(struct pyl_connect *connect)
{
    memset(connect, 0xa5, sizeof(*connect));
}

static void
on_connected(struct pyl_connect *connect, int error)
{
    struct link *link = PYL_CONTAINER_OF(connect, struct link, connect);
    struct world *world = link->ends[0].world;
    WORLD_CHECK(link->is_connecting);
    link->is_connecting = false;
    poison_connect(connect);
    if (error == 0) {
        actor_open(&link->ends[0], link->connect_fd);
        return;
    }
    /* A dropped connection may be reset before its connecting was noticed. */
    WORLD_CHECK(error == -ECANCELED || error == -ETIMEDOUT);
    WORLD_CHECK(!link->is_clean || world->worker.is_closing);
    pyl_reactor_close_now(&world->worker.reactor, link->connect_fd);
}

static void
connect_link(struct world *world, struct link *link)
{
    struct pyl_reactor *reactor = &world->worker.reactor;
    int64_t timeout_ns = link->is_clean ? 0 : world_random(world, 60) * PYL_NS_PER_US;
    link->connect_fd = pyl_sim_socket(reactor);
    WORLD_CHECK(link->connect_fd >= 0);
    link->is_connecting = true;
    world->arrivals[world->arrival_count++] = link;
    WORLD_CHECK(pyl_connect_start(&link->connect, &world->worker, link->connect_fd,
                                  &world->listen_address, timeout_ns, on_connected) == 0);
    if (!link->is_clean && world_random(world, 4) == 0) {
        pyl_connect_cancel(&link->connect);
    }
}

static void
pair_link(struct world *world, struct link *link)
{
    int fds[2];
    uint32_t buffer_size = world_random(world, 2) == 0 ? 0 : 1 + world_random(world, 8000);
    WORLD_CHECK(pyl_sim_pair(&world->worker.reactor, buffer_size, fds) == 0);
    actor_open(&link->ends[0], fds[0]);
    actor_open(&link->ends[1], fds[1]);
}

static void
start_links(struct world *world)
{
    world->link_count = 1 + world_random(world, LINKS_MAX);
    for (uint32_t i = 0; i < world->link_count; i++) {
        struct link *link = &world->links[i];
        link->is_clean = world_random(world, 2) == 0;
        actor_prepare(&link->ends[0], world, link, 2 * i);
        actor_prepare(&link->ends[1], world, link, 2 * i + 1);
        if (world_random(world, 2) == 0) {
            pair_link(world, link);
        } else {
            connect_link(world, link);
        }
    }
}

static void
on_hopeless(struct pyl_connect *connect, int error)
{
    struct world *world = PYL_CONTAINER_OF(connect, struct world, hopeless);
    WORLD_CHECK(!world->is_hopeless_done);
    world->is_hopeless_done = true;
    poison_connect(connect);
    if (!world->worker.is_closing) {
        WORLD_CHECK(error == -ETIMEDOUT);
        WORLD_CHECK(now_ns(world) >= world->hopeless_deadline_ns);
    }
    pyl_reactor_close_now(&world->worker.reactor, world->hopeless_fd);
}

static void
start_hopeless(struct world *world)
{
    struct pyl_sockaddr silent;
    pyl_sim_silent_address(&silent.u.storage, &silent.size);
    int64_t timeout_ns = (1 + world_random(world, 3000)) * PYL_NS_PER_US;
    world->hopeless_fd = pyl_sim_socket(&world->worker.reactor);
    WORLD_CHECK(world->hopeless_fd >= 0);
    world->hopeless_deadline_ns = now_ns(world) + timeout_ns;
    WORLD_CHECK(pyl_connect_start(&world->hopeless, &world->worker, world->hopeless_fd, &silent,
                                  timeout_ns, on_hopeless) == 0);
}

/* ---- a run ---- */

static void
lift_limit(struct pyl_reactor *reactor, void *user)
{
    pyl_sim_limit_fds(reactor, false);
}

static void
set_limit(struct pyl_reactor *reactor, void *user)
{
    pyl_sim_limit_fds(reactor, true);
}

/* Descriptors run out for a while. */
static void
start_shortage(struct world *world)
{
    if (world_random(world, 4) == 0) {
        struct pyl_reactor *reactor = &world->worker.reactor;
        int64_t end_ns = now_ns(world) + world_random(world, 5000) * PYL_NS_PER_US;
        WORLD_CHECK(pyl_sim_at(reactor, now_ns(world), set_limit, NULL) == 0);
        WORLD_CHECK(pyl_sim_at(reactor, end_ns, lift_limit, NULL) == 0);
    }
}

static void
world_open(struct world *world)
{
    struct pyl_reactor_options options = {
        .backend = "sim",
        .sim_seed = world->seed,
        .events_max = world_random(world, 3) == 0 ? 1 + world_random(world, 8) : 0,
    };
    WORLD_CHECK(pyl_worker_init(&world->worker, &options, NULL, NULL, 0) == 0);
    struct pyl_reactor *reactor = &world->worker.reactor;
    struct pyl_sim_faults faults = {0};
    if (world_random(world, 2) == 0) {
        faults.starve = (uint8_t)world_random(world, 100);
        faults.early_wait = (uint8_t)world_random(world, 100);
        faults.no_memory = (uint8_t)world_random(world, 60);
        faults.reset = world_random(world, 3) == 0 ? (uint8_t)(1 + world_random(world, 5)) : 0;
    }
    world->is_lossy = faults.reset > 0;
    pyl_sim_set_faults(reactor, &faults);
    world->listen_fd =
        pyl_sim_listen(reactor, &world->listen_address.u.storage, &world->listen_address.size);
    WORLD_CHECK(world->listen_fd >= 0);
    pyl_listener_init(&world->listener, &world->worker, world->listen_fd, &listener_ops);
    world->is_listener_open = true;
    pyl_listener_start(&world->listener);
    start_links(world);
    start_hopeless(world);
    start_clocks(world);
    start_posts(world);
    start_shortage(world);
}

static bool
is_link_over(const struct link *link)
{
    return !link->is_connecting && (!link->ends[0].is_open || link->ends[0].is_closed) &&
           (!link->ends[1].is_open || link->ends[1].is_closed);
}

static bool
is_over(const struct world *world)
{
    for (uint32_t i = 0; i < world->link_count; i++) {
        if (!is_link_over(&world->links[i])) {
            return false;
        }
    }
    for (uint32_t i = 0; i < world->clock_count; i++) {
        if (world->clocks[i].timer.is_armed) {
            return false;
        }
    }
    return world->arrival_count == 0 && world->is_hopeless_done &&
           world->posts_run == world->post_count;
}

static void
turn(struct world *world)
{
    struct pyl_worker *worker = &world->worker;
    uint32_t way = world_random(world, 16);
    WORLD_CHECK(pyl_worker_turn(worker, way != 0) == 0);
    if (way == 1) {
        pyl_worker_flush_deferred(worker);
    }
    WORLD_CHECK(atomic_load(&worker->park) != PYL_WORKER_SLEEPING);
}

static void
check_end(struct world *world)
{
    for (uint32_t i = 0; i < world->link_count; i++) {
        actor_check_end(&world->links[i].ends[0]);
        actor_check_end(&world->links[i].ends[1]);
    }
    for (uint32_t i = 0; i < world->clock_count; i++) {
        WORLD_CHECK(world->clocks[i].fired == (world->clocks[i].is_stopped ? 0 : 1));
    }
    WORLD_CHECK(pyl_sim_fd_count(&world->worker.reactor) == 0);
    WORLD_CHECK(world->worker.reactor.active_count == 0);
    WORLD_CHECK(world->worker.timers.count == 0);
    WORLD_CHECK(world->worker.deferred.count == 0);
}

static void
run_to_the_end(struct world *world)
{
    uint32_t turns = 0;
    while (!is_over(world)) {
        turn(world);
        WORLD_CHECK(++turns < TURNS_MAX);
    }
    pyl_listener_close(&world->listener);
    pyl_reactor_close_now(&world->worker.reactor, world->listen_fd); /* ours again, at once */
    while (world->is_listener_open || world->worker.ready.count > 0) {
        turn(world);
        WORLD_CHECK(++turns < TURNS_MAX);
    }
    check_end(world);
    pyl_worker_fini(&world->worker);
}

/* The worker ends in the middle of everything: no call but release, and all of them. */
static void
run_to_an_early_end(struct world *world)
{
    for (uint32_t turns = world_random(world, 200); turns > 0 && !is_over(world); turns--) {
        turn(world);
    }
    pyl_worker_fini(&world->worker);
    for (uint32_t i = 0; i < 2 * world->link_count; i++) {
        struct actor *actor = &world->links[i / 2].ends[i % 2];
        if (actor->is_open && !actor->is_closed) {
            pyl_stream_dispose(&actor->stream);
            pyl_stream_dispose(&actor->stream);
        }
        WORLD_CHECK(actor->next_release == actor->next_write);
    }
}

void
world_run(uint64_t seed)
{
    static struct world world;
    memset(&world, 0, sizeof(world));
    world_seed = seed;
    world.seed = seed;
    world.random_state = ~seed;
    world_open(&world);
    if (world_random(&world, 8) == 0) {
        run_to_an_early_end(&world);
    } else {
        run_to_the_end(&world);
    }
}
