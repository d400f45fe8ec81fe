"""Parallel mode: callbacks without end hold up neither connections, nor timers, nor the other workers."""

import asyncio
import collections
import socket
import threading
import time

import parallel_kit
import pytest

import pyloop

VIEWS = 2
CIRCULATING = 20_000  # in each view: a round takes some 100 ms
EXCHANGES = 10
TURN_NS = 1_000_000  # for the callbacks of one turn: PYL_LANE_JOBS_NS
STRIDE = 16  # so many callbacks between two readings of the clock: PYL_WORKER_JOBS_STRIDE
# The question is sent at the end of a turn, and the answer at the end of the next one.
ANSWER_TURNS = 2
EVENT_NS = 3 * TURN_NS


class Circle:
    """What circulates in one view, in order, until `is_over`.

    On a busy machine a callback may take any time. That changes nothing here: the worker reads the same clock between
    callbacks. Those that begin in a turn when its time is over are late.
    """

    def __init__(self):
        self.loop = asyncio.get_running_loop()
        self.steps = 0
        self.is_over = False
        self.disorder = []
        self.turn_end = 0
        self.turn_steps = collections.Counter()
        self.late = collections.Counter()

    def turn(self):
        return self.loop._metrics()["turns"]

    def step(self, index):
        now = time.monotonic_ns()
        turn = self.turn()
        if turn not in self.turn_steps:
            self.turn_end = now + TURN_NS
        self.turn_steps[turn] += 1
        self.late[turn] += now >= self.turn_end
        if self.steps % CIRCULATING != index:
            self.disorder.append((self.steps, index))
        self.steps += 1


async def circulate_by_tasks(circle):
    async def one(index):
        while not circle.is_over:
            circle.step(index)
            await asyncio.sleep(0)

    return [asyncio.create_task(one(index)) for index in range(CIRCULATING)]


async def circulate_by_callbacks(circle):
    def one(index):
        if not circle.is_over:
            circle.step(index)
            circle.loop.call_soon(one, index)

    for index in range(CIRCULATING):
        circle.loop.call_soon(one, index)
    return []


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        """Takes long, as if the kernel had taken the core away, and makes no callbacks: so they get no more time."""
        end = time.monotonic_ns() + EVENT_NS
        self.transport.write(data)
        while time.monotonic_ns() < end:
            pass


class Client(asyncio.Protocol):
    """Asks and is answered; beside each question it starts a timer. Counts the turns or steps that both take."""

    def __init__(self, circle):
        self.circle = circle
        self.is_served = circle.loop.create_future()
        self.answer_turns = []
        self.timer_steps = []

    def connection_made(self, transport):
        self.transport = transport

    def ask(self):
        self.asked = self.circle.turn()
        self.transport.write(b"x")
        self.circle.loop.call_later(1e-6, self.on_timer, self.asked, self.circle.steps)

    def data_received(self, data):
        self.answer_turns.append(self.circle.turn() - self.asked)
        if len(self.answer_turns) < EXCHANGES:
            self.ask()

    def on_timer(self, turn, steps):
        """It is due in the next turn: the steps of the one that started it do not count."""
        self.timer_steps.append(self.circle.steps - steps - self.circle.turn_steps[turn])
        if len(self.timer_steps) == EXCHANGES:
            self.is_served.set_result(None)


async def serve_beside(circulate):
    circle = Circle()
    left, right = socket.socketpair()
    server, _ = await circle.loop.connect_accepted_socket(Echo, left)
    transport, client = await circle.loop.connect_accepted_socket(lambda: Client(circle), right)
    tasks = await circulate(circle)
    while circle.steps < CIRCULATING:
        await asyncio.sleep(0)
    client.ask()
    await client.is_served
    circle.is_over = True
    await asyncio.gather(*tasks)
    transport.close()
    server.close()
    return threading.get_ident(), circle, client


@pytest.mark.parametrize("circulate", [circulate_by_tasks, circulate_by_callbacks])
def test_connections_and_timers_are_served(backend, circulate):
    """40,000 on two workers. An answer waits for two short turns; a timer, behind what is ready, for a round."""
    async def main():
        results = await asyncio.gather(serve_beside(circulate), parallel_kit.there(serve_beside(circulate)))
        return results, asyncio.get_running_loop().metrics()["workers"]

    with parallel_kit.parallel_runner(backend, workers=VIEWS) as (runner, reports):
        results, workers = runner.run(main())
    assert reports == []
    assert len({thread for thread, *_ in results}) == VIEWS
    for _, circle, client in results:
        assert len(client.answer_turns) == len(client.timer_steps) == EXCHANGES
        assert max(client.answer_turns) <= ANSWER_TURNS
        assert max(client.timer_steps) <= CIRCULATING
        assert max(circle.late.values()) < STRIDE
        assert circle.disorder == []
    assert all(worker["turns_cut"] > 0 for worker in workers)


