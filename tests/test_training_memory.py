"""Memory that a training frees and takes again."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
if sys.argv[1] == "keep":
    from bnnlib.training import memory
    memory.keep_freed()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for i in range(24):  # blocks larger than any that malloc keeps by itself; the first ones differ in alignment
    before = faults()
    torch.empty(64 << 20, dtype=torch.uint8).fill_(1)
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc alone is told what to keep")
def test_blocks_freed_are_taken_again_without_the_system():
    faults = {
        mode: int(
            subprocess.run(
                [sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True
            ).stdout
        )
        for mode in ("default", "keep")
    }
    assert faults["keep"] < 100 < faults["default"], "pages that the system had to give for 64 MB"
