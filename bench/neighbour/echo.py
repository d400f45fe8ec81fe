"""The echo server with a neighbour: ``python -m bench.neighbour.echo LOOP protocol``."""

from bench.echo.server import main
from bench.neighbour import spin

if __name__ == "__main__":
    spin.start()
    main()
