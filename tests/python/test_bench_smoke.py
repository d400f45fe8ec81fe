"""Keeps the benchmarks from rotting: the load generator against asyncio, and the arithmetic."""

import shutil
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from bench import chart, common, report, targets  # noqa: E402
from bench.__main__ import SHARES, SUITES, command_line, named, parse, plan_of_all  # noqa: E402
from bench.echo import places  # noqa: E402
from bench.echo import run as echo  # noqa: E402
from bench.ioworker import run as ioworker  # noqa: E402
from bench.neighbour import run as neighbour  # noqa: E402
from bench.parallel import run as parallel  # noqa: E402
from bench.servers import programs, ws_load  # noqa: E402
from bench.sweep import run as sweep  # noqa: E402

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc"))), reason="the load generator needs a C compiler"
)
CORE = common.choose_cores().server


@needs_compiler
@pytest.mark.parametrize("style", places.STYLES)
def test_load_against_asyncio_echo(style):
    if style == "tls":
        needs_openssl()
    with echo.serving("asyncio", style, 8, common.Plan()) as served, served.load(8, 1024) as load:
        result = load.count(1000)
    assert result["messages"] == 1000
    assert result["bytes"] == 1000 * 1024
    assert result["connections_served"] == 8
    assert 0 < result["p50_ns"] <= result["p99_ns"] <= result["max_ns"]
    assert served.server.process.returncode == 0


def needs_openssl():
    """The certificate, and the load generator's TLS."""
    if shutil.which("openssl") is None or not Path("/usr/include/openssl/ssl.h").exists():
        pytest.skip("TLS load needs openssl(1) and OpenSSL's headers")


@needs_compiler
def test_each_message_of_rate_has_a_connection_of_its_own():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        sources = []

        def serve():
            for _ in range(1 + 3):  # one proves the connection before "ready"
                connection, source = listener.accept()
                with connection:
                    sources.append(source)
                    connection.sendall(connection.recv(100, socket.MSG_WAITALL))
                    assert connection.recv(1) == b"" or len(sources) == 4

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with common.Load(port, 1, CORE, size=100, options=("--reconnect",)) as load:
            assert load.count(3)["messages"] == 3
        thread.join()
    assert len(set(sources)) == 4


class PacedServer:
    """Echoes 100 bytes on each connection, and notes when which of them brought a message."""

    def __init__(self, connections, hold=0.0):
        """The first message after the one that proves a connection is answered `hold` seconds late."""
        self.arrivals = []
        self._hold = hold
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._serve, args=[i]) for i in range(connections)]

    def _serve(self, number):
        connection, _ = self._listener.accept()
        with connection:
            connection.sendall(connection.recv(100, socket.MSG_WAITALL))
            while message := connection.recv(100, socket.MSG_WAITALL):
                self.arrivals.append((time.monotonic(), number))
                if self._hold and len(self.arrivals) == 1:
                    time.sleep(self._hold)  # tidy: sleep because the server is to be slow once
                connection.sendall(message)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exc):
        for thread in self._threads:
            thread.join()
        self._listener.close()


@needs_compiler
@pytest.mark.parametrize("connections", [1, 3])
def test_paced_messages_are_that_many_and_none_is_early(connections):
    with PacedServer(connections) as server:
        with common.Load(server.port, connections, CORE, size=100) as load:
            started = time.monotonic()
            result = load.pace(40, 0.3)
    assert result["messages"] == 12 and result["bytes"] == 1200
    assert result["served_min"] == result["served_max"] == 12 // connections
    for number, (when, _) in enumerate(sorted(server.arrivals)):
        assert when - started >= number / 40 - 1e-6


@needs_compiler
def test_a_paced_message_is_timed_from_when_it_was_due():
    with PacedServer(1, hold=0.4) as server:
        with common.Load(server.port, 1, CORE, size=100) as load:
            result = load.pace(20, 0.2)
    # Due after 0, 50, 100 and 150 ms, and none was answered before 400: nor was one left out.
    assert result["messages"] == 4
    assert result["p50_ns"] >= 0.28e9 and result["max_ns"] >= 0.4e9  # p50: of 250, 300, 350 and 400 ms


@needs_compiler
def test_answers_are_waited_for_by_first_answer(tmp_path):
    program = tmp_path / "server.py"
    program.write_text(
        "import http.server as h, sys\n"
        "class Handler(h.BaseHTTPRequestHandler):\n"
        "    protocol_version = 'HTTP/1.1'\n"
        "    def do_GET(self):\n"
        "        self.send_response(int(sys.argv[2])); self.end_headers()\n"
        "h.HTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()\n"
    )
    first_answer = str(common.build_c("first_answer"))
    for status, expected in (("200", 0), ("503", 1)):
        command = [first_answer, sys.executable, str(program), "PORT", status]
        assert subprocess.run(command, timeout=60, capture_output=True).returncode == expected
    ended = subprocess.run([first_answer, "false"], capture_output=True, timeout=60)
    assert ended.returncode == 1


