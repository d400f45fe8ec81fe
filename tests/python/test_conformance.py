"""tests/cpython/run.py judges: skips.txt cannot hide a test that passes."""

import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("test.test_asyncio", reason="this interpreter comes without its test package")
RUN = pathlib.Path(__file__).parents[1] / "cpython" / "run.py"


@pytest.fixture
def judge(tmp_path):
    def run(skips, *patterns):
        (tmp_path / "skips.txt").write_text(skips)
        done = subprocess.run([sys.executable, RUN, "--skips", tmp_path / "skips.txt", *patterns],
                              capture_output=True, text=True, timeout=120)
        return done.returncode, done.stdout.splitlines()

    return run


PASSES = "test_locks.LockTests.test_release_not_acquired"


def test_no_skip(judge):
    assert judge("", PASSES) == (0, ["1 passed, 0 failed, 0 skipped"])


def test_unexpected_pass(judge):
    status, lines = judge(f"pyloop * {PASSES}  # no reason at all\n", PASSES)
    assert status == 1
    assert lines[0] == f"FAIL {PASSES}"
    assert "unexpected pass: skips.txt says: no reason at all" in lines[1]
    assert lines[-1] == "0 passed, 1 failed, 0 skipped"


def test_lines_for_others_do_not_count(judge):
    skips = f"uvloop * {PASSES}  # not ours\npyloop <3.11 {PASSES}  # not here\n"
    assert judge(skips, PASSES) == (0, ["1 passed, 0 failed, 0 skipped"])


def test_a_skip_needs_a_reason(judge):
    status, lines = judge(f"pyloop * {PASSES}\n", PASSES)
    assert status == 1
    assert lines == []
