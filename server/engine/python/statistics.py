"""ModelStatistics of the Open Inference Protocol, from the counts that the engine keeps anyway."""

from google.protobuf.message import DecodeError

from server.engine import texts
from server.engine.python.serving import Installed, Serving
from tickserve.wire import grpc_service_pb2 as oip

#: What the protocol calls the stages here.
_STAGES = {
    "queue": ("wait",),
    "compute_input": ("decode", "validate_input"),
    "compute_infer": ("run",),
    "compute_output": ("validate_output", "encode"),
}


def model_statistics(data: bytes, installed: Installed) -> bytes:
    """Answers ModelStatistics for one version, one model, or all. Raises PredictionError."""
    request = oip.ModelStatisticsRequest()
    try:
        request.ParseFromString(data)
    except DecodeError:
        raise texts.MALFORMED.error(message="ModelStatisticsRequest") from None
    response = oip.ModelStatisticsResponse()
    if request.name:
        # Names an unknown model or version.
        installed.find(request.name, request.version)
    for name, model in installed.models.items():
        if request.name in ("", name):
            for number, serving in model.versions.items():
                if request.version in ("", number):
                    response.model_stats.append(_statistics(serving))
    return response.SerializeToString()


def _statistics(serving: Serving) -> oip.ModelStatistics:
    tally, version = serving.tally, serving.version
    inference = oip.InferStatistics(
        success=oip.StatisticDuration(count=tally.answered, ns=tally.stages["total"].sum_ns),
        fail=oip.StatisticDuration(count=sum(tally.errors.values())),
    )
    for name, stages in _STAGES.items():
        duration = getattr(inference, name)
        duration.count = tally.answered
        duration.ns = sum(tally.stages[stage].sum_ns for stage in stages)
    return oip.ModelStatistics(
        name=version.model,
        version=version.version,
        last_inference=tally.last_answer_unix_ns // 1_000_000,
        inference_count=tally.rows,
        execution_count=tally.answered,
        inference_stats=inference,
    )
