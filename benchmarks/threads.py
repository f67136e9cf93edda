"""Processor time of some threads of another process, by their names."""

import os
from pathlib import Path


def cpu_ns(pid: int, name: str) -> int:
    """Of all threads of a process whose names begin so, user and system, since they began.

    The scheduler's own sum in /proc/PID/task/*/schedstat; where the kernel keeps none, that in ticks of
    /proc/PID/task/*/stat.
    """
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text().startswith(name):
            total += _of_task(task)
    return total


def _of_task(task: Path) -> int:
    try:
        return int((task / "schedstat").read_text().split()[0])
    except (OSError, IndexError):
        # The name is in parentheses and may hold anything; user and system time are the 12th and 13th field after it.
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
