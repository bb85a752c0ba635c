"""`python -m automixsearch` is the command `automixsearch`."""

import sys

from automixsearch.cli import main

sys.exit(main())
