/*
 * park.pml - the park word of src/sched/worker.c with the inbox of src/base/inbox.h: posters push and
 * exchange the word, the owner turns, drains and sleeps. When nothing can move any more all that was
 * posted has run: no wake-up is lost. No sleep has more than one wake-up written for it.
 *
 * BUG_NO_EXCHANGE: a poster writes a wake-up only if it sees SLEEPING, and does not leave NOTIFIED.
 * BUG_NOTIFY_FIRST: a poster changes the word before it pushes.
 * BUG_STORE_SLEEPING: the owner falls asleep without looking whether it was notified.
 * BUG_DRAIN_FIRST: after the wait the owner takes the inbox before it becomes RUNNING.
 * BUG_ALWAYS_WRITE: every poster writes a wake-up.
 */
#define POSTERS 2
#ifndef POSTS
#define POSTS 2 /* of each poster */
#endif
#ifndef EVENTS
#define EVENTS 2 /* waits that end for another reason: an event, a timer */
#endif
#define TOTAL (POSTERS * POSTS)

mtype = { RUNNING, SLEEPING, NOTIFIED };

mtype park = RUNNING;
byte inbox;       /* pushed and not taken */
byte ready;       /* taken and not run */
byte done;
bool is_signalled; /* the eventfd: keeps what was written until a wait looks */
byte writers;      /* posters that write a wake-up for the owner's latest sleep */
byte events = EVENTS;

/* Read-modify-write of the word, then the eventfd: others may act in between. */
inline wake()
{
    d_step {
        was_asleep = park == SLEEPING;
#ifdef BUG_ALWAYS_WRITE
        was_asleep = true;
#endif
#ifndef BUG_NO_EXCHANGE
        park = NOTIFIED;
#endif
        writers = writers + was_asleep;
        assert(writers <= 1)
    };
    if
    :: was_asleep -> is_signalled = true
    :: else
    fi
}

proctype poster()
{
    byte i;
    bool was_asleep;
    do
    :: i == POSTS -> break
    :: else ->
#ifdef BUG_NOTIFY_FIRST
        wake();
        inbox++;
#else
        inbox++;
        wake();
#endif
        atomic { was_asleep = false; i++ }
    od
}

inline become_running() { park = RUNNING }

inline drain_inbox()
{
    d_step { ready = ready + inbox; inbox = 0 }
}

proctype owner()
{
    bool is_asleep;
turn:
    if /* a relaxed load, which may see less than there is */
    :: inbox > 0 -> become_running(); drain_inbox()
    :: true
    fi;
    if
    :: ready > 0 -> goto work /* only polls */
    :: else
    fi;
#ifdef BUG_STORE_SLEEPING
    d_step { park = SLEEPING; is_asleep = true; writers = 0 };
#else
    d_step {
        is_asleep = park == RUNNING;
        if
        :: is_asleep -> park = SLEEPING; writers = 0
        :: else
        fi
    };
#endif
    if
    :: is_asleep ->
end_wait:
        if
        :: is_signalled -> is_signalled = false
        :: events > 0 -> events--
        fi;
#ifdef BUG_DRAIN_FIRST
        drain_inbox();
        become_running()
#else
        become_running();
        drain_inbox()
#endif
    :: else ->
        become_running();
        drain_inbox()
    fi;
work:
    atomic { done = done + ready; ready = 0; is_asleep = false };
    goto turn
}

/* Runs when nothing else can. */
active proctype monitor()
{
end_monitor:
    timeout -> assert(done == TOTAL)
}

init
{
    byte i;
    atomic {
        run owner();
        do
        :: i == POSTERS -> break
        :: else -> run poster(); i++
        od
    }
}
