/*
 * stress_signal.c - a thread takes signals as fast as it can while sources come and go: a handler
 * never touches a source that is gone, and a watched signal always arrives.
 */
#include "io/signal.h"
#include "stress.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>

enum { ROUNDS = 300 };

static struct pyl_worker worker;
static _Atomic bool is_over;
static bool has_signal;
static bool is_closed;

static void
on_signal(struct pyl_signal_source *source, int number)
{
    STRESS_CHECK(number == SIGUSR1);
    has_signal = true;
}

static void
on_closed(struct pyl_signal_source *source)
{
    is_closed = true;
}

static const struct pyl_signal_ops ops = {.on_signal = on_signal, .on_closed = on_closed};

static void *
storm(void *argument)
{
    unsigned long count = 0;
    while (!atomic_load(&is_over)) {
        (void)pthread_kill(pthread_self(), SIGUSR1);
        count++;
    }
    printf("signal: %lu signals, %d sources\n", count, ROUNDS);
    return NULL;
}

int
main(void)
{
    pthread_t thread;
    signal(SIGUSR1, SIG_IGN); /* between two sources */
    stress_open(&worker);
    STRESS_CHECK(pthread_create(&thread, NULL, storm, NULL) == 0);
    for (int round = 0; round < ROUNDS; round++) {
        struct pyl_signal_source *source = calloc(1, sizeof(*source));
        STRESS_CHECK(source != NULL);
        has_signal = false;
        is_closed = false;
        STRESS_CHECK(pyl_signal_source_init(source, &worker, &ops) == 0);
        STRESS_CHECK(pyl_signal_watch(source, SIGUSR1) == 0);
        while (!has_signal) {
            STRESS_CHECK(pyl_worker_turn(&worker, true) == 0);
        }
        pyl_signal_source_close(source);
        while (!is_closed) {
            STRESS_CHECK(pyl_worker_turn(&worker, true) == 0);
        }
        memset(source, 0xa5, sizeof(*source));
        free(source);
    }
    atomic_store(&is_over, true);
    STRESS_CHECK(pthread_join(thread, NULL) == 0);
    pyl_worker_fini(&worker);
    return 0;
}