@needs_compiler
def test_c_floor_echoes_messages_larger_than_the_socket_buffers():
    with common.Server([str(common.build_c("echo_epoll"))], CORE) as server:
        with common.Load(server.read_port(), 4, CORE, size=16 * 2**20) as load:
            assert load.count(8)["bytes"] == 8 * 16 * 2**20


@needs_compiler
@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (lambda data: bytes([data[0] ^ 1]) + data[1:], "a byte came back changed"),
        (lambda data: data + b"!", "more bytes came back than were sent"),
        (lambda data: None, "closed by the server"),
    ],
)
def test_load_refuses_a_wrong_echo(answer, complaint):
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        connection, _ = listener.accept()
        with connection:
            reply = answer(connection.recv(100, socket.MSG_WAITALL))
            if reply is not None:
                connection.sendall(reply)
                connection.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    with listener, pytest.raises(common.BenchError, match=complaint):
        common.Load(listener.getsockname()[1], 1, CORE, size=100)
    thread.join()


def _samples():
    values = {"uvloop": (100, 200, 400), "pyloop-epoll": (50, 120, 160)}
    return [
        common.Sample("sleep_0", name, number, {"ns": value})
        for name, found in values.items()
        for number, value in enumerate(found)
    ]


def test_ratios_are_formed_within_a_round():
    rows = {row["variant"]: row for row in common.summarize(_samples(), "uvloop")}
    assert rows["uvloop"]["metrics"]["ns"]["median"] == 200
    ratio = rows["pyloop-epoll"]["ratios"]["ns"]
    assert (ratio["min"], ratio["median"], ratio["max"]) == (0.4, 0.5, 0.6)


def test_a_missed_target_is_said():
    checks = targets.check("micro", _samples())
    # The median ratio is 0.50: below 0.77, and not above the 0.50 wanted of the mean.
    assert [check["met"] for check in checks] == [True, True]
    slow = [common.Sample(s.case, s.variant, s.round, dict(s.metrics)) for s in _samples()]
    for sample in slow:
        sample.metrics["ns"] *= 1.2 if "pyloop" in sample.variant else 1
    assert [check["met"] for check in targets.check("micro", slow)] == [True, False]


def test_a_target_without_its_metric_is_not_known():
    metrics = {"user_instr": 100.0, "cpu_ns": 100.0}
    samples = [
        common.Sample("plain", name, 0, dict(metrics)) for name in ("uvicorn-uvloop", "pyloop-epoll")
    ]
    (check,) = targets.check("http", samples)
    assert check["met"] is None and check["hints"] == {"user_instr": 1.0, "cpu_ns": 1.0}
    for sample in samples:
        sample.metrics["kernel_instr"] = 50.0
    (check,) = targets.check("http", samples)
    assert check["met"] is False and check["measured"] == 1.0


def test_interleave_starts_each_round_one_further():
    plan = common.Plan(pairs=3, variants=[], retries_left=0)
    order = []

    def measure(variant):
        order.append(variant)
        return common.Sample("", variant, 0, {})

    samples = list(common.interleave(plan, "case", ["a", "b", "c"], measure))
    assert "".join(order) == "abcbcacab"
    assert [sample.round for sample in samples] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_peer_that_cannot_do_a_case_leaves_it_and_others_end_the_run():
    plan = common.Plan(pairs=2)

    def measure(variant):
        if variant != "uvloop":
            raise common.BenchError("first\nNotImplementedError")
        return common.Sample("", variant, 0, {})

    samples = list(common.interleave(plan, "case", ["uvloop", "rloop"], measure))
    assert [sample.variant for sample in samples] == ["uvloop", "uvloop"]
    assert plan.skipped == {"case, rloop": "NotImplementedError"}
    with pytest.raises(common.BenchError):
        list(common.interleave(plan, "case", ["uvloop", "pyloop-epoll"], measure))


def test_a_time_limit_cuts_rounds():
    def rounds(budget):
        plan = common.Plan(pairs=9, budget=budget)
        (case,) = plan.each(["a"])
        samples = common.interleave(plan, case, ["x"], lambda v: common.Sample("", v, 0, {}))
        return len(list(samples))

    assert rounds(common.Budget(seconds=3600.0)) == 9
    assert rounds(common.Budget(seconds=-1.0)) == 1
    # Not over, but this case's part is used up.
    budget = common.Budget(seconds=3600.0)
    budget.next_case = lambda: None
    assert rounds(budget) == common.ROUNDS_MIN


