"""Which version answers: splits by the hash of a key, pins and roles; and models that do not answer at all."""

from dataclasses import replace
from itertools import count

from mlops.routing import MAX_HASH, routing_hash
from server.engine import texts
from server.plan import Halt, Role, Segment
from tests.conformance.answers import inferred, predicted
from tests.conformance.case import Case, Expected, refused
from tests.conformance.cases.echo import ECHO
from tests.conformance.requests import INFER, PREDICT, infer, predict, raw
from tests.conformance.served import Model, Served, Version, tensor, version
from tests.support.models import constant_model

SALT = b"salt"
#: Its hash is the last one of the first segment.
EDGE_KEY = "edge"
EDGE = routing_hash(SALT, EDGE_KEY.encode())


def _answering(value: float, number: str, name: str = "split") -> Version:
    return version(constant_model(value), name, number, outputs=(tensor("values", "FP32", -1, 1),))


def _key(*, is_below: bool) -> str:
    """A key of the stable segment, or of the canary's."""
    return next(key for key in map("key-{}".format, count()) if (routing_hash(SALT, key.encode()) < EDGE) is is_below)


STABLE, CANARY, PREVIOUS = _answering(1.0, "1"), _answering(2.0, "2"), _answering(3.0, "3")
SPLIT = Model(
    (STABLE, CANARY, PREVIOUS),
    (Segment(EDGE, "1", Role.STABLE), Segment(MAX_HASH, "2", Role.CANARY)),
    SALT,
    pins=frozenset({"1", "3"}),
    position_scale=0.25,
)
#: Two shares of one version on either side of another's.
APART = Model(
    (_answering(1.0, "1", "apart"), _answering(2.0, "2", "apart")),
    (Segment(EDGE - 1, "1", Role.STABLE), Segment(EDGE, "2", Role.CANARY), Segment(MAX_HASH, "1", Role.STABLE)),
    SALT,
)
HALTED = Model((ECHO,), pins=frozenset({"1"}), halt=Halt("bad fills", "kim", 1))
SERVED = Served("routing", (SPLIT, APART, HALTED), not_loaded={"loading": "", "broken": "model.onnx is damaged"})
NOTHING = Served("nothing")
#: As an engine names the clients of the suite.
HERE = "ipv4:127.0.0.1"
CLIENTS = Served(
    "pins of some clients",
    (
        replace(
            SPLIT,
            pins=frozenset({"1"}),
            client_pins={
                "2": frozenset({"subject:CN=desk", HERE}),
                "3": frozenset({"subject:CN=desk", "ipv4:127.0.0.2"}),
            },
        ),
    ),
)

_STABLE_KEY, _CANARY_KEY = _key(is_below=True), _key(is_below=False)


def _split(what: str, by: Version, role: Role, **asked: str) -> Case:
    request_id = asked.get("request_id", "")
    expected = predicted(by, [1, 2, 3], role=role, request_id=request_id, position_scale=0.25)
    return Case(what, SERVED, PREDICT, (predict([1, 2, 3], model="split", **asked),), expected)


def _predict(name: str, request: bytes, expected: Expected, served: Served = SERVED) -> Case:
    return Case(name, served, PREDICT, (request,), expected)


def _infer(name: str, request: bytes, expected: Expected, served: Served = SERVED) -> Case:
    return Case(name, served, INFER, (request,), expected)


SPLITS = (
    _split("routing key in the stable segment", STABLE, Role.STABLE, routing_key=_STABLE_KEY),
    _split("routing key in the canary's segment", CANARY, Role.CANARY, routing_key=_CANARY_KEY),
    _split("routing key on the edge", STABLE, Role.STABLE, routing_key=EDGE_KEY),
    _split("request id as key", CANARY, Role.CANARY, request_id=_CANARY_KEY),
    _split("routing key before request id", STABLE, Role.STABLE, routing_key=_STABLE_KEY, request_id=_CANARY_KEY),
    *(
        _predict(
            f"version with two shares, {key}",
            predict([1, 2, 3], model="apart", routing_key=key),
            predicted(APART.versions[index], [1, 2, 3], role=role),
        )
        for key, index, role in (
            (_STABLE_KEY, 0, Role.STABLE),
            (EDGE_KEY, 1, Role.CANARY),
            (_CANARY_KEY, 0, Role.STABLE),
        )
    ),
    *(
        _infer(
            f"routing key as a parameter, {key}",
            infer(raw([[1, 2, 3]]), model="split", parameters={"tickserve_routing_key": key}),
            inferred(by, role=role, features=[[1, 2, 3]]),
        )
        for key, by, role in ((_STABLE_KEY, STABLE, Role.STABLE), (_CANARY_KEY, CANARY, Role.CANARY))
    ),
    _infer(
        "id as key",
        infer(raw([[1, 2, 3]]), model="split", request_id=_CANARY_KEY),
        inferred(CANARY, role=Role.CANARY, features=[[1, 2, 3]], request_id=_CANARY_KEY),
    ),
)

