"""`python -m pyloop doctor`: which backend runs here and why, what is missing, and a one-second self-test."""

import asyncio
import json
import os
import platform
import resource
import socket
import sys
import sysconfig
import time

import pyloop


def _read(path):
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return None


def _status_field(name):
    for line in (_read("/proc/self/status") or "").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return value.strip()
    return None


def _version_of(distribution):
    from importlib import metadata
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def versions():
    """Versions of everything that matters."""
    import ssl
    found = {
        "pyloop": pyloop.__version__,
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        "gil_enabled": getattr(sys, "_is_gil_enabled", lambda: True)(),
        "kernel": platform.release(),
        "libc": " ".join(platform.libc_ver()),
        "openssl": ssl.OPENSSL_VERSION,
    }
    for name in ("uvloop", "uvicorn", "fastapi", "starlette", "anyio"):
        found[name] = _version_of(name)
    return found


def backends():
    """For each backend: is it usable, and if not, the cause."""
    result = {}
    for name in ("io_uring", "epoll", "kqueue"):
        try:
            pyloop.new_event_loop(backend=name).close()
        except (RuntimeError, OSError) as error:
            result[name] = {"usable": False, "cause": str(error)}
        else:
            result[name] = {"usable": True, "cause": None}
    return result


def default_backend():
    """The one a loop gets that asks for none, or None when there is none: the self-test then says why."""
    try:
        loop = pyloop.new_event_loop()
    except (RuntimeError, OSError):
        return None
    backend = loop.backend
    loop.close()
    return backend


def limits():
    """The environment's limits, with a remark where one is low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    memlock, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    seccomp = {"0": "off", "1": "strict", "2": "filter"}.get(_status_field("Seccomp"), "unknown")
    quota = _read("/sys/fs/cgroup/cpu.max")
    cpus = None
    if quota and not quota.startswith("max"):
        used, period = quota.split()
        cpus = round(int(used) / int(period), 2)
    return {
        "io_uring_disabled": _read("/proc/sys/kernel/io_uring_disabled"),
        "seccomp": seccomp,
        "memlock_bytes": None if memlock == resource.RLIM_INFINITY else memlock,
        "fd_soft": soft,
        "fd_hard": hard,
        "somaxconn": _read("/proc/sys/net/core/somaxconn"),
        "cpus": os.cpu_count(),
        "cpus_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "cgroup_cpu_quota": cpus,
    }


def advice(report):
    """What to change, as sentences; empty when all is well."""
    hints = []
    limit, ring = report["limits"], report["backends"]["io_uring"]
    if not ring["usable"] and sys.platform == "linux":
        hints.append(f"io_uring is not used: {ring['cause']}. epoll is an equal; nothing is broken.")
        if limit["io_uring_disabled"] not in (None, "0"):
            hints.append("sysctl kernel.io_uring_disabled=0 would allow it.")
        if limit["seccomp"] == "filter":
            hints.append("A seccomp filter is active (containers have one by default).")
    if limit["fd_soft"] < 10000:
        hints.append(f"Only {limit['fd_soft']} file descriptors: raise `ulimit -n` for many connections.")
    quota = limit["cgroup_cpu_quota"]
    if quota is not None and quota < 1:
        hints.append(f"The cgroup allows {quota} CPUs: expect throttling.")
    variable = os.environ.get("PYLOOP_BACKEND")
    if variable:
        hints.append(f"PYLOOP_BACKEND={variable} forces the backend.")
    if report["versions"]["free_threaded"] and report["versions"]["gil_enabled"]:
        hints.append("This is a free-threaded build, but some extension module switched the GIL on.")
    return hints


async def _exercise(seconds):
    """Round trips through callbacks, timers, a thread and a socket. Returns counts."""
    loop = asyncio.get_running_loop()
    counts = {"echo_round_trips": 0, "timers": 0, "thread_calls": 0}

    async def echo(reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        payload = os.urandom(1024)
        writer.write(payload)
        if await reader.readexactly(1024) != payload:
            raise RuntimeError("the echo came back changed")
        counts["echo_round_trips"] += 1
        if counts["echo_round_trips"] % 100 == 0:
            started = loop.time()
            await asyncio.sleep(0.001)
            if loop.time() - started < 0.001:
                raise RuntimeError("a timer fired early")
            counts["timers"] += 1
            await loop.run_in_executor(None, time.monotonic)
            counts["thread_calls"] += 1
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
    return counts


def self_test(seconds=1.0):
    """One second of real work on the default backend."""
    try:
        with asyncio.Runner(loop_factory=pyloop.new_event_loop) as runner:
            return {"passed": True, **runner.run(_exercise(seconds))}
    except Exception as error:
        return {"passed": False, "error": f"{type(error).__name__}: {error}"}


def examine():
    """The whole report as a dict of plain values."""
    report = {"backend": default_backend(), "versions": versions(), "backends": backends(), "limits": limits()}
    report["self_test"] = self_test()
    report["advice"] = advice(report)
    return report


def _print(report):
    print(f"backend here: {report['backend'] or 'none'}")
    for title in ("versions", "backends", "limits", "self_test"):
        print(f"\n{title.replace('_', '-')}")
        for key, value in report[title].items():
            if isinstance(value, dict):
                value = "usable" if value["usable"] else f"not usable: {value['cause']}"
            print(f"  {key.replace('_', ' '):22} {'-' if value is None else value}")
    print("\nadvice")
    for line in report["advice"] or ["nothing to change"]:
        print(f"  {line}")


def main(arguments):
    """Exit status 0 if the self-test passed, 1 otherwise, 2 for a wrong option."""
    if arguments not in ([], ["--json"]):
        print("usage: python -m pyloop doctor [--json]", file=sys.stderr)
        return 2
    report = examine()
    if arguments:
        print(json.dumps(report, indent=2))
    else:
        _print(report)
    return 0 if report["self_test"]["passed"] else 1