def test_the_command_is_quoted_as_typed_but_for_folders():
    words = ["echo", "--cases", "protocol/1KiB/64", "--json", "/some/folder/r.json", "--svg=/a/b.svg"]
    quoted = "tools/bench echo --cases protocol/1KiB/64 --json r.json --svg=b.svg"
    assert command_line(words) == quoted


def test_cases_of_all_name_their_suite():
    options = parse(["all", "--cases", "echo:protocol/1KiB/1,sweep:http/4", "--minutes", "10"])
    cores = common.choose_cores()
    assert plan_of_all("echo", options, cores, 10.0).cases == ["protocol/1KiB/1"]
    assert plan_of_all("sweep", options, cores, 10.0).cases == ["http/4"]
    assert plan_of_all("http", options, cores, 10.0) is None
    with pytest.raises(common.BenchError, match="have their suite before them"):
        plan_of_all("echo", parse(["all", "--cases", "protocol/1KiB/1"]), cores, 10.0)
    assert abs(sum(SHARES.values()) - 1) < 1e-9 and SHARES.keys() == SUITES.keys() - {"parallel", "ioworker"}


def test_files_are_named_by_interpreter_and_suite():
    assert named(Path("a/r.json"), "", "") == Path("a/r.json")
    assert named(Path("a/r.json"), "cp313", "echo") == Path("a/r-cp313-echo.json")
    assert named(Path("a/r.json"), "", "echo") == Path("a/r-echo.json")


def test_every_case_name_is_understood():
    for case in (*echo.DEFAULT_CASES, *echo.FULL_CASES):
        assert echo.parse(case)[0] in places.STYLES
    for case in (*sweep.CASES, *sweep.REFERENCE):
        assert sweep.parse(case)[0] in sweep.LOADS
    for case in ("protocol", "udp/idle/10", "protocol/1KiB/0", "other/1KiB/1"):
        with pytest.raises(common.BenchError, match="unknown case"):
            echo.parse(case)


@needs_compiler
@pytest.mark.parametrize("case", ["protocol/4", "http/4", "unix/4", "protocol/10KiB/2"])
def test_servers_of_a_sweep_take_turns(case):
    plan = common.Plan(pairs=1, quick=True)
    samples = list(sweep.alternate(plan, case, ["pyloop-epoll", "pyloop-auto"]))
    order = [(sample.round, sample.variant.removeprefix("pyloop-")) for sample in samples]
    assert order == [(0, "epoll"), (0, "auto"), (1, "auto"), (1, "epoll")]
    assert all(sample.metrics["messages_per_s"] > 0 for sample in samples)
    size = {"http/4": None, "protocol/10KiB/2": 10240}.get(case, 1024)
    assert size is None or all(sample.metrics["bytes"] == size for sample in samples)


def test_other_loops_take_part_in_a_sweep_by_name_and_not_in_http():
    assert sweep.known_variants(common.Plan()) == sweep.VARIANTS
    plan = common.Plan(variants=["uvloop", "pyloop-epoll"], cases=["http/4", "rate/4"])
    assert sweep.known_variants(plan) == sweep.VARIANTS + sweep.OTHERS
    assert sweep.cases_of(plan) == ["rate/4"]
    assert plan.skipped == {"http/4": "the load http is measured on pyloop's server only, not on uvloop"}
    plan = common.Plan(variants=["pyloop-epoll"], cases=["http/4"])
    assert sweep.cases_of(plan) == ["http/4"] and not plan.skipped
    with pytest.raises(common.BenchError, match="nothing to measure"):
        sweep.cases_of(common.Plan(variants=["asyncio"], cases=["http/4"]))
    with pytest.raises(common.BenchError, match="unknown case"):
        sweep.cases_of(common.Plan(cases=["other/4"]))


def test_cases_of_a_sweep_may_name_a_size():
    assert sweep.parse("protocol/64") == ("protocol", 1024, 64)
    assert sweep.parse("streams/100KiB/64") == ("streams", 102400, 64)
    for case in ("http/1KiB/4", "websockets/1KiB/4", "protocol/0KiB/4", "protocol/4/4", "protocol/0"):
        with pytest.raises(common.BenchError, match="unknown case"):
            sweep.parse(case)
    assert sweep.baseline_of(common.Plan()) == "pyloop-epoll"
    assert sweep.baseline_of(common.Plan(variants=["uvloop", "pyloop-epoll"])) == "uvloop"


