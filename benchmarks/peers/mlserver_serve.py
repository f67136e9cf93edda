"""Serves one ONNX model with MLServer: `python mlserver_serve.py DESCRIPTION.json PORT HTTP_PORT`, in its environment.

Beside MLServer's own calls it answers the two that load generators need and MLServer lacks: ModelConfig, from bytes in
the description, and ModelStatistics, with the number of inferences. Its own calls do not pass through them.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import grpc
import onnxruntime as ort
import uvloop
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.grpc import GRPCServer
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse, MetadataTensor

SERVICE = "inference.GRPCInferenceService"
VERSION = "1"


class OnnxModel(MLModel):
    """One session; float32 tensors in and out."""

    inferences = 0

    async def load(self) -> bool:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        assert self.settings.parameters is not None
        self._session = ort.InferenceSession(self.settings.parameters.uri, options, providers=["CPUExecutionProvider"])
        self._outputs = [output.name for output in self._session.get_outputs()]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        feed = {tensor.name: NumpyCodec.decode_input(tensor) for tensor in payload.inputs}
        values = self._session.run(self._outputs, feed)
        OnnxModel.inferences += 1
        outputs = [NumpyCodec.encode_output(name, value) for name, value in zip(self._outputs, values, strict=True)]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)


class Server(GRPCServer):
    """MLServer's, with two more calls."""

    def describe(self, name: str, config: bytes) -> None:
        self._name, self._config = name, config

    def _create_server(self) -> Any:
        server = super()._create_server()
        methods = {"ModelConfig": self._model_config, "ModelStatistics": self._model_statistics}
        handlers = {name: grpc.unary_unary_rpc_method_handler(method) for name, method in methods.items()}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        return server

    async def _model_config(self, request: bytes, context: Any) -> bytes:
        return self._config

    async def _model_statistics(self, request: bytes, context: Any) -> bytes:
        # ModelStatisticsResponse {model_stats=1 {name=1, version=2, inference_count=4}}
        fields = ((1, self._name.encode()), (2, VERSION.encode()))
        model = b"".join(bytes([number << 3 | 2]) + _varint(len(text)) + text for number, text in fields)
        model += bytes([4 << 3]) + _varint(OnnxModel.inferences)
        return bytes([1 << 3 | 2]) + _varint(len(model)) + model


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


async def serve(description: dict[str, Any], port: int, http_port: int) -> None:
    settings = Settings(
        host="127.0.0.1",
        grpc_port=port,
        http_port=http_port,
        parallel_workers=0,
        metrics_endpoint=None,
        load_models_at_startup=False,
        use_structured_logging=False,
    )
    name = description["name"]
    model = ModelSettings(
        name=name,
        implementation=OnnxModel,
        parameters=ModelParameters(uri=description["model"], version=VERSION),
        inputs=[MetadataTensor(**tensor) for tensor in description["inputs"]],
        outputs=[MetadataTensor(**tensor) for tensor in description["outputs"]],
    )
    server = MLServer(settings)
    grpc_server = Server(settings, server._data_plane, server._model_repository_handlers)
    grpc_server.describe(name, bytes.fromhex(description["config"]))
    server._grpc_server = grpc_server
    await server.start([model])


if __name__ == "__main__":
    file, port, http_port = sys.argv[1:]
    uvloop.install()
    asyncio.run(serve(json.loads(Path(file).read_text()), int(port), int(http_port)))
