"""python -m optkern: the same as the command optkern."""

import sys

from .cli import main

sys.exit(main())
