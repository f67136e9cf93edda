"""perf_analyzer, a load generator that nobody here wrote: set up on demand, run once, its raw times read back.

Its binary ships only inside the `tritonclient` 2.41 wheel, which does not fit beside the project: it gets a virtual
environment of its own, `.venv-perf`.
"""

import ctypes
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tickserve.errors import Code, ConfigurationError, StatusError

ENVIRONMENT = Path(__file__).resolve().parent.parent / ".venv-perf"
BINARY = ENVIRONMENT / "bin" / "perf_analyzer"
WHEELS = ("tritonclient==2.41.*", "nvidia-cuda-runtime-cu12==12.*")
SYSTEM_LIBRARY, SYSTEM_PACKAGE = "libb64.so.0d", "libb64-0d"
SETUP_TIMEOUT_S = 600.0
# The tool wants three good windows, each 1.2 times as long as asked for, and goes on where it finds one bad.
MAX_WINDOWS = 10
# Starting, connecting and writing the export; a run that takes longer hangs.
SLACK_S = 60.0


@dataclass(frozen=True)
class Measurement:
    """One run: `latencies_ns`, one a request (n,), as the client saw them, and the time from first to last."""

    latencies_ns: NDArray[np.int64]
    span_s: float

    @property
    def requests_per_s(self) -> float:
        """Throughput over the whole run."""
        return len(self.latencies_ns) / self.span_s

    def quantile_us(self, q: float) -> float:
        """Quantile of the latencies, in microseconds."""
        return float(np.quantile(self.latencies_ns, q)) / 1e3


def set_up() -> None:
    """Makes `.venv-perf` where it is missing; a second call does nothing.

    Raises
    ------
    ConfigurationError
        Where a package cannot be installed.
    """
    if not BINARY.exists() or _cuda_runtime() is None:
        _install([sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)])
        # Only the binary is wanted: the Python side's dependencies stay away.
        _install([str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps", *WHEELS])
    if not _has_system_library():
        _install(["apt-get", "-qq", "update"])
        _install(["apt-get", "-qq", "-y", "install", SYSTEM_PACKAGE])


def run(
    address: str,
    model: str,
    name: str,
    inputs: NDArray[np.float32],
    concurrency: int,
    window_ms: int,
    *,
    streaming: bool = False,
) -> Measurement:
    """Loads `model` at `address` (host:port) with unary calls, or over one stream, and returns the raw times.

    Parameters
    ----------
    name : str
        Of the model's input.
    inputs : ndarray of shape (requests, rows, columns)
        What is sent, one request after the other and from the first on again. (What the tool makes up itself is
        random bits, NaN among them.)
    concurrency : int
        Requests kept in flight.
    window_ms : int
        Length of one measurement window; a run is at least three of them, each a fifth longer.

    Raises
    ------
    StatusError
        Where the tool fails, a request fails, or the run hangs.
    """
    with tempfile.TemporaryDirectory() as scratch:
        export, data = Path(scratch) / "requests.json", Path(scratch) / "inputs.json"
        shape = list(inputs.shape[1:])
        requests = [{name: {"content": values.ravel().tolist(), "shape": shape}} for values in inputs]
        data.write_text(json.dumps({"data": requests}))
        command = [str(BINARY), "-m", model, "-u", address, "-i", "grpc", "--input-data", str(data)]
        command += ["--shape", f"{name}:{','.join(map(str, shape))}"]
        command += ["--concurrency-range", str(concurrency), "--measurement-interval", str(window_ms)]
        command += ["--max-trials", str(MAX_WINDOWS), "--stability-percentage", "999", "--percentile", "99"]
        command += ["--profile-export-file", str(export), *(["--async", "--streaming"] if streaming else [])]
        limit_s = 2 * MAX_WINDOWS * window_ms / 1e3 + SLACK_S
        try:
            done = subprocess.run(
                command,
                env=os.environ | {"LD_LIBRARY_PATH": str(_cuda_runtime())},
                capture_output=True,
                text=True,
                timeout=limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise StatusError(
                f"perf_analyzer did not end within {limit_s:.0f} s against {address}", code=Code.DEADLINE_EXCEEDED
            ) from None
        if done.returncode != 0 or not export.exists():
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise StatusError(
                f"perf_analyzer failed against {address} (exit {done.returncode}): {' '.join(said[-3:])}",
                code=Code.UNKNOWN,
            )
        return _read(json.loads(export.read_bytes()))


def _read(export: dict[str, list[dict[str, list[dict[str, object]]]]]) -> Measurement:
    requests = export["experiments"][0]["requests"]
    starts = np.array([request["timestamp"] for request in requests], dtype=np.int64)
    ends = np.array([request["response_timestamps"] for request in requests], dtype=np.int64)[:, -1]
    return Measurement(ends - starts, float(ends.max() - starts.min()) / 1e9)


def _cuda_runtime() -> Path | None:
    """The folder of libcudart, which the binary is linked to though no device is used."""
    found = sorted(ENVIRONMENT.glob("lib/python3.*/site-packages/nvidia/cuda_runtime/lib"))
    return found[0] if found else None


def _has_system_library() -> bool:
    try:
        ctypes.CDLL(SYSTEM_LIBRARY)
    except OSError:
        return False
    return True


def _install(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=SETUP_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stderr", None) or error).strip().splitlines()
        raise ConfigurationError(
            f"perf_analyzer cannot be set up: `{' '.join(command)}` failed: {said[-1] if said else error}. "
            f"It needs {' and '.join(WHEELS)} from PyPI and the system package {SYSTEM_PACKAGE}."
        ) from None
