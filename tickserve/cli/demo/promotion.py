"""The demo's way to `live`: a model is registered, judged, approved and promoted before a server sees it."""

import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mlops.package import read_package
from mlops.registry import Author, GateError, ModelFacts, Registration, Registry, RunFacts, Version
from mlops.registry.gates import GatePolicy, LatencyLevels, Minimum
from mlops.training import TrainedModel, build, close_times, probabilities

ACTOR = "demo"
_FIRST = Author(ACTOR, "nothing is live to compare it with")
#: The default gates, with time for a machine that trains the next model meanwhile.
_LATENCY = LatencyLevels(budget_us=50_000)
_DEFAULTS = GatePolicy(latency=_LATENCY)
#: For a model that those refuse. Nobody trades on it; the demo still shows how it is served.
_TO_BE_SHOWN = GatePolicy(latency=_LATENCY, minimums=(Minimum(metric="accuracy", at_least=0.45),), comparisons=())


@dataclass(frozen=True)
class Published:
    """One model on its way: its version in the registry, and what the default gates said where they kept it out."""

    version: Version
    refusal: str


def publish(registry: Registry, model: TrainedModel, started_at: datetime) -> Published:
    """Registers a model, has it judged, approves and promotes it: a server that follows the registry then serves it.

    Done again with the same model it only runs the gates again.

    Raises
    ------
    TickserveError
        Where the package does not verify, or even the demo's own levels keep it out.
    """
    with tempfile.TemporaryDirectory(prefix="tickserve-demo-") as staging:
        package = build(model, Path(staging))
        version = registry.register(
            package, Author(ACTOR, "trained by the demo"), _registration(model, package, started_at)
        )
    registry.approve(version.model, version.version, _FIRST)
    if not any(approval.kind == "inconclusive" for approval in registry.approvals(version)):
        registry.approve_inconclusive(version.model, version.version, _FIRST)
    refusal = ""
    try:
        registry.promote(version.model, version.version, Author(ACTOR, "to be served"), _DEFAULTS)
    except GateError as error:
        refusal = error.message
        registry.promote(version.model, version.version, Author(ACTOR, "to be shown, not traded"), _TO_BE_SHOWN)
    return Published(version, refusal)


def _registration(model: TrainedModel, package: Path, started_at: datetime) -> Registration:
    manifest, test = read_package(package).manifest, model.split.test
    return Registration(
        facts=ModelFacts(strategy_type="direction", universe=model.dataset, model_type=model.kind),
        run=RunFacts(
            parameters=manifest.training.parameters,
            environment={"framework": manifest.training.framework},
            code_revision=manifest.training.code_revision,
            data_fingerprint=manifest.datasets["train"].fingerprint,
            seed=model.seed,
            started_at=started_at,
            duration_s=(datetime.now(started_at.tzinfo) - started_at).total_seconds(),
        ),
        evaluations={
            "test": {
                "time": close_times(test.sessions),
                "prediction": probabilities(model.estimator, test.features)[:, 1],
                "outcome": test.labels,
                "return": test.returns,
            }
        },
    )
