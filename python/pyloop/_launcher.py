"""`python -m pyloop …`: run any module or script with pyloop as asyncio's default loop, or `doctor`.

The program is not changed. Up to Python 3.15 the loop policy is set; on every version asyncio.new_event_loop,
which asyncio.run() and Runner use, is replaced too. uvicorn, which since 0.36 names its loop itself, gets
pyloop for "auto" and "asyncio".
"""

import asyncio
import importlib.abc
import importlib.machinery
import os
import runpy
import sys

import pyloop

USAGE = """\
usage: python -m pyloop doctor [--json]
       python -m pyloop -m MODULE [ARGUMENT ...]
       python -m pyloop SCRIPT.py|MODULE [ARGUMENT ...]

Runs a module or script with pyloop as asyncio's default event loop. To serve an ASGI
application use `python -m pyloop.run`.
"""


class _UvicornPatch(importlib.abc.MetaPathFinder):
    """Points uvicorn's default loops at pyloop when uvicorn.config is imported."""

    def find_spec(self, name, path, target=None):
        if name != "uvicorn.config":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            factories = getattr(module, "LOOP_FACTORIES", None)
            if isinstance(factories, dict):  # uvicorn 0.36 and newer
                factories.update(auto="pyloop._launcher:uvicorn_loop_factory",
                                 asyncio="pyloop._launcher:uvicorn_loop_factory")

        spec.loader.exec_module = exec_module
        return spec


def uvicorn_loop_factory(use_subprocess=False):
    """What uvicorn calls to get a loop factory."""
    return pyloop.new_event_loop


def make_default():
    """From now on asyncio's default loop in this process is pyloop's."""
    if sys.version_info < (3, 14):
        asyncio.set_event_loop_policy(pyloop.EventLoopPolicy())
    elif sys.version_info < (3, 16):
        import warnings
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            asyncio.set_event_loop_policy(pyloop.EventLoopPolicy())
    asyncio.new_event_loop = asyncio.events.new_event_loop = pyloop.new_event_loop
    sys.meta_path.insert(0, _UvicornPatch())


def main():
    """The command line. Returns the exit status; a program that is run may raise SystemExit."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="", file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    if arguments[0] == "doctor":
        from pyloop import _doctor
        return _doctor.main(arguments[1:])
    is_module = arguments[0] == "-m"
    if is_module:
        arguments = arguments[1:]
    if not arguments or arguments[0].startswith("-"):
        print(USAGE, end="", file=sys.stderr)
        return 2
    target = arguments[0]
    make_default()
    sys.argv = arguments
    if not is_module and (target.endswith(".py") or os.path.exists(target)):
        if not os.path.exists(target):
            print(f"pyloop: no such file: {target}", file=sys.stderr)
            return 2
        sys.path[0] = os.path.dirname(os.path.abspath(target))
        runpy.run_path(target, run_name="__main__")
        return 0
    try:
        runpy.run_module(target, run_name="__main__", alter_sys=True)
    except ImportError as error:
        # runpy's own "No module named X" has no cause inside the program.
        if error.name is None or not (target + ".").startswith(error.name + "."):
            if f"No module named {target}" not in str(error) and not str(error).startswith("No code object"):
                raise
        print(f"pyloop: cannot run {target!r}: {error}", file=sys.stderr)
        return 2
    return 0
