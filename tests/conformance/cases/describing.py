"""What the server tells about itself and its models: readiness, metadata, configuration, statistics, the index."""

from typing import Any

from google.protobuf.message import Message

from mlops.package import ColumnMapping, EventTimeRule, InputRules, Limits, feature_digest
from server.engine import texts
from server.plan import Halt
from tests.conformance.case import Case, Expected, refused, told
from tests.conformance.cases import datatypes, routing
from tests.conformance.cases.echo import ECHO, ON_ECHO
from tests.conformance.cases.predict import ON_OTHERS, TWO_OUTPUTS
from tests.conformance.cases.schemas import MIXED, ON_MIXED
from tests.conformance.requests import BROKEN
from tests.conformance.served import GENERATION, Model, Served, Version, one, version
from tests.support.models import FEATURES, echo_model
from tickserve import __version__
from tickserve.v1 import prediction_pb2 as pb
from tickserve.wire import grpc_service_pb2 as oip
from tickserve.wire import model_config_pb2

OIP = "/inference.GRPCInferenceService/"
GET_MODEL = "/tickserve.v1.Prediction/GetModel"

DESCRIBED = version(
    echo_model(),
    "described",
    input_rules=InputRules(event_time=EventTimeRule(required=True, max_age_s=1.5)),
    limits=Limits(max_rows=7, default_deadline_us=5_000, max_wait_us=400_000, latency_budget_us=250),
    confidence=ColumnMapping(output="values", column=0),
)
#: A bound of zero is one; a bound beyond what the field holds is told as the most that it holds.
NOW_AT_LATEST = version(
    echo_model(), "now-at-latest", input_rules=InputRules(event_time=EventTimeRule(max_age_s=1e12, max_future_s=0))
)
ON_DESCRIBED = one(DESCRIBED, NOW_AT_LATEST, name="described")
_STOPPED = Model((version(echo_model(), "stopped"),), halt=Halt("fills", "kim", 1))
INDEXED = Served(
    "indexed",
    (Model((version(echo_model(), "good"),)), _STOPPED),
    not_loaded={"new": "", "bad": "model.onnx is damaged"},
)
#: Version 2 is the one before, which one model lets clients pin.
KEPT_WARM = Served(
    "kept warm",
    tuple(
        Model((version(echo_model(), name), version(echo_model(), name, "2")), pins=pins)
        for name, pins in (("warm", frozenset({"1"})), ("pinned", frozenset({"1", "2"})))
    ),
)
NOT_READY = one(version(echo_model(), "waiting"), name="not ready", is_ready=False)
#: Too small for the description of its model, whose feature names are long.
TIGHT = one(
    version(echo_model(), feature_names=("f" * 4000, "g", "h")), name="tight", bounds={"max_message_bytes": 4000}
)


def _ask(name: str, method: str, request: Message, expected: Expected | Message, served: Served = ON_ECHO) -> Case:
    answer = told(expected) if isinstance(expected, Message) else expected
    return Case(name, served, method, (request.SerializeToString(),), answer)


def uncounted(text: texts.Text, **facts: Any) -> Expected:
    """A refusal that is not counted: it is about no prediction."""
    expected = refused(text, **facts)
    return Expected(
        status=expected.status,
        text=expected.text,
        reason=expected.reason,
        executed=expected.executed,
        field=expected.field,
        table=expected.table,
    )


def _ready(name: str, served: Served, model: str, number: str, *, is_ready: bool) -> Case:
    request = oip.ModelReadyRequest(name=model, version=number)
    return _ask(name, OIP + "ModelReady", request, oip.ModelReadyResponse(ready=is_ready), served)


def _metadata(described: Version, versions: list[str], role: str, **properties: str) -> oip.ModelMetadataResponse:
    plan = described.plan
    response = oip.ModelMetadataResponse(name=plan.model, versions=versions, platform="onnxruntime_onnx")
    for spec in plan.inputs:
        response.inputs.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
    for spec in plan.outputs:
        response.outputs.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
    response.properties.update({"digest": plan.digest.hex(), "role": role} | properties)
    return response


