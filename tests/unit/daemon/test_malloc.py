"""What freed memory costs when it is used again."""

import platform
import subprocess
import sys

import pytest

_CHILD = """
import resource
from forebay.daemon.malloc import keep_freed

def use_and_free(times):
    for _ in range(times):
        [bytearray(110 * 1024) for _ in range(48)]

keep_freed()
use_and_free(3)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use_and_free(20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc has it")
def test_buffers_that_are_freed_and_made_again_are_no_new_memory_to_the_kernel() -> None:
    done = subprocess.run([sys.executable, "-c", _CHILD], capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) < 48  # of 27,000 pages
