"""Where messages go: the logger "pyloop" on stderr as uvicorn's, the access log on stdout."""

import logging
import sys

LEVELS = {
    "critical": logging.CRITICAL,
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": 5,
}

log = logging.getLogger("pyloop")


class _Formatter(logging.Formatter):
    def format(self, record):
        record.prefix = f"{record.levelname}:".ljust(9)
        return super().format(record)


def set_up(level):
    """Gives the logger a handler, unless the program has configured logging by itself."""
    log.setLevel(LEVELS[level])
    if not log.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(_Formatter("%(prefix)s %(message)s"))
        log.addHandler(handler)
        log.propagate = False


def on_error(message, exception):
    """What the HTTP server in C reports."""
    log.error("%s", message, exc_info=exception)


def write_access(lines):
    """Takes bytes: complete lines."""
    stream = sys.stdout
    if stream is None:
        return
    binary = getattr(stream, "buffer", None)
    if binary is None:
        stream.write(lines.decode("ascii", "replace"))
    else:
        stream.flush()  # keeps the order with what the application printed
        binary.write(lines)
        binary.flush()
