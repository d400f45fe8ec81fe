"""The command line of `python -m pyloop.run`.

Exit status: that of main(); 0 after SIGINT; death by SIGTERM after SIGTERM, as with uvicorn; 2 when the command
line or the import is at fault; 3 when serving could not start.
"""

import argparse
import os
import signal
import sys
import traceback

from .. import _core, _runner
from .._loop import check_switch_interval
from .._watchdog import check_limit
from . import load, logs, serving

USAGE, STARTUP = 2, 3

# Options of uvicorn that change nothing here, with the number of their arguments.
_IGNORED = {
    "--loop": 1, "--http": 1, "--ws": 1, "--ws-max-size": 1, "--ws-max-queue": 1, "--ws-ping-interval": 1,
    "--ws-ping-timeout": 1, "--ws-per-message-deflate": 1, "--h11-max-incomplete-event-size": 1,
    "--use-colors": 0, "--no-use-colors": 0, "--proxy-headers": 0, "--no-proxy-headers": 0,
    "--forwarded-allow-ips": 1, "--reload": 0, "--reload-dir": 1, "--reload-include": 1, "--reload-exclude": 1,
    "--reload-delay": 1, "--log-config": 1, "--limit-max-requests": 1, "--limit-max-requests-jitter": 1,
    "--timeout-worker-healthcheck": 1, "--reset-contextvars": 0,
}  # fmt: skip
_IGNORED_REASON = {
    "--proxy-headers": "X-Forwarded-* fields are not interpreted",
    "--forwarded-allow-ips": "X-Forwarded-* fields are not interpreted",
    "--reload": "restart it by hand",
    "--limit-max-requests": "there is no supervisor that would restart it",
}
_REFUSED = ("--ssl-keyfile", "--ssl-certfile", "--ssl-keyfile-password", "--ssl-version", "--ssl-cert-reqs",
            "--ssl-ca-certs", "--ssl-ciphers", "--header", "--env-file")  # fmt: skip