def _config(described: Version) -> oip.ModelConfigResponse:
    plan = described.plan
    config = model_config_pb2.ModelConfig(name=plan.model, platform="onnxruntime_onnx", backend="onnxruntime")
    for spec in plan.inputs:
        config.input.add(name=spec.name, data_type=_config_type(spec.datatype), dims=spec.shape)
    for spec in plan.outputs:
        config.output.add(name=spec.name, data_type=_config_type(spec.datatype), dims=spec.shape)
    return oip.ModelConfigResponse(config=config)


def _config_type(datatype: str) -> str:
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"


def _info(described: Version, **changes: Any) -> pb.ModelInfo:
    plan = described.plan
    fields: dict[str, Any] = {
        "model": plan.model,
        "version": plan.version,
        "digest": plan.digest,
        "role": pb.ROLE_STABLE,
        "plan_generation": GENERATION,
        "feature_names": plan.feature_names,
        "feature_digest": plan.feature_digest,
        "inputs": [pb.TensorSpec(name=each.name, datatype=each.datatype, shape=each.shape) for each in plan.inputs],
        "outputs": [pb.TensorSpec(name=each.name, datatype=each.datatype, shape=each.shape) for each in plan.outputs],
        "value_names": ["values[0]", "values[1]", "values[2]"],
        "limits": pb.Limits(max_rows=plan.limits.max_rows, latency_budget_us=plan.limits.latency_budget_us),
    }
    return pb.ModelInfo(**(fields | changes))


def _index(*models: tuple[str, str, str, str]) -> oip.RepositoryIndexResponse:
    response = oip.RepositoryIndexResponse()
    for name, number, state, reason in models:
        response.models.add(name=name, version=number, state=state, reason=reason)
    return response


def _unused(*described: Version) -> oip.ModelStatisticsResponse:
    """Statistics of versions that were asked nothing."""
    response = oip.ModelStatisticsResponse()
    for each in described:
        stats = response.model_stats.add(name=each.plan.model, version=each.plan.version)
        for part in ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output"):
            getattr(stats.inference_stats, part).SetInParent()
    return response


_ECHO_PROPERTIES = {"feature_names": ",".join(FEATURES), "feature_digest": feature_digest(FEATURES).hex()}
_UNKNOWN = uncounted(texts.UNKNOWN_MODEL, at="model", model="nope", known="echo")
_UNKNOWN_VERSION = uncounted(texts.UNKNOWN_VERSION, at="version", version="3", model="echo", known="1")
_TIGHT_INFO = _info(TIGHT.models[0].versions[0])

SERVER = (
    _ask("live", OIP + "ServerLive", oip.ServerLiveRequest(), oip.ServerLiveResponse(live=True)),
    _ask(
        "live though not ready",
        OIP + "ServerLive",
        oip.ServerLiveRequest(),
        oip.ServerLiveResponse(live=True),
        NOT_READY,
    ),
    _ask("ready", OIP + "ServerReady", oip.ServerReadyRequest(), oip.ServerReadyResponse(ready=True)),
    _ask("not ready", OIP + "ServerReady", oip.ServerReadyRequest(), oip.ServerReadyResponse(), NOT_READY),
    _ask(
        "what it is",
        OIP + "ServerMetadata",
        oip.ServerMetadataRequest(),
        oip.ServerMetadataResponse(
            name="tickserve", version=__version__, extensions=["model_configuration", "model_repository", "statistics"]
        ),
    ),
)

