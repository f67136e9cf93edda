"""What is sent: golden rows of a package, random values within the schema, or arrays of a file; and their encoding."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from tickserve.cli.bench.target import Api, Schema, Target, Tensor
from tickserve.errors import ConfigurationError
from tickserve.v1 import prediction_pb2 as pb
from tickserve.wire import grpc_service_pb2 as oip

if TYPE_CHECKING:
    from mlops.package import Datatype, Manifest, Package

#: Different requests that a load goes through again and again, at most.
REQUESTS = 64
#: Random integers are 0 to here, texts are one of so many.
_MOST = 100

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Inputs: TypeAlias = Mapping[str, Array]


@dataclass(frozen=True)
class Wanted:
    """What a request is to be like: its rows, and sizes for dimensions beyond the first that the schema leaves open."""

    rows: int
    shapes: Mapping[str, tuple[int, ...]]
    seed: int


def golden(package: "Package", schema: Schema, wanted: Wanted) -> list[Inputs]:
    """Requests of the package's golden rows, `wanted.rows` each, from the first on and over again.

    Raises ConfigurationError where the package is not of the model that is served.
    """
    if package.golden is None:
        raise ConfigurationError(f"{package.path} has no golden rows; use --payload random", field="payload")
    _check_same(package.manifest, schema)
    return _requests(package.golden.inputs, wanted.rows)


def from_file(path: Path, schema: Schema, wanted: Wanted) -> list[Inputs]:
    """Requests of a file's rows: .npy for a model of one input, .npz with an array for each input by name."""
    try:
        loaded = np.load(path, allow_pickle=False)
        found = dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else None
    except (OSError, ValueError, EOFError) as error:
        raise ConfigurationError(f"--payload {path} is neither .npy nor .npz: {error}", field="payload") from None
    if found is None:
        if len(schema.inputs) != 1:
            raise ConfigurationError(
                f"--payload {path} is one array, the model takes {len(schema.inputs)}; give an .npz", field="payload"
            )
        found = {schema.inputs[0].name: loaded}
    names = [tensor.name for tensor in schema.inputs]
    if sorted(found) != sorted(names):
        raise ConfigurationError(
            f"--payload {path} holds {', '.join(sorted(found))}; the model takes {', '.join(names)}", field="payload"
        )
    arrays = {tensor.name: _fitted(tensor, found[tensor.name], path) for tensor in schema.inputs}
    if len({len(array) for array in arrays.values()}) != 1:
        raise ConfigurationError(f"--payload {path}: its arrays have different numbers of rows", field="payload")
    return _requests(arrays, wanted.rows)


def random(schema: Schema, wanted: Wanted, manifest: "Manifest | None" = None) -> list[Inputs]:
    """Requests of random values: floats are normal draws, within the bounds of the package's input rules if known."""
    if manifest is not None:
        _check_same(manifest, schema)
    names = [tensor.name for tensor in schema.inputs]
    if unknown := [name for name in wanted.shapes if name not in names]:
        raise ConfigurationError(
            f"--shape is for {', '.join(unknown)}, the model takes {', '.join(names)}", field="shape"
        )
    draw = np.random.default_rng(wanted.seed)
    requests: list[Inputs] = []
    for _ in range(REQUESTS):
        arrays = {tensor.name: _drawn(draw, tensor, wanted) for tensor in schema.inputs}
        if manifest is not None and manifest.feature_names:
            name = schema.inputs[0].name
            arrays[name] = _bounded(draw, arrays[name], manifest)
        requests.append(arrays)
    return requests


def rows_of(requests: list[Inputs], wanted: int) -> int:
    """Rows of each request: those wanted, but for a model or a --shape whose first dimension is fixed."""
    first = next(iter(requests[0].values()), None)
    return wanted if first is None or first.ndim == 0 else len(first)


def encode(target: Target, schema: Schema, requests: list[Inputs]) -> list[bytes]:
    """The messages of unary calls. Raises ConfigurationError where the API cannot carry what the model takes."""
    if target.api is Api.INFER:
        return [_infer(target, schema, inputs) for inputs in requests]
    if len(schema.inputs) != 1 or schema.inputs[0].datatype != "FP32":
        raise ConfigurationError(
            "--api predict is for models of one FP32 input; this one takes "
            f"{', '.join(f'{each.name} {each.datatype}' for each in schema.inputs)}: use --api infer",
            field="api",
        )
    return [_predict(target, schema, inputs[schema.inputs[0].name]) for inputs in requests]


def _infer(target: Target, schema: Schema, inputs: Inputs) -> bytes:
    tensors = [
        oip.ModelInferRequest.InferInputTensor(name=each.name, datatype=each.datatype, shape=inputs[each.name].shape)
        for each in schema.inputs
    ]
    raw = [_raw(inputs[each.name]) for each in schema.inputs]
    return oip.ModelInferRequest(
        model_name=target.model, model_version=target.version, inputs=tensors, raw_input_contents=raw
    ).SerializeToString()


def _predict(target: Target, schema: Schema, values: Array) -> bytes:
    request = pb.PredictRequest(
        model=target.model,
        version=target.version,
        features=values.ravel().tolist(),
        feature_digest=schema.feature_digest,
        rows=values.shape[0],
        steps=values.shape[1] if values.ndim == 3 else 0,
        timeout_us=max(1, math.ceil(target.deadline_s * 1e6)),
    )
    if schema.takes_event_time:
        request.event_time_unix_ns = time.time_ns()
    return request.SerializeToString()


