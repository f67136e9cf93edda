"""The bare peer: one ONNX model behind a grpc.aio handler, with no validation, routing, metrics or limits."""

import argparse
import asyncio
import signal
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime as ort

from tickserve.wire import grpc_service_pb2 as pb
from tickserve.wire import model_config_pb2 as config_pb

SERVICE = "inference.GRPCInferenceService"
VERSION = "1"


def open_session(path: Path) -> ort.InferenceSession:
    """A session as a server of many small requests wants it: no threads of its own, no spinning."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class BareServer:
    """Answers ModelInfer for a model of float32 tensors, and the calls that perf_analyzer makes before it.

    ModelStatistics gives the exact number of inferences; the extension is not announced, so that perf_analyzer does
    not ask for it.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.session = open_session(path)
        self.name = name
        self.inputs = self.session.get_inputs()
        self.outputs = self.session.get_outputs()
        self.input_name = self.inputs[0].name
        self.output_names = [output.name for output in self.outputs]
        self.inferences = 0

    async def infer(self, request: Any, context: Any) -> Any:
        tensor = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(request.inputs[0].shape)
        values = self.session.run(self.output_names, {self.input_name: tensor})
        self.inferences += 1
        return pb.ModelInferResponse(
            model_name=self.name,
            model_version=VERSION,
            id=request.id,
            outputs=[
                pb.ModelInferResponse.InferOutputTensor(name=name, datatype="FP32", shape=value.shape)
                for name, value in zip(self.output_names, values, strict=True)
            ],
            raw_output_contents=[value.tobytes() for value in values],
        )

    async def live(self, request: Any, context: Any) -> Any:
        return pb.ServerLiveResponse(live=True)

    async def ready(self, request: Any, context: Any) -> Any:
        return pb.ServerReadyResponse(ready=True)

    async def model_ready(self, request: Any, context: Any) -> Any:
        return pb.ModelReadyResponse(ready=True)

    async def server_metadata(self, request: Any, context: Any) -> Any:
        return pb.ServerMetadataResponse(name="bare", version="1")

    async def model_metadata(self, request: Any, context: Any) -> Any:
        tensor = pb.ModelMetadataResponse.TensorMetadata
        return pb.ModelMetadataResponse(
            name=self.name,
            versions=[VERSION],
            platform="onnxruntime_onnx",
            inputs=[tensor(name=i.name, datatype="FP32", shape=_dims(i)) for i in self.inputs],
            outputs=[tensor(name=o.name, datatype="FP32", shape=_dims(o)) for o in self.outputs],
        )

    async def model_config(self, request: Any, context: Any) -> Any:
        fp32 = config_pb.TYPE_FP32
        return pb.ModelConfigResponse(
            config=config_pb.ModelConfig(
                name=self.name,
                platform="onnxruntime_onnx",
                backend="onnxruntime",
                input=[config_pb.ModelInput(name=i.name, data_type=fp32, dims=_dims(i)) for i in self.inputs],
                output=[config_pb.ModelOutput(name=o.name, data_type=fp32, dims=_dims(o)) for o in self.outputs],
            )
        )

    async def model_statistics(self, request: Any, context: Any) -> Any:
        model = pb.ModelStatistics(name=self.name, version=VERSION, inference_count=self.inferences)
        return pb.ModelStatisticsResponse(model_stats=[model])

    def handlers(self) -> "grpc.GenericRpcHandler[Any, Any]":
        methods = {
            "ModelInfer": self.infer,
            "ServerLive": self.live,
            "ServerReady": self.ready,
            "ModelReady": self.model_ready,
            "ServerMetadata": self.server_metadata,
            "ModelMetadata": self.model_metadata,
            "ModelConfig": self.model_config,
            "ModelStatistics": self.model_statistics,
        }
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                method: grpc.unary_unary_rpc_method_handler(
                    handler,
                    request_deserializer=getattr(pb, f"{method}Request").FromString,
                    response_serializer=getattr(pb, f"{method}Response").SerializeToString,
                )
                for method, handler in methods.items()
            },
        )


def _dims(tensor: Any) -> list[int]:
    return [size if isinstance(size, int) else -1 for size in tensor.shape]


async def serve(path: Path, name: str, address: str) -> None:
    """Serves one model until SIGTERM."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((BareServer(path, name).handlers(),))
    server.add_insecure_port(address)
    await server.start()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await server.stop(grace=1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="the ONNX file")
    parser.add_argument("--name", required=True, help="the model's name on the wire")
    parser.add_argument("--listen", required=True, help="HOST:PORT")
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.model, arguments.name, arguments.listen))


if __name__ == "__main__":
    main()
