"""Settings of all tests: programs are compiled soon, and shared by the processes that run them."""

import os
from pathlib import Path

# Before JAX is imported, and for the commands that tests start. Tests compile for longer than they
# run; code that is hardly optimized is there in a quarter of the time.
FAST = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", FAST)
os.environ.setdefault("NOISYDQN_CACHE", str(Path(__file__).parent.parent / "build" / "test-cache"))
# Tests run side by side: PyTorch's threads would only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