@pytest.mark.parametrize("is_stopped_before", [True, False])
def test_stop_lets_run_what_was_ready(new_loop, is_stopped_before):
    """The last turn has no time limit: asyncio runs what was ready when it began, and nothing else."""
    ready = 50_000
    loop = new_loop(parallel=True, workers=VIEWS)
    ran, late = [], []

    def one(index):
        if index == 0:
            loop.stop()
        ran.append(index)
        loop.call_soon(late.append, index)

    if is_stopped_before:
        loop.stop()
    for index in range(ready):
        loop.call_soon(one, index)
    loop.run_forever()
    assert ran == list(range(ready))
    assert late == []


class BusyView:
    """Bursts of callbacks, each of 0.1 ms by the wall clock, that now and then call the other view, which parks."""

    CALLBACK_NS = 100_000
    BURST = 300  # 30 ms, if nothing ended the turn
    CALLED_EVERY = 20
    BATON_WAIT_NS = 5_000_000
    TURN_CALLBACKS_MAX = 16  # 10 of 0.1 ms, or 16 between two readings of the clock

    def __init__(self, view, other, on_end):
        self.view, self.other, self.on_end = view, other, on_end
        self.bursts = 10
        self.left = 0
        self.in_turn = collections.Counter()
        self.begun = collections.deque(maxlen=self.BATON_WAIT_NS // self.CALLBACK_NS)
        self.is_answered = True
        self.answers = 0
        self.overrun = []  # for each time that the other one took the baton over: what began here in those 5 ms

    def start(self):
        self.bursts -= 1
        self.left = self.BURST
        for _ in range(self.BURST):
            self.view.call_soon(self.one)

    def one(self):
        now = time.monotonic_ns()
        self.begun.append(now)
        self.in_turn[self.view._metrics()["turns"]] += 1
        if self.is_answered and self.left % self.CALLED_EVERY == 0:
            self.is_answered = False
            self.before = self.read()
            self.other.call_soon_threadsafe(self.answer)
        self.left -= 1
        if self.left == 0 and self.bursts == 0:
            self.on_end()
        elif self.left == 0:
            self.view.call_later(0.002, self.start)  # parks, and then has the baton again
        while time.monotonic_ns() < now + self.CALLBACK_NS:
            pass

    def read(self):
        here, there = self.view._metrics(), self.other._metrics()
        return there["baton_timeouts"], (there["turns"], here["baton_timeouts"])

    def answer(self):
        """Only if the other view was parked is this what ran first after it took the baton over, in the same turn.

        And only if it was not taken back before: then there were turns here that have nothing to do with it.
        """
        now = time.monotonic_ns()
        (taken_before, same_before), (taken, same) = self.before, self.read()
        if taken > taken_before and same == same_before:
            self.overrun.append(sum(begun > now - self.BATON_WAIT_NS for begun in self.begun))
        self.answers += 1
        self.is_answered = True


@pytest.mark.skipif(not parallel_kit.HAS_GIL, reason="no GIL, no baton")
@pytest.mark.parametrize("busy", range(VIEWS))
def test_nobody_waits_too_long_for_the_gil(backend, busy):
    """A busy worker passes the GIL on between its turns, each of which is short.

    Who takes the baton over has stood in the line for 5 ms. In that time the busy one may have been without a core, or
    in one long callback (a collection of garbage, ASan's free() that empties its quarantine). But it did not begin
    more callbacks than fit in one turn.
    """
    async def main():
        first = asyncio.get_running_loop()
        await parallel_kit.there(asyncio.sleep(0))  # its thread has begun
        views = [first, *first._other_views]
        end = first.create_future()
        relay = BusyView(views[busy], views[1 - busy], lambda: end.set_result(None))
        views[busy].call_soon_threadsafe(relay.start)
        await end
        return relay, first.metrics()["workers"]

    with parallel_kit.parallel_runner(backend, workers=VIEWS) as (runner, reports):
        relay, workers = runner.run(main())
    assert reports == []
    assert workers[busy]["turns_cut"] > 10
    assert relay.answers > 0
    assert max(relay.in_turn.values()) <= BusyView.TURN_CALLBACKS_MAX
    assert [count for count in relay.overrun if count > BusyView.TURN_CALLBACKS_MAX] == []


@pytest.mark.skipif(not parallel_kit.HAS_GIL, reason="no GIL, no baton")
def test_a_callback_that_blocks_is_counted(backend):
    """It gave the GIL away and waits for another worker, which takes the baton over: once, however often it parks."""
    is_over = threading.Event()

    async def park():
        for _ in range(20):
            await asyncio.sleep(0.001)
        is_over.set()

    def timeouts(loop):
        return [worker["baton_timeouts"] for worker in loop.metrics()["workers"]]

    async def main():
        first = asyncio.get_running_loop()
        before = timeouts(first)
        parking = parallel_kit.there(park())
        assert is_over.wait(30)
        after = timeouts(first)
        await parking
        return before, after

    before, after = pyloop.run(main(), parallel=True, workers=VIEWS, backend=backend)
    assert after == [before[0], before[1] + 1]
