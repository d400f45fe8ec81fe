/*
 * strand.pml - src/sched/strand.c: posters on other threads, two workers that may get the strand. It is
 * never on both, no job is lost, and after the last one, when it is freed, nobody touches it.
 *
 * BUG_TWO_WORDS: the push and the change of state are two operations, as in the first version.
 */
#define POSTERS 2
#define JOBS 2 /* of each poster */
#define TOTAL (POSTERS * JOBS)

byte posted;           /* jobs pushed and not taken */
bool resting = true;   /* with `posted` one word */
byte queued;           /* places in queues of strands: 0 or 1 */
bool running;
byte done;
bool freed;

inline schedule()
{
    d_step {
        assert(!freed);
        queued++;
        assert(queued == 1)
    }
}

proctype poster()
{
    byte i;
    bool was_resting;
    do
    :: i == JOBS -> break
    :: else ->
#ifdef BUG_TWO_WORDS
        d_step { assert(!freed); posted++ };
        d_step { assert(!freed); was_resting = resting; resting = false };
#else
        d_step { assert(!freed); posted++; was_resting = resting; resting = false };
#endif
        if
        :: was_resting -> schedule()
        :: else
        fi;
        i++
    od
}

proctype worker()
{
    byte count;
    bool again;
end_idle:
    do
    :: atomic { queued > 0 -> queued-- };
        assert(!running && !freed);
        running = true;
        d_step { count = posted; posted = 0 };
        done = done + count;
        if
        :: done == TOTAL -> running = false; freed = true
        :: else ->
            running = false;
            d_step {
                again = posted > 0;
                resting = !again
            };
            if
            :: again -> schedule()
            :: else
            fi
        fi
    od
}

/* Runs when nothing else can. */
active proctype monitor()
{
end_monitor:
    timeout -> assert(done == TOTAL && freed)
}

init
{
    byte i;
    atomic {
        run worker();
        run worker();
        do
        :: i == POSTERS -> break
        :: else -> run poster(); i++
        od
    }
}
