"""python -m pyloop: see pyloop._launcher."""

import sys

from pyloop._launcher import main

sys.exit(main())
