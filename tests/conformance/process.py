"""What this process holds, the engine under test with it."""

import gc
import os
from pathlib import Path


def resident_bytes() -> int:
    """Memory in use, without what only awaits collection."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors() -> int:
    """Open file descriptors."""
    return len(os.listdir("/proc/self/fd"))
