"""A loop that is made, used and closed five hundred times leaves nothing behind.

Each scenario of leak_cycles.py runs in a process of its own. One block lost per cycle, one object
in five, or one descriptor in all, is enough to fail.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig

import pytest

CYCLES = 500
SCENARIOS = ("nothing never_run callbacks failing tasks tcp tcp_unclosed native_streams tcp_aborted unix "
             "datagrams datagrams_unclosed pipes tls sockets readers executor signals subprocesses generators "
             "stolen_requests").split()
IS_FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
IS_SANITIZED = os.environ.get("PYLOOP_SANITIZED") == "1"


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_cycles_leave_nothing(scenario):
    if scenario == "tls" and shutil.which("openssl") is None:
        pytest.skip("openssl(1) is needed to make a certificate")
    cycles = CYCLES // 10 if IS_SANITIZED else CYCLES
    script = pathlib.Path(__file__).with_name("leak_cycles.py")
    # Without glibc's per-thread caches, which count as memory in use and take long to fill.
    env = {**os.environ, "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}
    done = subprocess.run([sys.executable, script, scenario, str(cycles)], capture_output=True,
                          text=True, timeout=600, check=False, env=env)
    assert done.returncode == 0, done.stderr
    grown = json.loads(done.stdout.strip().splitlines()[-1])
    window = cycles // 4
    assert grown["descriptors"] == 0, grown
    assert grown["threads"] == 0, grown
    assert grown["objects"] < window / 5, grown
    if not IS_SANITIZED:
        # The interpreter's freelists and tables settle slowly; a leak grows with the window.
        assert grown["blocks"] < window * 0.8, grown
        assert grown["malloc"] < window * 8, grown
        # On 3.13t resident memory creeps under stock asyncio as well: its allocator keeps pages.
        assert grown["resident"] < 1 << 20 or IS_FREE_THREADED, grown
