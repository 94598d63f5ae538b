"""Settings of all tests: compiled programs are shared by the processes that run them."""

import os
from pathlib import Path

# For the commands that tests start, too.
os.environ.setdefault("NOISYDQN_CACHE", str(Path(__file__).parent.parent / "build" / "test-cache"))
