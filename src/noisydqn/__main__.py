"""`python -m noisydqn`."""

import sys

from noisydqn.cli import main

if __name__ == "__main__":
    sys.exit(main())