MODELS = (
    _ready("any version", ON_ECHO, "echo", "", is_ready=True),
    _ready("one version", ON_ECHO, "echo", "1", is_ready=True),
    _ready("unknown version", ON_ECHO, "echo", "2", is_ready=False),
    _ready("unknown model", ON_ECHO, "nope", "", is_ready=False),
    _ready("stable version that may not be pinned", INDEXED, "good", "1", is_ready=True),
    _ready("version that is only kept warm", KEPT_WARM, "warm", "2", is_ready=False),
    _ready("version before that may be pinned", KEPT_WARM, "pinned", "2", is_ready=True),
    _ready("halted", routing.SERVED, "echo", "", is_ready=False),
    _ready("loading", routing.SERVED, "loading", "", is_ready=False),
    _ask(
        "of an empty server",
        OIP + "ModelReady",
        oip.ModelReadyRequest(name="echo"),
        oip.ModelReadyResponse(),
        routing.NOTHING,
    ),
    _ask(
        "features",
        OIP + "ModelMetadata",
        oip.ModelMetadataRequest(name="echo"),
        _metadata(ECHO, ["1"], "stable", **_ECHO_PROPERTIES),
    ),
    _ask(
        "two inputs, no feature names",
        OIP + "ModelMetadata",
        oip.ModelMetadataRequest(name="echo"),
        _metadata(MIXED, ["1"], "stable"),
        ON_MIXED,
    ),
    _ask(
        "stable version of several",
        OIP + "ModelMetadata",
        oip.ModelMetadataRequest(name="split"),
        _metadata(routing.STABLE, ["1", "2", "3"], "stable", **_ECHO_PROPERTIES),
        routing.SERVED,
    ),
    _ask(
        "previous version",
        OIP + "ModelMetadata",
        oip.ModelMetadataRequest(name="split", version="3"),
        _metadata(routing.PREVIOUS, ["1", "2", "3"], "previous", **_ECHO_PROPERTIES),
        routing.SERVED,
    ),
    _ask("unknown model", OIP + "ModelMetadata", oip.ModelMetadataRequest(name="nope"), _UNKNOWN),
    _ask(
        "unknown version", OIP + "ModelMetadata", oip.ModelMetadataRequest(name="echo", version="3"), _UNKNOWN_VERSION
    ),
    _ask("features", OIP + "ModelConfig", oip.ModelConfigRequest(name="echo"), _config(ECHO)),
    *(
        _ask(
            datatype,
            OIP + "ModelConfig",
            oip.ModelConfigRequest(name=datatype.lower()),
            _config(each),
            datatypes.SERVED,
        )
        for datatype, each in datatypes.VERSIONS.items()
    ),
    _ask("unknown model", OIP + "ModelConfig", oip.ModelConfigRequest(name="nope"), _UNKNOWN),
    _ask("unknown version", OIP + "ModelConfig", oip.ModelConfigRequest(name="echo", version="3"), _UNKNOWN_VERSION),
)

PREDICTION = (
    _ask("features", GET_MODEL, pb.GetModelRequest(model="echo", version="1"), _info(ECHO)),
    _ask(
        "limits, confidence and event time",
        GET_MODEL,
        pb.GetModelRequest(model="described"),
        _info(
            DESCRIBED,
            limits=pb.Limits(max_rows=7, default_deadline_us=5_000, max_wait_us=400_000, latency_budget_us=250),
            has_confidence=True,
            requires_event_time=True,
            max_age_ns=1_500_000_000,
        ),
        ON_DESCRIBED,
    ),
    _ask(
        "bound of zero, and one beyond the field",
        GET_MODEL,
        pb.GetModelRequest(model="now-at-latest"),
        _info(NOW_AT_LATEST, max_future_ns=0, max_age_ns=2**64 - 1),
        ON_DESCRIBED,
    ),
    _ask(
        "two outputs",
        GET_MODEL,
        pb.GetModelRequest(model="two-outputs"),
        _info(TWO_OUTPUTS, value_names=["edges[0]", "edges[1]", "total[0]"]),
        ON_OTHERS,
    ),
    _ask(
        "two inputs have no values", GET_MODEL, pb.GetModelRequest(model="echo"), _info(MIXED, value_names=[]), ON_MIXED
    ),
    _ask(
        "canary",
        GET_MODEL,
        pb.GetModelRequest(model="split", version="2"),
        _info(routing.CANARY, role=pb.ROLE_CANARY, value_names=["values[0]"]),
        routing.SERVED,
    ),
    _ask("halted models are described too", GET_MODEL, pb.GetModelRequest(model="echo"), _info(ECHO), routing.SERVED),
    _ask("unknown model", GET_MODEL, pb.GetModelRequest(model="nope"), _UNKNOWN),
    _ask("unknown version", GET_MODEL, pb.GetModelRequest(model="echo", version="3"), _UNKNOWN_VERSION),
    _ask(
        "description over the bound",
        GET_MODEL,
        pb.GetModelRequest(model="echo"),
        uncounted(texts.DESCRIPTION_TOO_LONG, size=_TIGHT_INFO.ByteSize(), bound=4000 - 32),
        TIGHT,
    ),
)