class _Ignored(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        namespace.ignored = [*(namespace.ignored or ()), option_string]


class _Refused(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        parser.error(f"{option_string} is an option of uvicorn that pyloop does not have")


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message):
        self.exit(USAGE, f"error: {message}\n")


def _positive(kind, zero=True):
    def convert(text):
        value = kind(text)
        if not (value > 0 or (zero and value == 0)):
            raise ValueError
        return value

    convert.__name__ = "number"
    return convert


def _port(text):
    port = int(text)
    if not 0 <= port <= 65535:
        raise ValueError
    return port


_port.__name__ = "port number"


def make_parser():
    parser = _Parser(
        prog="python -m pyloop.run", usage="%(prog)s MODULE:ATTRIBUTE [options] [-- arguments of main]",
        description="Serve an ASGI application, or run an async def main(). Names and defaults of the options are "
                    "uvicorn's.", allow_abbrev=False)  # fmt: skip
    add = parser.add_argument
    add("target", metavar="MODULE:ATTRIBUTE", nargs="?", help="the application, a factory of it, or a main function")
    add("--factory", action="store_true", help="call it without arguments to get the application")
    add("--app-dir", default="", metavar="FOLDER", help="where modules are looked for first; default: here")
    add("--interface", default="auto", choices=("auto", "asgi", "asgi3", "asgi2", "main"))
    add("--backend", default=None, choices=("auto", "io_uring", "epoll", "kqueue"))
    add("--host", default="127.0.0.1", help="default: 127.0.0.1")
    add("--port", default=8000, type=_port, help="0: any free one; default: 8000")
    add("--uds", default=None, metavar="PATH", help="Unix socket")
    add("--fd", default=None, type=_positive(int), help="socket to inherit")
    add("--backlog", default=2048, type=_positive(int))
    add("--lifespan", default="auto", choices=("auto", "on", "off"))
    add("--lifespan-scope", default="worker", choices=("worker", "process"),
        help="with --parallel: start-up and shutdown on each thread, with a state of its own, or once")  # fmt: skip
    add("--parallel", action="store_true", help="one program on several threads; see the README")
    add("--threads", default=None, type=_positive(int, zero=False), metavar="N",
        help="with --parallel: how many; default: one for each processor")  # fmt: skip
    add("--root-path", default="", metavar="PATH")
    add("--log-level", default="info", choices=tuple(logs.LEVELS))
    add("--access-log", action=argparse.BooleanOptionalAction, default=True)
    add("--server-header", action=argparse.BooleanOptionalAction, default=True)
    add("--date-header", action=argparse.BooleanOptionalAction, default=True)
    add("--limit-concurrency", default=None, type=_positive(int, zero=False), metavar="N",
        help="connections or requests beyond which the answer is 503")  # fmt: skip
    add("--limit-body-size", default=None, type=_positive(int), metavar="BYTES",
        help="content beyond which the answer is 413; default: none")  # fmt: skip
    add("--timeout-keep-alive", default=5, type=_positive(float), metavar="SECONDS")
    add("--timeout-headers", default=30, type=_positive(float), metavar="SECONDS",
        help="for a client to send the head of a request; default: 30")  # fmt: skip
    add("--timeout-graceful-shutdown", default=None, type=_positive(float), metavar="SECONDS")
    add("--watchdog", default=None, type=_positive(float), metavar="SECONDS",
        help="report what blocks the loop for longer, with its stack; default: PYLOOP_WATCHDOG, or never")  # fmt: skip
    add("--switch-interval", default=None, type=_positive(float), metavar="SECONDS",
        help="sys.setswitchinterval() while the server runs: what it waits for the GIL beside a thread that computes; "
        "default: PYLOOP_SWITCH_INTERVAL, or the interpreter's")  # fmt: skip
    add("--workers", default=1, type=_positive(int, zero=False), help="only 1; see --parallel")
    add("--version", action="version", version=f"pyloop {_core.__version__}")
    for name, count in _IGNORED.items():
        add(name, action=_Ignored, nargs=count, dest="ignored", help=argparse.SUPPRESS)
    for name in _REFUSED:
        add(name, action=_Refused, nargs="?", help=argparse.SUPPRESS)
    return parser


def _split(argv):
    """What stands behind "--" belongs to main()."""
    if "--" in argv:
        at = argv.index("--")
        return argv[:at], argv[at + 1:]
    return argv, []


def _fail(status, message, error=None, debug=False):
    if debug and error is not None:
        traceback.print_exception(error)
    print(f"error: {message}", file=sys.stderr)
    return status


def _warn_about(arguments):
    seen = set()
    for name in arguments.ignored or ():
        if name not in seen:
            seen.add(name)
            logs.log.warning("%s has no effect: %s", name, _IGNORED_REASON.get(name, "it is uvicorn's"))


def _prepare_path(folder):
    # As uvicorn: the folder given, or the current one, comes first.
    path = os.path.abspath(folder) if folder else os.getcwd()
    if not sys.path or sys.path[0] != path:
        sys.path.insert(0, path)


def _run_main(function, loop_options):
    async def call():
        return await function()

    try:
        result = _runner.run(call(), **loop_options)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return result if isinstance(result, int) else 0


def _serve(application, arguments, loop_options):
    names = {field for field in serving.Options.__dataclass_fields__ if hasattr(arguments, field)}
    options = serving.Options(**{name: getattr(arguments, name) for name in names})
    options.access_log = options.access_log and logs.log.isEnabledFor(logs.LEVELS["info"])
    server = None

    async def serve():
        nonlocal server
        server = serving.Server(application, options)
        await server.serve()

    debug = arguments.log_level in ("debug", "trace")
    try:
        _runner.run(serve(), **loop_options)
    except serving.StartupError as error:
        return _fail(STARTUP, str(error), error, debug)
    except KeyboardInterrupt:
        return 0
    for number in server.captured_signals:
        if number != signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
    return 0


def _check_backend(name):
    """RuntimeError tells why a loop cannot be made."""
    from .._loop import Loop

    Loop(backend=name).close()


def main(argv=None):
    own, extra = _split(list(sys.argv[1:] if argv is None else argv))
    parser = make_parser()
    arguments, unknown = parser.parse_known_args(own)
    debug = arguments.log_level in ("debug", "trace")
    if arguments.target is None:
        parser.error("which application? Give it as MODULE:ATTRIBUTE")
    if arguments.workers > 1:
        parser.error("--workers: pyloop runs one process so far; start several behind one socket with --fd")
    if arguments.threads is not None and not arguments.parallel:
        parser.error("--threads: only with --parallel")
    if arguments.threads is not None and arguments.threads > 64:
        parser.error(f"argument --threads: at most 64, not {arguments.threads}")
    try:
        loop_options = {"backend": arguments.backend, "watchdog": check_limit(arguments.watchdog),
                        "switch_interval": check_switch_interval(arguments.switch_interval)}
    except ValueError as error:
        parser.error(str(error))
    if arguments.parallel:
        loop_options |= {"parallel": True, "workers": arguments.threads}
    _prepare_path(arguments.app_dir)
    sys.argv[:] = [arguments.target, *unknown, *extra]
    try:
        _check_backend(arguments.backend)
        found = load.load(arguments.target)
        if arguments.factory:
            found = load.call_factory(found, arguments.target)
        kind, found = load.resolve(found, arguments.target, arguments.interface)
    except load.LoadError as error:
        return _fail(USAGE, str(error), error.__cause__ or error, debug)
    except RuntimeError as error:
        return _fail(USAGE, str(error), error, debug)
    if kind == "main":
        return _run_main(found, loop_options)
    if unknown or extra:
        parser.error(f"unrecognized arguments: {' '.join([*unknown, *extra])}")
    logs.set_up(arguments.log_level)
    _warn_about(arguments)
    return _serve(found, arguments, loop_options)
