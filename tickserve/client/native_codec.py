"""Requests and answers by the Rust extension, for the usual case: an array in, a prediction out."""

from __future__ import annotations

import sys
from dataclasses import fields
from typing import Any, cast

import numpy as np

from tickserve.client.answer import FINDING_KINDS, ROLES
from tickserve.client.known import Key
from tickserve.client.native_channel import find_native
from tickserve.prediction import Finding, ModelInfo, Prediction

#: Fields of a prediction that the extension reads from an answer.
_SAID = frozenset(
    (
        "values",
        "rows",
        "signal",
        "confidence",
        "model",
        "version",
        "digest",
        "role",
        "plan_generation",
        "position_scale",
        "findings",
        "request_id",
        "server_duration_ns",
        "value_names",
        "findings_left_out",
    )
)


class NativeCodec:
    """Both directions. What it returns None for goes the long way, where the errors are."""

    def __init__(self) -> None:
        module = find_native()
        self._new_encoder: Any = module.ArrayEncoder
        self._encoders: dict[Key, Any] = {}
        self._decode: Any = module.AnswerDecoder(
            Prediction, Finding, np.ndarray, np.dtype("<f4"), ROLES, FINDING_KINDS, _others()
        ).decode

    def encode(
        self,
        key: Key,
        info: ModelInfo | None,
        features: np.ndarray[Any, Any],
        request_id: str,
        routing_key: str | None,
        entities: list[str],
        event_time_unix_ns: int,
    ) -> bytes | None:
        """The bytes of a request; `info` is the same for every call of one key."""
        encoder = self._encoders.get(key)
        if encoder is None:
            digest = b"" if info is None else bytes.fromhex(info.feature_digest)
            width = None if info is None else len(info.feature_names) or None
            encoder = self._encoders[key] = self._new_encoder(*key, digest, width)
        try:
            data = encoder.encode(features, request_id, routing_key, entities, event_time_unix_ns)
        except (TypeError, UnicodeError):
            return None
        return cast("bytes | None", data)

    def decode(self, answer: bytes, info: ModelInfo | None) -> Prediction | None:
        """The prediction in an answer."""
        found = self._decode(answer, "", ()) if info is None else self._decode(answer, info.digest, info.value_names)
        return cast("Prediction | None", found)


def _others() -> list[tuple[str, object]]:
    """What a prediction has besides what an answer says, each with its default."""
    return [(sys.intern(field.name), field.default) for field in fields(Prediction) if field.name not in _SAID]
