/*
 * queue.pml - src/sched/run_queue.c: an owner that pushes and pops, thieves that take some or all. Every
 * item comes out exactly once. Positions do not wrap around here, the ring of 2 slots does.
 *
 * BUG_EARLY_RELEASE: the thief gives its slots back before it has copied them.
 */
#define SLOTS 2
#define ITEMS 3
#define THIEVES 2
#define TRIES 2 /* of each thief */

byte slot[SLOTS];
byte tail;
byte stolen, taken; /* one word: read and changed together */
byte got[ITEMS + 1];

inline see(item)
{
    assert(item != 0);
    got[item]++;
    assert(got[item] == 1)
}

inline head_load()
{
    d_step { s = stolen; t = taken }
}

/* `done` tells whether (s, t) was still there; else they are loaded anew. */
inline head_exchange(new_stolen, new_taken)
{
    d_step {
        if
        :: stolen == s && taken == t -> stolen = new_stolen; taken = new_taken; done = true
        :: else -> s = stolen; t = taken; done = false
        fi
    }
}

inline pop()
{
    head_load();
    done = false;
    do
    :: done || t == tail -> break
    :: else ->
        item = slot[t % SLOTS];
        if
        :: s == t -> head_exchange(t + 1, t + 1)
        :: else -> head_exchange(s, t + 1)
        fi;
        if
        :: done -> see(item)
        :: else
        fi
    od
}

proctype owner()
{
    byte s, t, item, next = 1;
    bool done;
    do
    :: next > ITEMS -> break
    :: next <= ITEMS ->
        head_load();
        if
        :: tail - s < SLOTS ->
            slot[tail % SLOTS] = next;
            tail++;
            next++
        :: else -> pop()
        fi
    :: next > 1 -> pop()
    od;
    do
    :: taken == tail -> break
    :: else -> pop()
    od
}

proctype thief()
{
    byte s, t, available, count, first, i, item, tries;
    bool done;
    do
    :: tries == TRIES -> break
    :: else ->
        tries++;
        d_step { s = stolen; t = taken; done = false; count = 0; available = 0; item = 0; i = 0; first = 0 };
        do
        :: done || s != t -> break
        :: else ->
            available = tail - t;
            if
            :: available > SLOTS -> head_load() /* the owner went on in between */
            :: available == 0 -> break
            :: else ->
                count = 1;
                do
                :: count < available -> count++
                :: break
                od;
                first = t;
                head_exchange(first, first + count)
            fi
        od;
        if
        :: !done
        :: else ->
#ifdef BUG_EARLY_RELEASE
            d_step { stolen = taken };
#endif
            i = 0;
            do
            :: i == count -> break
            :: else ->
                item = slot[(first + i) % SLOTS];
                see(item);
                i++
            od;
            head_load();
            done = false;
            do
            :: done -> break
            :: else -> head_exchange(t, t)
            od
        fi
    od
}

init
{
    byte i;
    atomic {
        run owner();
        i = 0;
        do
        :: i == THIEVES -> break
        :: else -> run thief(); i++
        od
    };
    _nr_pr == 1;
    i = 1;
    do
    :: i > ITEMS -> break
    :: else -> assert(got[i] == 1); i++
    od
}
