"""What the Open Inference Protocol and health checks tell about the server and its models."""

from google.protobuf.message import DecodeError, Message

from mlops.package import TensorSpec
from server.engine import texts
from server.engine.python.serving import Installed, Serving
from tickserve import __version__
from tickserve.wire import grpc_service_pb2 as oip
from tickserve.wire import health_pb2, model_config_pb2

PLATFORM = "onnxruntime_onnx"
BACKEND = "onnxruntime"
EXTENSIONS = ("model_configuration", "model_repository", "statistics")
#: Names whose health is told; every one has the state of the whole server.
SERVICES = ("", "inference.GRPCInferenceService", "tickserve.v1.Prediction")


def server_live() -> bytes:
    """Answers ServerLive."""
    return oip.ServerLiveResponse(live=True).SerializeToString()


def server_ready(is_ready: bool) -> bytes:
    """Answers ServerReady."""
    return oip.ServerReadyResponse(ready=is_ready).SerializeToString()


def server_metadata() -> bytes:
    """Answers ServerMetadata."""
    return oip.ServerMetadataResponse(name="tickserve", version=__version__, extensions=EXTENSIONS).SerializeToString()


def model_ready(data: bytes, installed: Installed) -> bytes:
    """Answers ModelReady: whether the version, or any, takes requests now. An unknown model is not ready."""
    request = oip.ModelReadyRequest()
    _parse(request, data)
    model = installed.models.get(request.name)
    is_ready = model is not None and model.plan.halt is None and (not request.version or model.answers(request.version))
    return oip.ModelReadyResponse(ready=is_ready).SerializeToString()


def model_metadata(data: bytes, installed: Installed) -> bytes:
    """Answers ModelMetadata. Raises PredictionError."""
    request = oip.ModelMetadataRequest()
    _parse(request, data)
    serving = installed.find(request.name, request.version)
    version = serving.version
    response = oip.ModelMetadataResponse(
        name=version.model,
        versions=sorted(installed.models[version.model].versions, key=int),
        platform=PLATFORM,
        inputs=[_tensor(spec) for spec in version.inputs],
        outputs=[_tensor(spec) for spec in version.outputs],
    )
    response.properties.update(_properties(serving))
    return response.SerializeToString()


def model_config(data: bytes, installed: Installed) -> bytes:
    """Answers ModelConfig. Raises PredictionError."""
    request = oip.ModelConfigRequest()
    _parse(request, data)
    version = installed.find(request.name, request.version).version
    config = model_config_pb2.ModelConfig(name=version.model, platform=PLATFORM, max_batch_size=0, backend=BACKEND)
    for spec in version.inputs:
        config.input.add(name=spec.name, data_type=_config_type(spec), dims=spec.shape)
    for spec in version.outputs:
        config.output.add(name=spec.name, data_type=_config_type(spec), dims=spec.shape)
    return oip.ModelConfigResponse(config=config).SerializeToString()


def repository_index(data: bytes, installed: Installed) -> bytes:
    """Answers RepositoryIndex. Raises PredictionError."""
    request = oip.RepositoryIndexRequest()
    _parse(request, data)
    if request.repository_name:
        raise texts.NO_REPOSITORY.error(at="repository_name", name=request.repository_name[:64])
    response = oip.RepositoryIndexResponse()
    for name, model in sorted(installed.models.items()):
        halt = model.plan.halt
        for number in sorted(model.versions, key=int):
            if halt is not None:
                reason = texts.INDEX_HALTED.fill(actor=halt.actor, why=halt.reason)
            elif not model.answers(number):
                reason = texts.INDEX_KEPT_WARM.fill()
            else:
                response.models.add(name=name, version=number, state="READY")
                continue
            if not request.ready:
                response.models.add(name=name, version=number, state="UNAVAILABLE", reason=reason)
    if not request.ready:
        for name, why in sorted(installed.plan.not_loaded.items()):
            response.models.add(name=name, state="UNAVAILABLE" if why else "LOADING", reason=why)
    return response.SerializeToString()


def health(data: bytes, is_ready: bool) -> bytes:
    """Answers grpc.health.v1 Check. Raises StatusError NOT_FOUND for a service that is not told about."""
    request = _health_request(data)
    if request.service not in SERVICES:
        raise texts.UNKNOWN_SERVICE.error(service=request.service[:64])
    return watched_health(data, is_ready)


def watched_health(data: bytes, is_ready: bool) -> bytes:
    """One message of grpc.health.v1 Watch; a service that is not told about is SERVICE_UNKNOWN."""
    status = "SERVING" if is_ready else "NOT_SERVING"
    if _health_request(data).service not in SERVICES:
        status = "SERVICE_UNKNOWN"
    return health_pb2.HealthCheckResponse(status=status).SerializeToString()


def _health_request(data: bytes) -> health_pb2.HealthCheckRequest:
    request = health_pb2.HealthCheckRequest()
    _parse(request, data)
    return request


def _parse(request: Message, data: bytes) -> None:
    try:
        request.ParseFromString(data)
    except DecodeError:
        raise texts.MALFORMED.error(message=request.DESCRIPTOR.name) from None


def _properties(serving: Serving) -> dict[str, str]:
    properties = {"digest": serving.version.digest.hex(), "role": serving.role.label}
    if serving.version.feature_names:
        properties["feature_names"] = ",".join(serving.version.feature_names)
        properties["feature_digest"] = serving.version.feature_digest.hex()
    return properties


def _tensor(spec: TensorSpec) -> oip.ModelMetadataResponse.TensorMetadata:
    return oip.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.shape)


def _config_type(spec: TensorSpec) -> str:
    return f"TYPE_{'STRING' if spec.datatype == 'BYTES' else spec.datatype}"
