"""Parameters of a ModelInferRequest: ours, the standard timeout, and those that ask for what there is not."""

from typing import Any

from server.engine import texts

MAX_KEY_BYTES = 64
_MAX_PARAMETERS = 256
_REFUSED = {"classification": texts.CLASSIFICATION}
_REFUSED_PREFIXES = {"shared_memory_": texts.SHARED_MEMORY, "sequence_": texts.SEQUENCES}
_OWN = (
    "tickserve_routing_key",
    "tickserve_event_time_unix_ns",
    "tickserve_entities",
    "tickserve_feature_digest",
)
_INTEGERS = ("int64_param", "uint64_param")


class Options:
    """What a request's parameters ask for."""

    __slots__ = ("entities", "entity_text", "event_time_unix_ns", "feature_digest", "routing_key", "timeout_us")

    def __init__(self) -> None:
        self.routing_key = ""
        self.event_time_unix_ns = 0
        self.timeout_us = 0
        self.entities = 0
        self.entity_text = ""
        self.feature_digest = b""


NO_OPTIONS = Options()


def read_options(parameters: Any) -> Options:
    """The options of a request. Raises PredictionError."""
    _check_number(parameters)
    options = NO_OPTIONS
    for name in parameters:
        if name != "timeout" and not name.startswith("tickserve_"):
            _check_offered(name)
            continue
        if options is NO_OPTIONS:
            options = Options()
        parameter = parameters[name]
        kind = parameter.WhichOneof("parameter_choice")
        if name == "timeout":
            if kind not in _INTEGERS or getattr(parameter, kind) < 0:
                raise texts.NOT_MICROSECONDS.error(at=name, name=name)
            options.timeout_us = getattr(parameter, kind)
        else:
            _read_own(options, name, parameter, kind)
    return options


def refuse_unsupported(parameters: Any) -> None:
    """Refuses parameters of a tensor that ask for what there is not; every other one is accepted."""
    _check_number(parameters)
    for name in parameters:
        _check_offered(name)


def check_length(name: str, text: str) -> None:
    """Refuses an identifier of more than 64 bytes."""
    if len(text) * 4 > MAX_KEY_BYTES and len(text.encode()) > MAX_KEY_BYTES:
        raise texts.TOO_LONG.error(at=name, name=name, size=len(text.encode()), bound=MAX_KEY_BYTES)


def _check_number(parameters: Any) -> None:
    # They are looked at on the event loop, one by one.
    if len(parameters) > _MAX_PARAMETERS:
        raise texts.TOO_MANY_PARAMETERS.error(at="parameters", got=len(parameters), bound=_MAX_PARAMETERS)


def _check_offered(name: str) -> None:
    text = _REFUSED.get(name) or next((t for prefix, t in _REFUSED_PREFIXES.items() if name.startswith(prefix)), None)
    if text is not None:
        raise text.error(at=name, name=name)


def _read_own(options: Options, name: str, parameter: Any, kind: str | None) -> None:
    if name not in _OWN:
        # A misspelt check must not be lost in silence.
        raise texts.PARAMETER_UNKNOWN.error(at=name, name=name, known=", ".join(_OWN))
    if name == "tickserve_event_time_unix_ns":
        if kind not in _INTEGERS:
            raise texts.NOT_NANOSECONDS.error(at=name, name=name)
        options.event_time_unix_ns = getattr(parameter, kind)
        return
    if kind != "string_param":
        raise texts.NOT_A_STRING.error(at=name, name=name)
    text = parameter.string_param
    if name == "tickserve_routing_key":
        check_length(name, text)
        options.routing_key = text
    elif name == "tickserve_entities":
        options.entity_text = text
        options.entities = text.count(",") + 1 if text else 0
    else:
        try:
            options.feature_digest = bytes.fromhex(text)
        except ValueError:
            raise texts.NOT_HEXADECIMAL.error(at=name, name=name) from None
