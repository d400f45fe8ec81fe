/*
 * idle.pml - src/sched/idle.c, the looks of lane.c and the park word of worker.c: threads outside put
 * work into the injector, workers search, watch and sleep. When nothing can move any more, all work was
 * done: no wake-up is lost. A watcher's timer never fires here, so urgent work does not wait for it.
 *
 * BUG_NO_SECOND_LOOK: the last searcher does not look again before it sleeps.
 * BUG_WATCH: a watcher does not look again before it waits.
 */
#ifndef WORKERS
#define WORKERS 2
#endif
#ifndef PUSHERS
#define PUSHERS 2
#endif
#ifndef ITEMS
#define ITEMS 1 /* of each pusher */
#endif
#define SEARCH_LIMIT ((WORKERS + 1) / 2)

mtype = { RUNNING, SLEEPING, NOTIFIED }; /* park word */
mtype = { AWAKE, SEARCHING, WATCHING, ASLEEP }; /* what pyl_idle knows */

byte injected;
bool locked;
byte searching;
bool sleeps[WORKERS];
bool watches[WORKERS];
mtype park[WORKERS] = RUNNING;
bool signalled[WORKERS];

inline lock() { atomic { !locked -> locked = true } }
inline unlock() { locked = false }

inline wake(worker)
{
    d_step {
        if
        :: park[worker] == SLEEPING -> park[worker] = NOTIFIED; must_signal = true
        :: else -> park[worker] = NOTIFIED; must_signal = false
        fi
    };
    if
    :: must_signal -> atomic { signalled[worker] = true; must_signal = false }
    :: else
    fi
}

/* The lowest index, as the real one does with a mask. */
inline find_sleeper()
{
    d_step {
        found = 0;
        do
        :: found == WORKERS -> break
        :: found < WORKERS && sleeps[found] -> break
        :: else -> found++
        od
    }
}

inline find_watcher()
{
    d_step {
        found = 0;
        do
        :: found == WORKERS -> break
        :: found < WORKERS && watches[found] -> break
        :: else -> found++
        od
    }
}

inline offer(is_urgent)
{
    if
    :: searching == 0 ->
        find_sleeper();
        if
        :: found < WORKERS ->
            lock();
            find_sleeper();
            if
            :: searching == 0 && found < WORKERS ->
                searching = 1;
                sleeps[found] = false
            :: else -> found = WORKERS
            fi;
            unlock();
            if
            :: found < WORKERS -> wake(found)
            :: else
            fi
        :: else
        fi
    :: else ->
        if
        :: is_urgent ->
            find_watcher();
            if
            :: found < WORKERS -> wake(found)
            :: else
            fi
        :: else
        fi
    fi
}

proctype pusher()
{
    byte i, found;
    bool must_signal;
    do
    :: i == ITEMS -> break
    :: else ->
        injected++;
        offer(true);
        atomic { found = 0; i++ }
    od
}

inline settle()
{
    if
    :: mode == ASLEEP ->
        lock();
        if
        :: sleeps[me] -> sleeps[me] = false; mode = AWAKE
        :: else -> mode = SEARCHING /* claimed */
        fi;
        unlock()
    :: mode == WATCHING -> watches[me] = false; mode = SEARCHING
    :: else
    fi
}

inline leave_search()
{
    if
    :: mode == SEARCHING ->
        mode = AWAKE;
        lock();
        searching--;
        is_last = searching == 0;
        unlock();
        if
        :: is_last -> offer(false)
        :: else
        fi
    :: else
    fi
}

proctype worker(byte me)
{
    mtype mode = AWAKE;
    byte found;
    bool must_signal, is_last, has_work;
look:
    atomic { /* old values of variables that are dead here would only make more states */
        found = 0;
        must_signal = false;
        is_last = false;
        has_work = false;
        if
        :: injected > 0 -> injected--; has_work = true
        :: else
        fi
    };
    if
    :: has_work ->
        leave_search();
        goto look
    :: else
    fi;
    if
    :: mode == AWAKE ->
        lock();
        if
        :: searching < SEARCH_LIMIT -> searching++; mode = SEARCHING
        :: else
        fi;
        unlock()
    :: else
    fi;
    if
    :: mode == SEARCHING -> /* saw entries that are too young */
        watches[me] = true;
        mode = WATCHING;
#ifndef BUG_WATCH
        if
        :: injected > 0 -> settle(); goto look
        :: else
        fi;
#endif
        goto rest
    :: true
    fi;
    lock();
    sleeps[me] = true;
    if
    :: mode == SEARCHING -> searching--
    :: else
    fi;
    is_last = searching == 0;
    mode = ASLEEP;
    unlock();
#ifndef BUG_NO_SECOND_LOOK
    if
    :: is_last && injected > 0 -> settle(); goto look
    :: else
    fi;
#endif
rest:
    atomic {
        if
        :: park[me] == RUNNING -> park[me] = SLEEPING; has_work = true
        :: else -> park[me] = RUNNING; has_work = false
        fi
    };
    if
    :: has_work ->
end_wait:
        signalled[me] -> signalled[me] = false;
        park[me] = RUNNING
    :: else
    fi;
    settle();
    goto look
}

/* Runs when nothing else can. */
active proctype monitor()
{
end_monitor:
    timeout -> assert(injected == 0)
}

init
{
    byte i;
    atomic {
        do
        :: i == WORKERS -> break
        :: else -> run worker(i); i++
        od;
        i = 0;
        do
        :: i == PUSHERS -> break
        :: else -> run pusher(); i++
        od
    }
}
