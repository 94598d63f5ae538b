"""Memory that is freed and allocated again."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="for glibc's malloc")

PROGRAM = """
import resource, threading
from noisydqn.allocation import keep_freed_memory
{first}
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work():
    bytearray(50_000_000)
    before = faults()
    for _ in range(20):
        bytearray(50_000_000)
    print(faults() - before)
work()
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


def page_faults(first: str, **environment: str) -> list[int]:
    """Count the page faults of a main thread and another one that allocate memory repeatedly."""
    outside = {
        name: x
        for name, x in os.environ.items()
        if not name.startswith("MALLOC_") and name != "GLIBC_TUNABLES"
    }
    command = [sys.executable, "-c", PROGRAM.format(first=first)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, check=True, text=True, env=outside | environment
    )
    return list(map(int, done.stdout.split()))


def test_freed_memory_is_kept() -> None:
    assert min(page_faults("")) > 300  # of pages that may be large
    assert max(page_faults("keep_freed_memory()")) < 100


def test_settings_of_the_user_are_left() -> None:
    for environment in ({"MALLOC_PERTURB_": "0"}, {"GLIBC_TUNABLES": "glibc.malloc.perturb=0"}):
        assert min(page_faults("keep_freed_memory()", **environment)) > 300


def test_other_libraries_are_left() -> None:
    """Those without the function, say."""
    program = "import ctypes; ctypes.CDLL = lambda _: object(); keep_freed_memory()"
    assert min(page_faults(program)) > 300