def test_a_suite_of_all_takes_the_variants_it_has():
    known, works = ("a", "b"), lambda name, python: None
    plan = common.Plan(variants=["b", "other"], is_part=True)
    assert common.chosen(plan, known, "a", works) == ["b"]
    with pytest.raises(common.NothingToMeasure, match="none of other"):
        common.chosen(common.Plan(variants=["other"], is_part=True), known, "a", works)
    with pytest.raises(common.BenchError, match="unknown variant 'other'"):
        common.chosen(common.Plan(variants=["b", "other"]), known, "a", works)


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="needs a free-threaded interpreter")
@pytest.mark.parametrize("case", ["json/skewed", "balance/connections"])
def test_children_of_parallel_take_turns(case):
    plan = common.Plan(pairs=2, quick=True)
    names = ["threads", "asyncio a thread"] * case.startswith("json") + ["pyloop-epoll"]
    samples = list(parallel.alternate(plan, case, names))
    shifted = names[1:] + names[:1]
    assert [(s.round, s.variant) for s in samples] == [(0, name) for name in names] + [(1, name) for name in shifted]
    for sample in samples:
        assert 0 <= sample.disturbed <= 1
        if case.startswith("balance"):
            assert sample.metrics["spread_ms"] > 0 and 0 < sample.metrics["busiest"] <= 1
        else:
            ratio = sample.metrics["ops_2"] / sample.metrics["ops_1"]
            assert sample.metrics["scaling"] == pytest.approx(ratio) and sample.metrics["cpu_growth"] > 0


def test_missed_and_unknown_targets_are_listed_together():
    def check(name, met):
        return {"what": name, "at_most": 1.0, "measured": None if met is None else 2.0, "met": met,
                "hints": {}}  # fmt: skip

    text = report.missed([{"targets": [check("a", None), check("b", True)]},
                          {"targets": [check("c", False)]}])  # fmt: skip
    assert "1 of 3 met, 1 missed, 1 not known" in text
    assert text.index("| c |") < text.index("| a |") and "| b |" not in text


@needs_compiler
@pytest.mark.parametrize("case", neighbour.CASES)
def test_a_neighbour_spins_only_in_the_second_window(case):
    plan = common.Plan(pairs=1, quick=True, seconds=0.1)
    metrics = neighbour.measure("pyloop-epoll", case, plan).metrics
    assert metrics["kept"] == metrics["beside_per_s"] / metrics["messages_per_s"]
    assert metrics["neighbour"] > 0


@needs_compiler
@pytest.mark.parametrize("variant", ioworker.VARIANTS)
def test_an_io_worker_answers_as_an_inline_server_does(variant):
    plan = common.Plan(quick=True)
    for case in ("small/64", "large/1"):
        with ioworker.serving(variant, case, plan) as (server, load):
            assert load.count(200)["messages"] == 200
        assert server.process.returncode == 0, server.log_tail()


@pytest.mark.parametrize("kind", ["aiohttp", "websockets"])
def test_programs_serve_their_load(kind):
    pytest.importorskip(kind)
    cores = common.choose_cores()
    with common.Server([sys.executable, "-m", "bench.servers.programs", "pyloop-epoll", kind], cores.server) as server:
        port = server.read_port()
        if kind == "aiohttp":
            load = common.Load(port, 4, cores.client, http="/", expect=programs.BODY)
        else:
            argv = [sys.executable, "-m", "bench.servers.ws_load", str(port), "4", "1024"]
            load = common.LoadProcess(argv, {cores.client})
        with load:
            result = load.count(100)
            assert result["messages"] == 100
            assert result["bytes"] == 100 * 1028 if kind == "websockets" else result["bytes"] > 100 * len(programs.BODY)
            assert load.run(0.05)["connections_served"] == 4
    assert server.process.returncode == 0, server.log_tail()


def test_websocket_lengths():
    assert ws_load._length(125, 0x80) == b"\xfd"
    assert ws_load._length(1024, 0) == b"\x7e\x04\x00"


def test_quick_run_writes_tables_json_and_chart(tmp_path):
    files = {name: tmp_path / f"result.{name}" for name in ("json", "markdown", "svg")}
    command = [sys.executable, "-m", "bench", "micro", "--quick", "--variants", "asyncio"]
    command += ["--cases", "call_soon", "--instructions", "none"]
    for name, path in files.items():
        command += [f"--{name}", str(path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    assert "| asyncio |" in files["markdown"].read_text()
    assert str(tmp_path) not in files["json"].read_text()
    root = ElementTree.fromstring(files["svg"].read_text())
    assert "asyncio" in "".join(root.itertext())
    assert report.FORMAT == 1 and chart.METRICS["micro"] == "ns"
