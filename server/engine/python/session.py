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

    `run` may be called from any thread. `run_one` reuses its buffers: it and what it returns belong to the engine's
    own thread, until its next call.
    """

    def __init__(self, model: bytes, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        self._session = open_session(model)
        _require_names("input", [tensor.name for tensor in self._session.get_inputs()], inputs)
        _require_names("output", [tensor.name for tensor in self._session.get_outputs()], outputs)
        self._input_names = [tensor.name for tensor in inputs]
        self._output_names = [tensor.name for tensor in outputs]
        self._one_row: tuple[Any, list[Array], list[Array]] | None = None
        shapes = [_one_row_shape(tensor) for tensor in (*inputs, *outputs)]
        if all(shape is not None for shape in shapes):
            self._one_row = self._bind(inputs, outputs)

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Runs any number of rows; `arrays` in the order of the inputs, the result in that of the outputs."""
        outputs: list[Array] = self._session.run(self._output_names, dict(zip(self._input_names, arrays, strict=True)))
        return outputs

    def run_one(self, arrays: Sequence[Array]) -> Sequence[Array]:
        """Runs one row through the bound buffers, where the schema allows them."""
        if self._one_row is None:
            return self.run(arrays)
        binding, buffers, outputs = self._one_row
        for buffer, array in zip(buffers, arrays, strict=True):
            np.copyto(buffer, array)
        try:
            self._session.run_with_iobinding(binding)
        except Exception:  # noqa: BLE001 - whatever it was, the other run meets it too, or answers
            # Outputs of another shape than declared do not fit the buffers; the checks on outputs speak of them.
            return self.run(arrays)
        return outputs

    def _bind(
        self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
    ) -> tuple[Any, list[Array], list[Array]]:
        binding = self._session.io_binding()
        buffers: list[Array] = []
        results: list[Array] = []
        for specs, arrays, bind in ((inputs, buffers, binding.bind_input), (outputs, results, binding.bind_output)):
            for spec in specs:
                array = np.zeros(_one_row_shape(spec) or (), dtype=numpy_dtype(spec.datatype))
                bind(spec.name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
                arrays.append(array)
        return binding, buffers, results


def _one_row_shape(spec: TensorSpec) -> tuple[int, ...] | None:
    """The shape of one row, or None where it is not fixed or the elements have no fixed size."""
    shape = (1, *spec.shape[1:]) if spec.shape and spec.shape[0] == -1 else spec.shape
    return None if -1 in shape or spec.datatype == "BYTES" else shape


def _require_names(what: str, found: Sequence[str], expected: Sequence[TensorSpec]) -> None:
    names = [tensor.name for tensor in expected]
    if sorted(found) != sorted(names):
        raise PackageError(f"the model's {what}s are {', '.join(found)}, its manifest says {', '.join(names)}")
