"""`python -m pyloop.run MODULE:ATTR`: serve an ASGI application, or run an `async def main()`.

pyloop.run is also a function. Importing this module puts it in the function's place in the package, so it is
callable as well and does the same.
"""

import sys
import types

from pyloop import _runner


class _CallableModule(types.ModuleType):
    __call__ = staticmethod(_runner.run)


def main(argv=None):
    """The command line; returns the exit status."""
    from pyloop._run.cli import main as cli_main

    return cli_main(argv)


if __name__ == "__main__":
    sys.exit(main())

sys.modules[__name__].__class__ = _CallableModule
