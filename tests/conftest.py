"""Settings of all tests: compiled programs are shared by the processes that run them."""

import os
from pathlib import Path

CACHE = Path(__file__).parent.parent / "build" / "test-cache"

# Before JAX is imported, and for the commands that tests start.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(2**30))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
