"""Keeps the benchmarks from rotting: the load generator against asyncio, and the arithmetic."""

import shutil
import socket
import subprocess
import sys
import threading
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from bench import chart, common, report, targets  # noqa: E402
from bench.__main__ import command_line  # noqa: E402
from bench.echo import run as echo  # noqa: E402

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc"))), reason="the load generator needs a C compiler"
)
CORE = common.choose_cores().server


@needs_compiler
@pytest.mark.parametrize("style", echo.STYLES)
def test_load_against_asyncio_echo(style):
    command = [sys.executable, "-m", "bench.echo.server", "asyncio", style]
    with common.Server(command, CORE) as server:
        port = server.read_port()
        with common.Load(port, 8, CORE, size=1024) as load:
            result = load.count(1000)
    assert result["messages"] == 1000
    assert result["bytes"] == 1000 * 1024
    assert result["connections_served"] == 8
    assert 0 < result["p50_ns"] <= result["p99_ns"] <= result["max_ns"]
    assert server.process.returncode == 0


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


def test_the_command_is_quoted_as_typed_but_for_folders():
    words = ["echo", "--cases", "protocol/1KiB/64", "--json", "/some/folder/r.json", "--svg=/a/b.svg"]
    quoted = "tools/bench echo --cases protocol/1KiB/64 --json r.json --svg=b.svg"
    assert command_line(words) == quoted


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
