"""What gates found: one result each, and the report that is kept with a promotion."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

Verdict = Literal["pass", "fail", "inconclusive"]
#: What a figure may be; numbers that are undefined are None.
Fact = float | int | str | bool | None


@dataclass(frozen=True)
class GateResult:
    """One gate: what it measured, against what, and why that is its verdict.

    Parameters
    ----------
    name : str
        Stable over releases; `docs/gates.md` lists them.
    verdict : str
        `pass` and `fail` rest on data; without enough of it a gate is `inconclusive`.
    text : str
        Why, in a sentence.
    figures : mapping
        By name what was measured: estimates with their interval (`low`, `high`) and sample size (`n`). Undefined
        figures are None, so that the report is JSON in any reader.
    threshold : float, optional
        What the deciding figure was held against.
    """

    name: str
    verdict: Verdict
    text: str
    figures: Mapping[str, Fact] = field(default_factory=dict)
    threshold: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "figures", {name: _plain(fact) for name, fact in self.figures.items()})


@dataclass(frozen=True)
class GateReport:
    """Every gate of one evaluation; the worst verdict is the whole one's, and without gates it is inconclusive."""

    gates: tuple[GateResult, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The worst of all."""
        found = {gate.verdict for gate in self.gates} or {"inconclusive"}
        return "fail" if "fail" in found else "inconclusive" if "inconclusive" in found else "pass"

    def as_json(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"verdict": self.verdict, "gates": [asdict(gate) for gate in self.gates]}


def _plain(fact: Any) -> Fact:
    """NumPy scalars as Python's, and what is no finite number as None."""
    value = fact.item() if isinstance(fact, np.generic) else fact
    return None if isinstance(value, float) and not math.isfinite(value) else value