def _raw(values: Array) -> bytes:
    if values.dtype.kind != "U":
        return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
    texts = [str(text).encode() for text in values.ravel()]
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


def _requests(arrays: Inputs, rows: int) -> list[Inputs]:
    count = len(next(iter(arrays.values())))
    if count == 0:
        raise ConfigurationError("the payload has no rows", field="payload")
    number = min(REQUESTS, max(1, count // rows))
    chosen = [np.arange(first * rows, (first + 1) * rows) % count for first in range(number)]
    return [{name: array[indices] for name, array in arrays.items()} for indices in chosen]


def _check_same(manifest: "Manifest", schema: Schema) -> None:
    ours: list[tuple[str, str]] = [(each.name, each.datatype) for each in manifest.inputs]
    theirs = [(each.name, each.datatype) for each in schema.inputs]
    if sorted(ours) != sorted(theirs):
        raise ConfigurationError(
            f"--package is of a model that takes {_listed(ours)}, the server's takes {_listed(theirs)}", field="package"
        )
    if schema.feature_names and manifest.feature_names and schema.feature_names != manifest.feature_names:
        raise ConfigurationError("--package has other features, or another order, than the server's", field="package")


def _listed(tensors: list[tuple[str, str]]) -> str:
    return ", ".join(f"{name} {datatype}" for name, datatype in tensors)


def _fitted(tensor: Tensor, values: Array, path: Path) -> Array:
    dtype = _dtype(tensor)
    is_number = values.dtype.kind in "biuf"
    if values.ndim == 0 or is_number != (dtype.kind != "U") or not (is_number or values.dtype.kind == "U"):
        raise ConfigurationError(
            f"--payload {path}: {tensor.name} is {values.dtype} of shape {list(values.shape)}, "
            f"the model takes {tensor.datatype} of shape {list(tensor.shape)}",
            field="payload",
        )
    row = tensor.shape[1:]
    if len(row) != values.ndim - 1 or any(
        have not in (want, have if want < 0 else want) for want, have in zip(row, values.shape[1:], strict=True)
    ):
        raise ConfigurationError(
            f"--payload {path}: {tensor.name} has shape {list(values.shape)}, the model takes {list(tensor.shape)}",
            field="payload",
        )
    return values if dtype.kind == "U" else values.astype(dtype)


def _drawn(draw: np.random.Generator, tensor: Tensor, wanted: Wanted) -> Array:
    shape, dtype = _shape(tensor, wanted), _dtype(tensor)
    match dtype.kind:
        case "f":
            return draw.standard_normal(shape).astype(dtype)
        case "b":
            return draw.integers(2, size=shape).astype(dtype)
        case "U":
            return draw.integers(_MOST, size=shape).astype(np.str_)
        case _:
            return draw.integers(_MOST + 1, size=shape).astype(dtype)


def _bounded(draw: np.random.Generator, values: Array, manifest: "Manifest") -> Array:
    """Uniform between both bounds of a feature, and at least the one where there is one."""
    for column, name in enumerate(manifest.feature_names):
        bounds = manifest.input_rules.bounds.get(name)
        if bounds is None:
            continue
        low = -math.inf if bounds.minimum is None else bounds.minimum
        high = math.inf if bounds.maximum is None else bounds.maximum
        size = values[..., column].shape
        if math.isfinite(high - low):
            values[..., column] = draw.uniform(low, high, size)
        else:
            spread = np.abs(draw.standard_normal(size))
            values[..., column] = low + spread if math.isfinite(low) else high - spread
        # A bound of float64 may round to a float32 beyond it.
        kind = values.dtype.type
        inside = np.nextafter(kind(low), kind(np.inf)), np.nextafter(kind(high), kind(-np.inf))
        if inside[0] <= inside[1]:
            values[..., column] = np.clip(values[..., column], *inside)
    return values


def _shape(tensor: Tensor, wanted: Wanted) -> tuple[int, ...]:
    if tensor.name in wanted.shapes:
        given = wanted.shapes[tensor.name]
        if len(given) != len(tensor.shape):
            raise ConfigurationError(
                f"--shape {tensor.name} has {len(given)} dimensions, the model takes {list(tensor.shape)}",
                field="shape",
            )
        return given
    if not tensor.shape:
        return ()
    first = wanted.rows if tensor.shape[0] < 0 else tensor.shape[0]
    if tensor.shape[0] >= 0 and wanted.rows not in (1, tensor.shape[0]):
        raise ConfigurationError(
            f"--rows {wanted.rows}: input {tensor.name} takes {tensor.shape[0]}, always", field="rows"
        )
    if any(size < 0 for size in tensor.shape[1:]):
        raise ConfigurationError(
            f"input {tensor.name} has open dimensions, {list(tensor.shape)}; give --shape {tensor.name}:D1,D2,...",
            field="shape",
        )
    return (first, *tensor.shape[1:])


def _dtype(tensor: Tensor) -> np.dtype[Any]:
    from mlops.package.datatypes import numpy_dtype

    try:
        return numpy_dtype(cast("Datatype", tensor.datatype))
    except KeyError:
        raise ConfigurationError(
            f"input {tensor.name} is {tensor.datatype}, which has no numbers here", field="payload"
        ) from None
