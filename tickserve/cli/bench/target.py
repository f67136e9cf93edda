"""What is put under load: where the server is, and what it says its model takes."""

import importlib.util
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from tickserve import load
from tickserve.address import check_target, is_unix
from tickserve.errors import Code, ConfigurationError, TickserveError, UnreachableError
from tickserve.v1 import prediction_pb2 as pb
from tickserve.wire import grpc_service_pb2 as oip

_INFERENCE = "/inference.GRPCInferenceService/"
_PREDICTION = "/tickserve.v1.Prediction/"
_ROOTS = ("_cython", "_credentials", "roots.pem")
_M = TypeVar("_M", bound=Message)


class Api(StrEnum):
    """The two ways to ask: our own, or the Open Inference Protocol that every such server speaks."""

    PREDICT = "predict"
    INFER = "infer"


@dataclass(frozen=True)
class Tensor:
    """An input: datatype as the protocol names it, `shape` with -1 where any size is taken."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Target:
    """A model on a server, asked in one way. `deadline_s` is that of every call."""

    address: str
    model: str
    version: str
    api: Api
    deadline_s: float
    tls: load.Pem | None = None

    def load(self, messages: list[bytes], *, streams: bool = False) -> load.Load:
        """A load of these messages; when and how many is for the caller to say."""
        if self.api is Api.PREDICT:
            method, travel = "PredictStream" if streams else "Predict", load.Travel.PREDICT_STREAM
            path = _PREDICTION + method
        else:
            method, travel = "ModelStreamInfer" if streams else "ModelInfer", load.Travel.INFER_STREAM
            path = _INFERENCE + method
        travel = travel if streams else load.Travel.UNARY
        return load.Load(
            self.address, path, messages, load.ClosedLoop(), travel, tls=self.tls, deadline_s=self.deadline_s
        )


@dataclass(frozen=True)
class Schema:
    """What a model takes. Names and digest of features, and the age that it refuses, are known of our own API alone."""

    inputs: tuple[Tensor, ...]
    feature_names: tuple[str, ...] = ()
    feature_digest: bytes = b""
    takes_event_time: bool = False
    max_age_s: float | None = None


def check_target_address(address: str, *, uses_tls: bool) -> str:
    """The address. Raises ConfigurationError where it is none, or where TLS would have no name to check."""
    try:
        checked = check_target(address)
    except ValueError as error:
        raise ConfigurationError(f"--address: {error}", field="address") from None
    if uses_tls and is_unix(address):
        raise ConfigurationError("TLS is for host:port; a Unix socket needs none", field="tls")
    return checked


def read_pem(ca: Path | None, certificate: Path | None, key: Path | None) -> load.Pem | None:
    """TLS where any of its files is named; without a CA file the roots that grpc brings are trusted."""
    if ca is None and certificate is None and key is None:
        return None
    if (certificate is None) != (key is None):
        raise ConfigurationError("--tls-cert and --tls-key go together; give both or neither", field="tls")
    identity = (_read(certificate), _read(key)) if certificate is not None and key is not None else None
    return load.Pem(_read(ca) if ca is not None else _read(_grpc_roots()), identity)


def describe(target: Target) -> Schema:
    """Asks the server what the model takes. Raises UnreachableError, or what the server refuses with."""
    if target.api is Api.PREDICT:
        request: Message = pb.GetModelRequest(model=target.model, version=target.version)
        info = _decoded(pb.ModelInfo, _ask(target, f"{_PREDICTION}GetModel", request))
        return Schema(
            inputs=tuple(Tensor(each.name, each.datatype, tuple(each.shape)) for each in info.inputs),
            feature_names=tuple(info.feature_names),
            feature_digest=info.feature_digest,
            takes_event_time=info.requires_event_time,
            max_age_s=info.max_age_ns / 1e9 if info.HasField("max_age_ns") else None,
        )
    request = oip.ModelMetadataRequest(name=target.model, version=target.version)
    metadata = _decoded(oip.ModelMetadataResponse, _ask(target, f"{_INFERENCE}ModelMetadata", request))
    return Schema(tuple(Tensor(each.name, each.datatype, tuple(each.shape)) for each in metadata.inputs))


def server_name(target: Target) -> str | None:
    """Name and version, of a server that says them."""
    try:
        body = _ask(target, f"{_INFERENCE}ServerMetadata", oip.ServerMetadataRequest())
        metadata = _decoded(oip.ServerMetadataResponse, body)
    except TickserveError:
        return None
    return f"{metadata.name} {metadata.version}".strip() or None


def try_once(target: Target, messages: list[bytes]) -> None:
    """Sends the first request as one call. Raises where it is not answered: no load of it would mean anything."""
    _answer(target, target.load(messages[:1]), "the first request")


def _ask(target: Target, path: str, request: Message) -> bytes:
    whole = replace(target.load([request.SerializeToString()]), path=path)
    return _answer(target, whole, path.rpartition("/")[2])


def _answer(target: Target, asked: load.Load, what: str) -> bytes:
    answer = load.ask(asked)
    if answer.is_answered:
        return answer.body
    status = answer.outcome.partition(" ")[0]
    said = f"{answer.outcome}{f': {answer.message}' if answer.message else ''}"
    if status not in Code.__members__:
        raise UnreachableError(f"{target.address} gave no answer to {what} of model {target.model!r}: {said}")
    error = TickserveError(f"{target.address} refuses {what} of model {target.model!r}: {said}")
    error.code = Code[status]
    raise error


def _decoded(kind: type[_M], body: bytes) -> _M:
    try:
        return kind.FromString(body)
    except DecodeError:
        raise UnreachableError(f"the server's answer is no {kind.__name__}; does it speak this API?") from None


def _grpc_roots() -> Path:
    # Found without importing it: nothing else of it is needed here.
    spec = importlib.util.find_spec("grpc")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError("grpcio brings the roots, and is not installed; give --tls-ca", field="tls")
    return Path(spec.submodule_search_locations[0], *_ROOTS)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}", field="tls") from None
