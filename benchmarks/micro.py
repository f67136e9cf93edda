"""What each step of one request costs alone, in a tight loop: `python -m benchmarks.micro`.

In a server the same steps cost five to ten times as much, because each request finds the caches cold: use these to
choose between ways of doing one thing, not to add up a request.
"""

import asyncio
import tempfile
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime as ort
from rich.console import Console
from rich.table import Table

from benchmarks import models
from benchmarks.peers.bare_grpc_aio import open_session
from tickserve.wire import grpc_service_pb2 as pb

LOOPS, REPEATS = 2_000, 7
CALL_TIMEOUT_S = 60.0
MODEL = "forest-100"
Steps = dict[str, Callable[[], object]]


def time_us(step: Callable[[], object]) -> float:
    """The best of several means, in microseconds: what the step costs when nothing disturbs it."""
    return min(timeit.repeat(step, number=LOOPS, repeat=REPEATS)) / LOOPS * 1e6


def session_steps(path: Path) -> Steps:
    """One row through the model: values passed in and out, against buffers that are bound once."""
    session = open_session(path)
    raw = _row().tobytes()
    tensor = np.frombuffer(raw, np.float32).reshape(1, models.FEATURES)
    names, feed = ["probabilities"], {"features": tensor}
    row, result = tensor.copy(), np.empty((1, 2), np.float32)
    row_value, result_value = ort.OrtValue.ortvalue_from_numpy(row), ort.OrtValue.ortvalue_from_numpy(result)
    bound = session.io_binding()
    bound.bind_ortvalue_input("features", row_value)
    bound.bind_ortvalue_output("probabilities", result_value)
    inner_session, inner_bound = session._sess, bound._iobinding
    row_bytes = row.reshape(-1).view(np.uint8).data

    def assign() -> None:
        row_bytes[:] = raw

    return {
        "session.run": lambda: session.run(names, feed),
        "session.run_with_iobinding, bound once": lambda: session.run_with_iobinding(bound),
        "the same below its Python wrapper": lambda: inner_session.run_with_iobinding(inner_bound, None),
        "np.frombuffer and reshape": lambda: np.frombuffer(raw, np.float32).reshape(1, models.FEATURES),
        "np.frombuffer and np.copyto": lambda: np.copyto(row.reshape(-1), np.frombuffer(raw, np.float32)),
        "memoryview assignment": assign,
        "result.tobytes": result.tobytes,
        "np.isfinite(row).all": lambda: np.isfinite(row).all(),
        "np.isfinite(np.dot(row, row))": lambda: np.isfinite(np.dot(row[0], row[0])),
        "time.perf_counter_ns": time.perf_counter_ns,
    }


def message_steps() -> Steps:
    """Decoding a request as perf_analyzer sends it, and encoding its answer."""
    request = pb.ModelInferRequest(
        model_name=MODEL,
        id="17",
        inputs=[pb.ModelInferRequest.InferInputTensor(name="features", datatype="FP32", shape=[1, models.FEATURES])],
        outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name="probabilities")],
        raw_input_contents=[_row().tobytes()],
    )
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    data = request.SerializeToString()
    raw = bytes(8)
    tensor = pb.ModelInferResponse.InferOutputTensor

    def build() -> Any:
        return pb.ModelInferResponse(
            model_name=MODEL,
            model_version="1",
            id="17",
            outputs=[tensor(name="probabilities", datatype="FP32", shape=[1, 2])],
            raw_output_contents=[raw],
        )

    template = build()
    template.parameters["tickserve_digest"].string_param = "0" * 64
    template.parameters["tickserve_role"].string_param = "stable"
    template.parameters["tickserve_plan_generation"].int64_param = 1
    fixed = template.SerializeToString()
    changing = pb.ModelInferResponse(id="17", raw_output_contents=[raw])

    def copy_template() -> Any:
        response = pb.ModelInferResponse()
        response.CopyFrom(template)
        response.id = "17"
        return response

    def concatenate() -> bytes:
        changing.raw_output_contents[0] = raw
        encoded: bytes = fixed + changing.SerializeToString()
        return encoded

    def read_fields() -> object:
        tensor_in = request.inputs[0]
        return request.model_name, request.id, tensor_in.name, tensor_in.datatype, tuple(tensor_in.shape)

    return {
        "ModelInferRequest.FromString": lambda: pb.ModelInferRequest.FromString(data),
        "reading its fields": read_fields,
        "raw_input_contents[0]": lambda: request.raw_input_contents[0],
        "iterating its parameters": lambda: list(request.parameters.items()),
        "ModelInferResponse, built afresh": build,
        "ModelInferResponse, copied from a template": copy_template,
        "ModelInferResponse.SerializeToString": template.SerializeToString,
        "fixed bytes + SerializeToString of the rest": concatenate,
    }


async def context_steps() -> dict[str, float]:
    """What a grpc.aio handler pays to ask its context, in microseconds, measured inside one call."""
    found: dict[str, float] = {}

    async def handle(request: bytes, context: Any) -> bytes:
        found["context.time_remaining"] = time_us(context.time_remaining)
        found["context.invocation_metadata"] = time_us(context.invocation_metadata)
        found["context.peer"] = time_us(context.peer)
        trailers = (("tickserve-executed", "1"),)
        found["context.set_trailing_metadata"] = time_us(lambda: context.set_trailing_metadata(trailers))
        return b""

    server = grpc.aio.server()
    handler = grpc.method_handlers_generic_handler("steps.Steps", {"Time": grpc.unary_unary_rpc_method_handler(handle)})
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await channel.unary_unary("/steps.Steps/Time", None, None)(b"", timeout=CALL_TIMEOUT_S)
    await server.stop(None)
    return found


def main() -> None:
    """Prints the table."""
    with tempfile.TemporaryDirectory(prefix="tickserve-bench-") as scratch:
        models_dir = models.build(MODEL, Path(scratch) / "models")
        steps = session_steps(models_dir / MODEL / "1" / "model.onnx") | message_steps()
    table = Table("step", "us")
    for name, cost_us in ({name: time_us(step) for name, step in steps.items()} | asyncio.run(context_steps())).items():
        table.add_row(name, f"{cost_us:.2f}")
    Console().print(table)


def _row() -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.random.default_rng(1).standard_normal((1, models.FEATURES)).astype(np.float32)


if __name__ == "__main__":
    main()
