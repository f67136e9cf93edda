"""Parameters of ModelInfer: ours and the standard timeout are read, others are accepted, some are refused."""

from mlops.package import feature_digest
from server.engine import texts
from tests.conformance.case import refused
from tests.conformance.cases.echo import ANSWERED, ROW, infer_case
from tests.conformance.requests import infer, raw, requested
from tests.support.models import FEATURES
from tickserve.wire import grpc_service_pb2 as oip


def _with(**parameters: object) -> bytes:
    return infer(ROW, parameters=parameters)


ANSWERS = (
    infer_case(
        "unknown parameters",
        _with(
            triton_enable_empty_final_response=True,
            priority=oip.InferParameter(uint64_param=3),
            binary_data=1.5,
            unset=oip.InferParameter(),
        ),
        ANSWERED,
    ),
    infer_case(
        "our own parameters",
        _with(
            tickserve_routing_key="k" * 64,
            tickserve_event_time_unix_ns=oip.InferParameter(uint64_param=1),
            tickserve_entities="SPY",
            tickserve_feature_digest=feature_digest(FEATURES).hex(),
            timeout=10_000_000,
        ),
        ANSWERED,
    ),
    infer_case(
        "our own parameters, empty",
        _with(tickserve_routing_key="", tickserve_entities="", tickserve_feature_digest=""),
        ANSWERED,
    ),
    infer_case("timeout as uint64", _with(timeout=oip.InferParameter(uint64_param=10_000_000)), ANSWERED),
    infer_case("as many as are allowed", _with(**{f"p{number}": True for number in range(256)}), ANSWERED),
    infer_case("timeout of zero is none", _with(timeout=0), ANSWERED),
)

REFUSALS = (
    infer_case(
        "shared memory",
        _with(shared_memory_region="x"),
        refused(texts.SHARED_MEMORY, by="echo", at="shared_memory_region", name="shared_memory_region"),
    ),
    infer_case(
        "one too many",
        _with(**{f"p{number}": True for number in range(257)}),
        refused(texts.TOO_MANY_PARAMETERS, by="echo", at="parameters", got=257, bound=256),
    ),
    infer_case(
        "shared memory for an input",
        infer(raw([[1, 2, 3]], parameters={"shared_memory_byte_size": 12})),
        refused(texts.SHARED_MEMORY, at="shared_memory_byte_size", name="shared_memory_byte_size"),
    ),
    infer_case(
        "shared memory for an output",
        infer(ROW, outputs=[requested("values", shared_memory_offset=0)]),
        refused(texts.SHARED_MEMORY, at="shared_memory_offset", name="shared_memory_offset"),
    ),
    infer_case(
        "sequence", _with(sequence_id=1), refused(texts.SEQUENCES, by="echo", at="sequence_id", name="sequence_id")
    ),
    infer_case(
        "classification",
        infer(ROW, outputs=[requested("values", classification=1)]),
        refused(texts.CLASSIFICATION, at="classification", name="classification"),
    ),
    infer_case(
        "routing key that is too long",
        _with(tickserve_routing_key="k" * 65),
        refused(texts.TOO_LONG, by="echo", at="tickserve_routing_key", name="tickserve_routing_key", size=65, bound=64),
    ),
    infer_case(
        "more entities than rows",
        _with(tickserve_entities="SPY,QQQ"),
        refused(texts.ENTITIES, at="tickserve_entities", got=2, rows=1),
    ),
    infer_case(
        "digest of other features",
        _with(tickserve_feature_digest="00" * 32),
        refused(texts.FEATURES_CHANGED, at="tickserve_feature_digest", version="1", model="echo"),
    ),
    infer_case(
        "digest of another length",
        _with(tickserve_feature_digest="00" * 31),
        refused(texts.DIGEST_LENGTH, at="tickserve_feature_digest", got=31),
    ),
    infer_case(
        "digest that is not hexadecimal",
        _with(tickserve_feature_digest="xyz"),
        refused(texts.NOT_HEXADECIMAL, by="echo", at="tickserve_feature_digest", name="tickserve_feature_digest"),
    ),
    infer_case(
        "misspelt parameter of ours",
        _with(tickserve_feature_digst="00"),
        refused(
            texts.PARAMETER_UNKNOWN,
            by="echo",
            at="tickserve_feature_digst",
            name="tickserve_feature_digst",
            known="tickserve_routing_key, tickserve_event_time_unix_ns, tickserve_entities, tickserve_feature_digest",
        ),
    ),
    infer_case(
        "routing key that is no text",
        _with(tickserve_routing_key=1),
        refused(texts.NOT_A_STRING, by="echo", at="tickserve_routing_key", name="tickserve_routing_key"),
    ),
    infer_case(
        "event time that is no integer",
        _with(tickserve_event_time_unix_ns="now"),
        refused(
            texts.NOT_NANOSECONDS, by="echo", at="tickserve_event_time_unix_ns", name="tickserve_event_time_unix_ns"
        ),
    ),
    *(
        infer_case(
            f"timeout that is {what}",
            _with(timeout=value),
            refused(texts.NOT_MICROSECONDS, by="echo", at="timeout", name="timeout"),
        )
        for what, value in (("text", "1"), ("negative", -1), ("not set", oip.InferParameter()))
    ),
    infer_case("timeout that has passed", _with(timeout=1), refused(texts.DEADLINE)),
)

CASES = (*ANSWERS, *REFUSALS)
