"""What the loops of this process have counted, for people and for Prometheus.

    print(pyloop.metrics.prometheus())

Counters are always on; reading them stops no loop. See Loop.metrics() for what each one counts.
"""

from . import _loop

__all__ = ("CONTENT_TYPE", "prometheus", "snapshot")

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""For the Content-Type field of a response with prometheus()."""

_COUNTERS = {
    "turns": "Turns of the loop.",
    "callbacks": "Callbacks run: of call_soon, timers and steps of tasks.",
    "events": "Events of descriptors and operations.",
    "waits": "Looks at the backend.",
    "parks": "Waits that could block.",
    "lingered": "Parks that kept the GIL.",
    "gil_acquisitions": "Times that the GIL, or the thread state, was taken back after a wait.",
    "wakes_written": "Wake-ups written by other threads.",
    "wakes_suppressed": "Wake-ups that other threads could spare.",
    "submissions": "Operations handed to the backend.",
    "enters": "System calls of the backend.",
    "rearms": "Operations that the backend had to start anew.",
    "starvations": "Receives that found no buffer.",
    "holdouts": "Waits that asked io_uring for more than one completion.",
    "strands_spawned": "Strands begun.",
    "strands_ended": "Strands ended.",
    "strands_stolen": "Strands taken from another worker.",
    "strands_injected": "Strands taken from the common queue.",
    "strands_handed_over": "Strands given to another worker.",
    "strands_overflowed": "Strands moved to the common queue because the worker's own was full.",
    "turns_cut": "Turns ended by their time before all callbacks had run.",
    "baton_timeouts": "Times that a worker took the turn with the GIL over from another one that kept it too long.",
    "requests_queued": "HTTP requests that other workers could take, because their own was behind.",
    "searches": "Searches for work of other workers.",
    "steals": "Searches that found some.",
}
_GAUGES = {
    "injector_depth": "Strands in the common queue.",
}
_HISTOGRAMS = {
    "turn_durations": ("turn_duration", "Turns from the end of their wait on; one in sixteen is timed."),
    "callback_durations": ("callback_duration", "Callbacks and events of the timed turns."),
    "ready_delays": ("ready_delay", "Callbacks scheduled in the timed turns, until they ran; one stands for all."),
    "gil_waits": ("gil_wait", "Waits for the GIL, or the thread state, after a wait; one in sixteen is timed."),
    "queue_delays": ("queue_delay", "Strands from scheduled to running."),
}


def snapshot():
    """A list with the metrics() of every open loop of this process, oldest loop first; from any thread.

    Each has the number of its loop as `loop`: 1 for the first loop that the process has made, and never used again.
    """
    found = []
    for number, ref in sorted(_loop.known_loops.copy().items()):
        loop = ref()
        if loop is None:
            continue
        try:
            found.append({"loop": number, **loop.metrics()})
        except RuntimeError:  # closed, or made before fork()
            continue
    return found


def prometheus(loops=None):
    """The metrics of `loops`, a result of snapshot(), None for one of now, in Prometheus' text format 0.0.4.

    https://prometheus.io/docs/instrumenting/exposition_formats/
    """
    if loops is None:
        loops = snapshot()
    rows = [(f'loop="{loop["loop"]}",backend="{loop["backend"]}",worker="{index}"', worker)
            for loop in loops for index, worker in enumerate(loop["workers"])]
    lines = ["# HELP pyloop_loops Open loops.", "# TYPE pyloop_loops gauge", f"pyloop_loops {len(loops)}"]
    for names, kind, end in ((_COUNTERS, "counter", "_total"), (_GAUGES, "gauge", "")):
        for key, text in names.items():
            name = f"pyloop_{key}{end}"
            samples = [f"{name}{{{labels}}} {worker[key]}" for labels, worker in rows if key in worker]
            lines += _family(name, kind, text, samples)
    for key, (name, text) in _HISTOGRAMS.items():
        name = f"pyloop_{name}_seconds"
        samples = [sample for labels, worker in rows if key in worker
                   for sample in _histogram(name, labels, worker[key], worker[f"{key}_ns"])]
        lines += _family(name, "histogram", text, samples)
    return "\n".join(lines) + "\n"


def _family(name, kind, text, samples):
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *samples] if samples else []


def _histogram(name, labels, counts, sum_ns):
    total = 0
    for index, count in enumerate(counts):
        total += count
        bound = 2 ** (index + 10) / 1e9 if index + 1 < len(counts) else "+Inf"
        yield f'{name}_bucket{{{labels},le="{bound}"}} {total}'
    yield f"{name}_sum{{{labels}}} {sum_ns / 1e9}"
    yield f"{name}_count{{{labels}}} {total}"