REPOSITORY = (
    _ask(
        "ready models",
        OIP + "RepositoryIndex",
        oip.RepositoryIndexRequest(ready=True),
        _index(("good", "1", "READY", "")),
        INDEXED,
    ),
    _ask(
        "all models",
        OIP + "RepositoryIndex",
        oip.RepositoryIndexRequest(),
        told(
            _index(
                ("good", "1", "READY", ""),
                ("stopped", "1", "UNAVAILABLE", texts.INDEX_HALTED.fill(actor="kim", why="fills")),
                ("bad", "", "UNAVAILABLE", "model.onnx is damaged"),
                ("new", "", "LOADING", ""),
            ),
            texts.INDEX_HALTED,
        ),
        INDEXED,
    ),
    _ask(
        "versions that take requests",
        OIP + "RepositoryIndex",
        oip.RepositoryIndexRequest(ready=True),
        _index(("pinned", "1", "READY", ""), ("pinned", "2", "READY", ""), ("warm", "1", "READY", "")),
        KEPT_WARM,
    ),
    _ask(
        "a version that is only kept warm",
        OIP + "RepositoryIndex",
        oip.RepositoryIndexRequest(),
        told(
            _index(
                ("pinned", "1", "READY", ""),
                ("pinned", "2", "READY", ""),
                ("warm", "1", "READY", ""),
                ("warm", "2", "UNAVAILABLE", texts.INDEX_KEPT_WARM.fill()),
            ),
            texts.INDEX_KEPT_WARM,
        ),
        KEPT_WARM,
    ),
    _ask(
        "another repository",
        OIP + "RepositoryIndex",
        oip.RepositoryIndexRequest(repository_name="x"),
        uncounted(texts.NO_REPOSITORY, at="repository_name", name="x"),
    ),
    _ask(
        "nothing was asked of one version",
        OIP + "ModelStatistics",
        oip.ModelStatisticsRequest(name="good", version="1"),
        _unused(INDEXED.models[0].versions[0]),
        INDEXED,
    ),
    _ask(
        "nothing was asked of any",
        OIP + "ModelStatistics",
        oip.ModelStatisticsRequest(),
        _unused(*(model.versions[0] for model in INDEXED.models)),
        INDEXED,
    ),
    _ask("unknown model", OIP + "ModelStatistics", oip.ModelStatisticsRequest(name="nope"), _UNKNOWN),
    _ask(
        "unknown version",
        OIP + "ModelStatistics",
        oip.ModelStatisticsRequest(name="echo", version="3"),
        _UNKNOWN_VERSION,
    ),
)

MALFORMED = tuple(
    Case("bytes that are no message", ON_ECHO, method, (BROKEN,), uncounted(texts.MALFORMED, message=message))
    for method, message in (
        (GET_MODEL, "GetModelRequest"),
        *((OIP + each, f"{each}Request") for each in ("ModelReady", "ModelMetadata", "ModelConfig")),
        *((OIP + each, f"{each}Request") for each in ("ModelStatistics", "RepositoryIndex")),
    )
)

CASES = (*SERVER, *MODELS, *PREDICTION, *REPOSITORY, *MALFORMED)
