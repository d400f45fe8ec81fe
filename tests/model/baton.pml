/*
 * baton.pml - the baton of src/sched/baton.c: lanes take it, wait for the GIL, run, and pass it. A lane
 * may give the GIL away in its turn and take it back; lane 0 waits there, once, for a turn of another.
 * Of those who wait for the GIL at most one came by way of the baton; the line is first come, first
 * served; and all turns end.
 *
 * Time is left out: the first in the line may take the baton over as soon as the holder has the GIL.
 *
 * BUG_NO_TAKE_OVER: whoever is in the line waits until the baton is passed.
 * BUG_NO_TICKET: the pass of a lane that was taken over counts.
 * BUG_ANY_HOLDER: the baton is taken over from a holder that waits for the GIL, too.
 * BUG_KEEP_ATTACHED: a new holder counts as having the GIL, as the one before it had.
 * BUG_ANY_WAITER: not only the first in the line takes it over.
 * BUG_NOT_GRANTED: a pass leaves the baton to whoever comes next.
 */
#ifndef LANES
#define LANES 3
#endif
#ifndef TURNS
#define TURNS 2 /* of each lane */
#endif

byte holder;       /* its ticket, 0: none */
byte last_ticket;
bool is_attached;  /* the holder has got the GIL */
chan line = [LANES] of { byte };
bool is_granted[LANES];

bool is_gil_taken;
byte asking;       /* lanes that wait for the GIL with the baton */
byte ended[LANES]; /* turns */

chan queued = [LANES] of { byte }; /* who entered the line and has not left it; only looked at */

/* The baton's lock is held in each of these. */

inline change_holder()
{
    last_ticket++;
    holder = last_ticket;
#ifndef BUG_KEEP_ATTACHED
    is_attached = false
#endif
}

inline take_over()
{
    queued ? served;
    assert(served == me);
    change_holder()
}

inline take()
{
    if
    :: atomic { holder == 0 -> assert(empty(line)); change_holder(); ticket = holder }
    :: atomic { holder != 0 -> line ! me; queued ! me };
        if
        :: atomic {
            is_granted[me] ->
            is_granted[me] = false;
            queued ? served;
            assert(served == me);
            ticket = holder
        }
#ifdef BUG_ANY_HOLDER
        :: atomic { line ? [eval(me)] -> line ? eval(me); take_over(); ticket = holder }
#elif defined(BUG_ANY_WAITER)
        :: atomic { is_attached && line ?? [eval(me)] -> line ?? eval(me); take_over(); ticket = holder }
#elif !defined(BUG_NO_TAKE_OVER)
        :: atomic { is_attached && line ? [eval(me)] -> line ? eval(me); take_over(); ticket = holder }
#endif
        fi
    fi
}

inline pass()
{
    atomic {
        if
#ifdef BUG_NO_TICKET
        :: true ->
#else
        :: holder == ticket ->
#endif
            if
#ifdef BUG_NOT_GRANTED
            :: true -> holder = 0
#else
            :: line ? other -> change_holder(); is_granted[other] = true
            :: empty(line) -> holder = 0
#endif
            fi
        :: else
        fi;
        other = 0
    }
}

inline wait_for_gil() { atomic { !is_gil_taken -> is_gil_taken = true } }

/* Between granting and the holder's waking nobody else leaves the line: the holder is not attached. */
proctype lane(byte me)
{
    byte ticket;
    byte other;
    byte served;
    do
    :: ended[me] == TURNS -> break
    :: else ->
        take();
        atomic { asking++; assert(asking == 1) };
        atomic { !is_gil_taken -> is_gil_taken = true; asking-- };
        is_attached = true;
        if
        :: me == 0 && ended[0] == 0 ->
            is_gil_taken = false;
            ended[1] + ended[LANES - 1] > 0;
            wait_for_gil()
        :: me != 0 -> is_gil_taken = false; wait_for_gil()
        :: me != 0 || ended[0] > 0
        fi;
        is_gil_taken = false;
        pass();
        atomic { ended[me]++; ticket = 0; served = 0 }
    od
}

init
{
    byte i;
    atomic {
        do
        :: i == LANES -> break
        :: else -> run lane(i); i++
        od
    }
}
