"""A model in ONNX Runtime, for packaging and serving alike: loading it, and holding it to its golden rows."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from mlops.package._text import one_line
from mlops.package.datatypes import Array
from mlops.package.golden import Golden
from mlops.package.manifest import MODEL_FILE
from mlops.package.verify import Package
from tickserve.errors import PackageError

_TELEMETRY_OFF = "ORT_DISABLE_TELEMETRY"
#: Runs a loaded model: tensors in by name, tensors out by name.
Run = Callable[[Mapping[str, Array]], dict[str, Array]]


def disable_telemetry() -> None:
    """Keeps ONNX Runtime from reporting what it does; call before its library is loaded.

    Unless told otherwise, its wheels keep a device's id and every session that is made in a database below the user's
    home, and send that to their maker. ORT_DISABLE_TELEMETRY=0 in the environment lets it.
    """
    if not os.environ.get(_TELEMETRY_OFF):
        os.environ[_TELEMETRY_OFF] = "1"


def open_session(model: bytes) -> Any:
    """An `onnxruntime.InferenceSession` of one thread that neither spins nor keeps an arena.

    Raises PackageError where the runtime lacks an operator or finds the graph invalid.
    """
    disable_telemetry()
    # Imported late: the native engine's process must not load a second copy of the runtime.
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - the runtime's exceptions have no common base but this
        raise PackageError(_load_failure(onnxruntime.__version__, str(error)), field=MODEL_FILE) from None


def run_model(model: bytes, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs of one run on one thread, by name.

    Parameters
    ----------
    model : bytes
        An ONNX file.
    inputs : Mapping[str, ndarray]
        By tensor name.

    Raises
    ------
    PackageError
        Where the runtime lacks an operator, finds the graph invalid, or fails on these inputs.
    """
    return open_model(model)(inputs)


def open_model(model: bytes) -> Run:
    """Loads a model once and returns what runs it, on one thread; every run gives the bits that a server gives.

    Raises
    ------
    PackageError
        Where the runtime lacks an operator or finds the graph invalid; the runs raise it where they fail.
    """
    session = open_session(model)
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        try:
            return dict(zip(names, session.run(names, dict(inputs)), strict=True))
        except Exception as error:  # noqa: BLE001 - as above
            raise run_failure(error) from None

    return run


def check_model(package: Package) -> float:
    """Loads a verified package and runs its golden rows.

    Returns
    -------
    float
        Largest absolute difference from the golden outputs; 0 for a bare model, whose loading is not tried.

    Raises
    ------
    PackageError
        Where the model does not load or run, or its outputs are not the golden ones.
    """
    if package.golden is None:
        return 0.0
    return golden_error(package.golden, run_model(package.model, package.golden.inputs))


def golden_error(golden: Golden, outputs: Mapping[str, Array]) -> float:
    """Largest absolute difference of a run on the golden inputs from the golden outputs.

    Raises PackageError where they differ by more than the tolerance.
    """
    if mismatch := golden.mismatch(outputs):
        raise PackageError(f"{MODEL_FILE} does not repeat its golden rows: {mismatch}", field=MODEL_FILE)
    return golden.max_error(outputs)


def run_failure(error: Exception) -> PackageError:
    """What is wrong with a model that loads and whose run raised this."""
    return PackageError(f"{MODEL_FILE} fails on its inputs: {_reason(str(error))}", field=MODEL_FILE)


def _load_failure(version: str, message: str) -> str:
    reason = _reason(message)
    lacks = ("NOT_IMPLEMENTED", "No Op registered", "is not a registered function/op", "opset", "IR version")
    if any(sign in message for sign in lacks):
        return (
            f"{MODEL_FILE} uses an operator or operator set that onnxruntime {version} lacks: {reason}; "
            "export with the operators that it has, or serve with a newer runtime"
        )
    return f"{MODEL_FILE} cannot be loaded by onnxruntime {version}: {reason}"


def _reason(message: str) -> str:
    # The runtime's own prefix holds a number and a name of its source file, which help nobody.
    return one_line(message.rsplit("] : ", 1)[-1])