PINS = (
    _split("pin of the stable version, whatever the key", STABLE, Role.STABLE, version="1", routing_key=_CANARY_KEY),
    _split("pin of the previous version", PREVIOUS, Role.PREVIOUS, version="3"),
    _predict(
        "pin that is not allowed",
        predict([1, 2, 3], model="split", version="2"),
        refused(texts.PIN_REFUSED, by="split", at="version", version="2", model="split"),
    ),
    _infer(
        "pin that is not allowed",
        infer(raw([[1, 2, 3]]), model="split", version="2"),
        refused(texts.PIN_REFUSED, by="split", at="version", version="2", model="split"),
    ),
    _predict(
        "pin of a version that is not there",
        predict([1, 2, 3], model="split", version="4"),
        refused(texts.UNKNOWN_VERSION, by="split", at="version", version="4", model="split", known="1, 2, 3"),
    ),
)

CLIENT_PINS = (
    _predict(
        "pin that this client may",
        predict([1, 2, 3], model="split", version="2", routing_key=_STABLE_KEY),
        predicted(CANARY, [1, 2, 3], role=Role.CANARY, position_scale=0.25),
        CLIENTS,
    ),
    _infer(
        "pin that this client may",
        infer(raw([[1, 2, 3]]), model="split", version="2"),
        inferred(CANARY, role=Role.CANARY, features=[[1, 2, 3]]),
        CLIENTS,
    ),
    _predict(
        "pin that every client may, where some may others",
        predict([1, 2, 3], model="split", version="1", routing_key=_CANARY_KEY),
        predicted(STABLE, [1, 2, 3], role=Role.STABLE, position_scale=0.25),
        CLIENTS,
    ),
    _predict(
        "pin that other clients may",
        predict([1, 2, 3], model="split", version="3"),
        refused(texts.PIN_REFUSED, by="split", at="version", version="3", model="split"),
        CLIENTS,
    ),
    _infer(
        "pin that other clients may",
        infer(raw([[1, 2, 3]]), model="split", version="3"),
        refused(texts.PIN_REFUSED, by="split", at="version", version="3", model="split"),
        CLIENTS,
    ),
)

_HALTED = refused(texts.HALTED, by="echo", model="echo", actor="kim", why="bad fills")
_LOADING = refused(texts.LOADING, by="loading", at="model", model="loading")
_NOT_LOADED = refused(texts.NOT_LOADED, by="broken", at="model", model="broken", why="model.onnx is damaged")
_NO_MODELS = refused(texts.NO_MODELS, by="", at="model", model="echo")

STATES = (
    _predict("halted", predict([1, 2, 3]), _HALTED),
    _infer("halted", infer(raw([[1, 2, 3]])), _HALTED),
    _predict("halted, whatever is pinned", predict([1, 2, 3], version="7"), _HALTED),
    _predict("loading", predict([1, 2, 3], model="loading"), _LOADING),
    _infer("loading", infer(raw([[1, 2, 3]]), model="loading"), _LOADING),
    _predict("not loaded", predict([1, 2, 3], model="broken"), _NOT_LOADED),
    _infer("not loaded", infer(raw([[1, 2, 3]]), model="broken"), _NOT_LOADED),
    _predict(
        "unknown among others",
        predict([1, 2, 3], model="x"),
        refused(texts.UNKNOWN_MODEL, by="", at="model", model="x", known="apart, echo, split"),
    ),
    _predict("no models", predict([1, 2, 3]), _NO_MODELS, NOTHING),
    _infer("no models", infer(raw([[1, 2, 3]])), _NO_MODELS, NOTHING),
)

CASES = (*SPLITS, *PINS, *CLIENT_PINS, *STATES)
