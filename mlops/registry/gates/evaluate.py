"""Every gate of a policy on one candidate."""

from collections.abc import Iterator
from pathlib import Path

from mlops.package import Package, read_package
from mlops.registry.gates.checklist import monitoring_gate, output_rules_gate, version_gate
from mlops.registry.gates.facts import VersionFacts
from mlops.registry.gates.minimums import minimum_gates
from mlops.registry.gates.non_inferiority import non_inferiority_gates
from mlops.registry.gates.policy import GatePolicy
from mlops.registry.gates.report import GateReport, GateResult
from mlops.registry.gates.schema import schema_gate
from mlops.registry.gates.smoke import smoke_gates
from tickserve.errors import PackageError


def evaluate(candidate: VersionFacts, live: VersionFacts | None, policy: GatePolicy) -> GateReport:
    """Runs every gate, whatever the others say: checklist, smoke tests, minimums, then what compares with live.

    Parameters
    ----------
    candidate : VersionFacts
        Who wants to become live.
    live : VersionFacts or None
        Who is; without one nothing can be compared, which is inconclusive.
    policy : GatePolicy
        The task's defaults count where it leaves something open.
    """
    return GateReport(tuple(_gates(candidate, live, policy.for_task(candidate.manifest.task))))


def _gates(candidate: VersionFacts, live: VersionFacts | None, policy: GatePolicy) -> Iterator[GateResult]:
    package, refusal = _read(candidate.path)
    yield version_gate(candidate.manifest, package, refusal)
    yield output_rules_gate(candidate.manifest)
    yield monitoring_gate(package)
    yield from smoke_gates(package, policy.latency)
    yield from minimum_gates(candidate, policy)
    if live is None:
        yield GateResult("live", "inconclusive", "no other version is live: there is nothing to be compared with")
        return
    yield schema_gate(candidate.manifest, live.manifest, policy)
    yield from non_inferiority_gates(candidate, live, policy)


def _read(path: Path) -> tuple[Package | None, str]:
    """The package, or why it is refused; neither where there is none."""
    if not path.exists():
        return None, ""
    try:
        return read_package(path), ""
    except PackageError as error:
        return None, error.message
