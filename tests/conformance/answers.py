"""What a version must answer, from a session of ONNX Runtime of its own: no code of the server has a part in it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnxruntime

from mlops.package.datatypes import numpy_dtype
from server.plan import Role
from tests.conformance.case import Expected, Reply
from tests.conformance.requests import raw_bytes
from tests.conformance.served import GENERATION, Version
from tickserve.v1 import prediction_pb2 as pb
from tickserve.wire import grpc_service_pb2 as oip

#: How many findings one answer names at most.
MOST_FINDINGS = 100
#: The policy under which each kind of finding is counted; a default that was taken is not counted.
_POLICY = {"CLIPPED": "clip", "FLAGGED": "flag", "STALE": "flag"}


@dataclass(frozen=True)
class Found:
    """A finding of an answer."""

    kind: str
    row: int
    column: int
    rule: str


def outputs_of(version: Version, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
    """Each output of the version's graph, by name."""
    arrays = {
        spec.name: np.asarray(inputs[spec.name], object if spec.datatype == "BYTES" else numpy_dtype(spec.datatype))
        for spec in version.plan.inputs
    }
    names = [spec.name for spec in version.plan.outputs]
    return dict(zip(names, _session(version.graph).run(names, arrays), strict=True))


def inferred(
    version: Version,
    *,
    role: Role = Role.STABLE,
    request_id: str = "",
    outputs: Sequence[str] = (),
    findings: Sequence[Found] = (),
    **inputs: Any,
) -> Expected:
    """The answer to a ModelInfer of these inputs; of the outputs named only, in that order."""
    plan, found = version.plan, outputs_of(version, inputs)
    specs = {spec.name: spec for spec in plan.outputs}
    reply = oip.ModelInferResponse(model_name=plan.model, model_version=plan.version, id=request_id)
    reply.parameters["tickserve_digest"].string_param = plan.digest.hex()
    reply.parameters["tickserve_role"].string_param = role.label
    reply.parameters["tickserve_plan_generation"].int64_param = GENERATION
    if findings:
        told = [{"kind": f.kind, "row": f.row, "column": f.column, "rule": f.rule} for f in findings[:MOST_FINDINGS]]
        reply.parameters["tickserve_findings"].string_param = json.dumps(told)
    if len(findings) > MOST_FINDINGS:
        reply.parameters["tickserve_findings_left_out"].int64_param = len(findings) - MOST_FINDINGS
    for name in outputs or specs:
        reply.outputs.add(name=name, datatype=specs[name].datatype, shape=found[name].shape)
        reply.raw_output_contents.append(raw_bytes(found[name]))
    rows = [len(np.asarray(inputs[spec.name])) for spec in plan.inputs if spec.shape[:1] == (-1,)]
    return Expected(replies=(Reply(reply),), counts=_counts(version, role, rows[0] if rows else 1, findings))


def predicted(
    version: Version,
    features: Any,
    *,
    role: Role = Role.STABLE,
    request_id: str = "",
    findings: Sequence[Found] = (),
    **fields: Any,
) -> Expected:
    """The answer to a Predict of these features, one row or several; `fields` are more of the answer."""
    plan = version.plan
    array = np.asarray(features, np.float32)
    array = array.reshape((1,) * (len(plan.inputs[0].shape) - array.ndim) + array.shape)
    rows = len(array)
    found = outputs_of(version, {plan.inputs[0].name: array})
    values = np.concatenate([found[spec.name].reshape(rows, -1).astype(np.float64) for spec in plan.outputs], axis=1)
    reply = pb.PredictResponse(
        request_id=request_id,
        model=plan.model,
        version=plan.version,
        digest=plan.digest,
        role=int(role),
        plan_generation=GENERATION,
        values=values.ravel().tolist(),
        rows=rows,
        findings_left_out=max(0, len(findings) - MOST_FINDINGS),
        **({"position_scale": 1.0} | fields),
    )
    for each in findings[:MOST_FINDINGS]:
        kind = f"FINDING_KIND_{each.kind}"
        reply.findings.add(kind=kind, row=each.row, column=each.column, rule=each.rule)
    varies = {"server_duration_ns"} if request_id else {"server_duration_ns", "request_id"}
    return Expected(replies=(Reply(reply, frozenset(varies)),), counts=_counts(version, role, rows, findings))


def _counts(version: Version, role: Role, rows: int, findings: Sequence[Found]) -> dict[tuple[str, str], int]:
    who = f"{version.plan.model}/{version.plan.version} {role.label}"
    counts = {(who, "answered"): 1, (who, "rows"): rows}
    for each in findings:
        if each.kind in _POLICY:
            key = who, f"{each.rule} {_POLICY[each.kind]}"
            counts[key] = counts.get(key, 0) + 1
    return counts


@cache
def _session(graph: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
