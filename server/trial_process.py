"""The process that tries versions before the server loads them: a JSON line in, two out, until its input ends.

The first says that it begins, so that its end before that is held against no version. It loads the very files that the
digest names, runs one row and the golden rows, and says how that went. What ends it by a signal would have ended the
server. It takes the processor after those that serve, and is the first to go where the machine runs out of memory.
"""

import contextlib
import ctypes
import gc
import json
import os
import resource
import select
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from mlops.package import MANIFEST_FILE, MODEL_FILE, Package, TensorSpec, read_bare_model, read_package
from mlops.package.datatypes import numpy_dtype
from mlops.package.runtime import golden_error, open_model
from tickserve.errors import Code, DamagedPackageError, TickserveError

_NICENESS = 10
_FIRST_TO_GO = "1000"
#: What the runtime takes for itself, once: no part of a version.
_OWN_BYTES = 64 << 20
_OUT_OF_MEMORY = ("bad_alloc", "bad allocation", "allocate memory", "BFCArena")


def main() -> None:
    """Tries what it is told to until there is no more."""
    # Nothing that a library prints may come between the answers.
    answers = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with contextlib.suppress(OSError):
        os.nice(_NICENESS)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO)
    threading.Thread(target=_end_with_server, daemon=True).start()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        # For what holds the interpreter and does not end either.
        signal.setitimer(signal.ITIMER_REAL, request["timeout_s"])
        os.write(answers, b"begun\n")
        with _room(request["room_bytes"]):
            answer = _answer(request)
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.write(answers, json.dumps(answer).encode() + b"\n")


def _end_with_server() -> None:
    """Ends this process once nobody holds the other end of its input any more, whatever is being tried."""
    poll = select.poll()
    poll.register(sys.stdin.fileno(), 0)
    poll.poll()
    os._exit(1)


def try_version(model: str, path: Path, digest: str) -> None:
    """Loads one version and runs it.

    Raises
    ------
    DamagedPackageError
        Where a file is not the one that the digest names.
    PackageError
        Where it does not load or run, or its outputs are not the golden ones.
    MemoryError
        Where there is not the memory for it.
    """
    is_package = (path / MANIFEST_FILE).exists()
    package = read_package(path) if is_package else read_bare_model(path, model)
    if package.digest != digest:
        raise DamagedPackageError(f"{path} changed after it was verified", field=MODEL_FILE)
    run = open_model(package.model)
    one_row = _one_row(package)
    if one_row is not None:
        run(one_row)
    if package.golden is not None:
        golden_error(package.golden, run(package.golden.inputs))


def _answer(request: dict[str, Any]) -> dict[str, str]:
    try:
        try_version(request["model"], Path(request["path"]), request["digest"])
    except MemoryError:
        return _no_room(request)
    except TickserveError as error:
        if any(sign in error.message for sign in _OUT_OF_MEMORY):
            return _no_room(request)
        return {"error": error.message, "code": error.code.name, "field": error.field}
    except Exception as error:  # noqa: BLE001 - whatever a model does, it is the answer
        return {"error": f"{type(error).__name__}: {error}", "code": Code.FAILED_PRECONDITION.name, "field": MODEL_FILE}
    return {}


def _no_room(request: dict[str, Any]) -> dict[str, str]:
    room = f"the {request['room_bytes'] / 2**20:.1f} MiB that are left" if request["room_bytes"] else "what there is"
    text = f"memory ran out: loading it takes more than {room}"
    return {"error": text, "code": Code.RESOURCE_EXHAUSTED.name, "field": "memory_budget_mb"}


def _one_row(package: Package) -> dict[str, Any] | None:
    """One row of zeros; None where not every input has a fixed shape and elements of fixed size."""
    inputs = package.manifest.inputs
    shapes = [_one_row_shape(spec) for spec in inputs]
    if None in shapes:
        return None
    return {
        spec.name: np.zeros(shape or (), numpy_dtype(spec.datatype)) for spec, shape in zip(inputs, shapes, strict=True)
    }


def _one_row_shape(spec: TensorSpec) -> tuple[int, ...] | None:
    shape = (1, *spec.shape[1:]) if spec.shape and spec.shape[0] == -1 else spec.shape
    return None if -1 in shape or spec.datatype == "BYTES" else shape


@contextlib.contextmanager
def _room(room_bytes: int) -> Any:
    """Bounds what this process may take beyond what it has; 0 is no bound. Gives back what was taken."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if room_bytes:
        bound = _data_bytes() + _OWN_BYTES + room_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (bound if hard < 0 else min(bound, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def _data_bytes() -> int:
    """What counts against RLIMIT_DATA now."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmData:"))


if __name__ == "__main__":
    main()
