"""`python -m reclib`."""

import sys

from reclib.cli import main

if __name__ == "__main__":
    sys.exit(main())
