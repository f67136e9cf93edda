"""One ONNX Runtime session: single-threaded runs, with one row bound to buffers that are made once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops.package import TensorSpec
from mlops.package.datatypes import numpy_dtype
from mlops.package.runtime import open_session
from tickserve.errors import PackageError

Array = NDArray[Any]


class Session:
    """Runs one model.

    `run` may be called from any thread. `run_one` reuses its buffers: it and what it returns belong to one thread, the
    engine's own or that of shadows, until its next call.
    """

    def __init__(self, session: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        self._session = session
        self._specs = inputs, outputs
        self._input_names = [tensor.name for tensor in inputs]
        self._output_names = [tensor.name for tensor in outputs]
        self._one_row: tuple[Any, list[Array]] | None = None
        #: What `run_one` returns where it ran through the bound buffers.
        self.bound_outputs: list[Array] | None = None
        buffers, results = one_row_arrays(inputs), one_row_arrays(outputs)
        if buffers is not None and results is not None:
            binding = self._session.io_binding()
            for specs, arrays, bind in ((inputs, buffers, binding.bind_input), (outputs, results, binding.bind_output)):
                for spec, array in zip(specs, arrays, strict=True):
                    bind(spec.name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
            self._one_row, self.bound_outputs = (binding, buffers), results

    def apart(self) -> "Session":
        """The same model for another thread, with buffers of its own."""
        return Session(self._session, *self._specs)

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Runs any number of rows; `arrays` in the order of the inputs, the result in that of the outputs."""
        outputs: list[Array] = self._session.run(self._output_names, dict(zip(self._input_names, arrays, strict=True)))
        return outputs

    def run_one(self, arrays: Sequence[Array]) -> Sequence[Array]:
        """Runs one row through the bound buffers, where the schema allows them."""
        outputs = self.bound_outputs
        if self._one_row is None or outputs is None:
            return self.run(arrays)
        binding, buffers = self._one_row
        for buffer, array in zip(buffers, arrays, strict=True):
            np.copyto(buffer, array)
        try:
            self._session.run_with_iobinding(binding)
        except Exception:  # noqa: BLE001 - whatever it was, the other run meets it too, or answers
            # Outputs of another shape than declared do not fit the buffers; the checks on outputs speak of them.
            return self.run(arrays)
        return outputs


def load(model: bytes, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Session:
    """Loads a model. Raises PackageError where the runtime cannot, or its tensors are not those of the manifest."""
    session = open_session(model)
    _require_names("input", [tensor.name for tensor in session.get_inputs()], inputs)
    _require_names("output", [tensor.name for tensor in session.get_outputs()], outputs)
    return Session(session, inputs, outputs)


def one_row_arrays(specs: Sequence[TensorSpec]) -> list[Array] | None:
    """Zeros for one row of each tensor; None where not all have a fixed shape and elements of fixed size."""
    shapes = [_one_row_shape(spec) for spec in specs]
    if None in shapes:
        return None
    return [np.zeros(shape or (), numpy_dtype(spec.datatype)) for spec, shape in zip(specs, shapes, strict=True)]


def _one_row_shape(spec: TensorSpec) -> tuple[int, ...] | None:
    """The shape of one row, or None where it is not fixed or the elements have no fixed size."""
    shape = (1, *spec.shape[1:]) if spec.shape and spec.shape[0] == -1 else spec.shape
    return None if -1 in shape or spec.datatype == "BYTES" else shape


def _require_names(what: str, found: Sequence[str], expected: Sequence[TensorSpec]) -> None:
    names = [tensor.name for tensor in expected]
    if sorted(found) != sorted(names):
        raise PackageError(f"the model's {what}s are {', '.join(found)}, its manifest says {', '.join(names)}")
