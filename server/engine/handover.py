"""What is handed over to the native engine, and what comes back: plain values on both ways."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np

from mlops.package import MODEL_FILE, ColumnMapping, Datatype, TensorSpec
from mlops.package.datatypes import numpy_dtype
from mlops.package.rules import OutputLimits, feature_bounds
from server.engine.base import STAGES, StageCounts
from server.engine.python import metadata, prediction
from server.engine.python.runtime import Runtime, Tally
from server.engine.python.serving import Installed, build
from server.plan import ModelPlan, Plan, Role, VersionPlan
from server.tap import UNTAPPED, TappedModel
from tickserve.wire import grpc_service_pb2 as oip


@dataclass(frozen=True)
class _NotRun:
    """Stands for a runtime where a version is described only."""

    version: VersionPlan


def plan_values(plan: Plan, placed: Mapping[str, TappedModel]) -> dict[str, Any]:
    """What `install` takes: the plan, with every description encoded."""
    described = build(plan, lambda version: cast(Runtime, _NotRun(version)), lambda *_: cast(Tally, None))
    index = oip.RepositoryIndexRequest
    return {
        "generation": plan.generation,
        "models": {name: _model(model, described, placed.get(name, UNTAPPED)) for name, model in plan.models.items()},
        "not_loaded": dict(plan.not_loaded),
        "repository_index": metadata.repository_index(index().SerializeToString(), described),
        "repository_index_ready": metadata.repository_index(index(ready=True).SerializeToString(), described),
    }


def _model(model: ModelPlan, described: Installed, tapped: TappedModel) -> dict[str, Any]:
    roles = {segment.version: segment.role for segment in model.split.segments}
    return {
        "versions": [
            (number, version.digest, int(roles.get(number, Role.PREVIOUS)))
            for number, version in model.versions.items()
        ],
        "salt": model.split.salt,
        "segments": [(each.upper_bound, each.version, int(each.role)) for each in model.split.segments],
        "pins": sorted(model.pins),
        "client_pins": [(version, sorted(clients)) for version, clients in model.client_pins.items()],
        "halt": None if model.halt is None else {"reason": model.halt.reason, "actor": model.halt.actor},
        "position_scale": model.position_scale,
        "described": [
            answer for version in ("", *model.versions) for answer in _descriptions(model.name, version, described)
        ],
        "shadow": None if model.shadow is None else asdict(model.shadow),
        "fallback": model.fallback,
        "tap": {
            "split_generation": tapped.split_generation,
            "latency_edge_ns": tapped.latency_edge_ns,
            "versions": [(version, *placed) for version, placed in tapped.versions.items()],
            "shadow": tapped.shadow,
        },
    }


def _descriptions(model: str, version: str, described: Installed) -> Iterator[tuple[str, str, bytes]]:
    asked = oip.ModelMetadataRequest(name=model, version=version).SerializeToString()
    yield "ModelMetadata", version, metadata.model_metadata(asked, described)
    yield "ModelConfig", version, metadata.model_config(asked, described)
    yield "GetModel", version, prediction.describe(asked, described)


def version_values(version: VersionPlan) -> dict[str, Any]:
    """What `prepare` takes of a version."""
    rules = version.input_rules
    event_time = rules.event_time
    return {
        "model": version.model,
        "version": version.version,
        "digest": version.digest,
        "model_sha256": version.model_sha256,
        "model_file": str(version.path / MODEL_FILE),
        "inputs": _specs(version.inputs),
        "outputs": _specs(version.outputs),
        "feature_names": list(version.feature_names),
        "feature_digest": version.feature_digest,
        "signal": _mapping(version.signal),
        "confidence": _mapping(version.confidence),
        "input_rules": {
            "finite": rules.finite,
            "defaults": dict(rules.defaults),
            "bounds": _bounds(version),
            "event_time": {
                "required": event_time.required,
                "max_age_s": event_time.max_age_s,
                "max_future_s": event_time.max_future_s,
                "policy": event_time.policy,
            },
        },
        "output_rules": list(_output_rules(version)),
        "limits": version.limits.model_dump(),
    }


def _specs(specs: Iterable[TensorSpec]) -> list[dict[str, Any]]:
    return [{"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)} for spec in specs]


def _mapping(mapping: ColumnMapping | None) -> dict[str, Any] | None:
    if mapping is None:
        return None
    return {
        "output": mapping.output,
        "column": mapping.column,
        "scale": float(mapping.scale),
        "offset": float(mapping.offset),
    }


def _bounds(version: VersionPlan) -> list[dict[str, Any]]:
    rules = version.input_rules
    if not rules.bounds:
        return []
    lows, highs = feature_bounds(version.feature_names, rules, version.inputs[0].datatype)
    return [
        {"low": low, "high": high, "policy": rules.bounds[name].policy if name in rules.bounds else None}
        for name, low, high in zip(version.feature_names, lows.tolist(), highs.tolist(), strict=True)
    ]


def _output_rules(version: VersionPlan) -> Iterator[dict[str, Any]]:
    datatypes = {spec.name: spec.datatype for spec in version.outputs}
    for rule in version.output_rules:
        limits = OutputLimits(rule, datatypes[rule.output])
        yield {
            "name": rule.name,
            "output": rule.output,
            "kind": rule.kind,
            "low": limits.low,
            "high": limits.high,
            "policy": rule.policy,
        }


def sample_values(version: VersionPlan) -> list[Any] | None:
    """One row of golden inputs; None where there are none."""
    if version.golden is None:
        return None
    inputs = version.golden.inputs
    return [
        tensor_values(spec, inputs[spec.name][:1] if spec.shape[:1] == (-1,) else inputs[spec.name])
        for spec in version.inputs
    ]


def tensor_values(spec: TensorSpec, array: np.ndarray[Any, Any]) -> tuple[str, list[int], Any]:
    """A tensor as datatype, shape and elements: bytes, or texts."""
    elements = [str(item) for item in array.ravel()] if spec.datatype == "BYTES" else array.tobytes()
    return spec.datatype, list(array.shape), elements


def array_of(tensor: tuple[str, list[int], Any]) -> np.ndarray[Any, Any]:
    """The array of such a tensor."""
    datatype, shape, elements = tensor
    if datatype == "BYTES":
        return np.array(elements, dtype=object).reshape(shape)
    return np.frombuffer(elements, numpy_dtype(cast(Datatype, datatype))).reshape(shape)


def counts_of(counts: Mapping[str, Any]) -> dict[str, Any]:
    """Counts as `VersionCounters` and `ModelCounters` have them."""
    stages = {}
    for stage in STAGES:
        data, sum_ns = counts["stages"][stage]
        stages[stage] = StageCounts(np.frombuffer(data, "<u8").tolist(), sum_ns)
    return {
        "stages": stages,
        "answered": counts["answered"],
        "rows": counts["rows"],
        "slow": counts["slow"],
        "errors": {reason or "": count for reason, count in counts["errors"]},
        "rule_violations": {(rule, policy): count for rule, policy, count in counts["rule_violations"]},
    }
