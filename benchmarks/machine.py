"""Facts about the machine that a figure belongs to, and the share of its time that the host took away."""

import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("tickserve", "tickserve-native", "grpcio", "protobuf", "numpy", "onnxruntime")


@dataclass(frozen=True)
class Machine:
    """What a reader needs to compare one result with another; `load_average` over the last minute."""

    measured_at: str
    cpu: str
    cpus: int
    memory_bytes: int
    kernel: str
    python: str
    packages: Mapping[str, str | None]
    code_revision: str | None
    load_average: float


def describe() -> Machine:
    """This machine, now."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return Machine(
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        cpu=models[0] if models else platform.machine(),
        cpus=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        kernel=platform.release(),
        python=platform.python_version(),
        packages={name: _version(name) for name in PACKAGES},
        code_revision=_revision(),
        load_average=os.getloadavg()[0],
    )


def other_cpus(cpu: int) -> frozenset[int]:
    """Those that this process may use but one; that one where there is no other."""
    return frozenset(os.sched_getaffinity(0)) - {cpu} or frozenset({cpu})


class StealClock:
    """Share of all CPU time, since it was made, that the host gave to others."""

    def __init__(self) -> None:
        self._stolen, self._total = _ticks()

    def percent(self) -> float:
        """Percent of the time of all CPUs."""
        stolen, total = _ticks()
        return 100 * (stolen - self._stolen) / max(total - self._total, 1)


def _ticks() -> tuple[int, int]:
    # user nice system idle iowait irq softirq steal; guest time is already inside user.
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return fields[7], sum(fields)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _revision() -> str | None:
    done = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude", "*"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or None
