"""What came of every version's predictions, kept up as records and outcomes arrive."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlops.outcomes.figure import OutcomeFigure
from mlops.outcomes.figures import Lengths, outcome_figures, pnl_figures
from mlops.outcomes.join import MAX_WAITING, VersionJoin
from mlops.outcomes.joined import JoinedRows
from mlops.outcomes.ledger import Ledger, Outcome
from mlops.outcomes.packing import Columns, pack, unpack
from mlops.outcomes.periods import period_starts
from mlops.package import Horizon, Package
from mlops.prediction_log import Batch

#: The horizon under which the trading engine reports what a strategy really earned; its entity is the strategy.
PNL = "pnl"
#: Outcomes that are kept though no prediction of theirs is known.
MAX_UNKNOWN = 200_000

#: The package of a model and version by its digest; None where it is not to be had.
FindPackage = Callable[[str, str, str], Package | None]


@dataclass(frozen=True, slots=True)
class Served:
    """One version that was seen in the log, with its package."""

    model: str
    version: str
    package: Package


@dataclass(frozen=True)
class Work:
    """The figures of one version, to be computed from rows that were taken: on any thread."""

    horizons: tuple[tuple[Horizon, JoinedRows], ...]
    served: Served | None
    lengths: Lengths
    pnl: Callable[[], tuple[OutcomeFigure, ...]] = tuple

    def figures(self) -> tuple[OutcomeFigure, ...]:
        """Computes them."""
        if self.served is None:
            return self.pnl()
        manifest, version = self.served.package.manifest, self.served.version
        return tuple(
            figure
            for horizon, rows in self.horizons
            for figure in outcome_figures(rows, manifest, version, horizon, self.lengths)
        )


class OutcomeMonitor:
    """Joins outcomes with predictions for all versions whose package declares outcomes and a signal.

    What it holds is a function of the records and the outcomes, each in their order, and not of how they interleave or
    were cut into batches, up to the bounds of what it keeps.

    Parameters
    ----------
    find : callable
        Asked once for each digest; a package that is not found leaves its version without figures, until `look_again`
        finds it.
    as_of_ns : int, optional
        As `Ledger`.
    """

    def __init__(
        self,
        find: FindPackage,
        *,
        lengths: Lengths | None = None,
        as_of_ns: int | None = None,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self.lengths = lengths or Lengths()
        #: Models, versions and digests whose package was not found, or declares no outcomes.
        self.unfound: set[tuple[str, str, str]] = set()
        self._undeclared: set[tuple[str, str, str]] = set()
        #: What a checkpoint holds of versions whose package was not found since.
        self._kept: dict[tuple[str, str, str], tuple[Columns, dict[str, Any]]] = {}
        self.forgotten = 0
        self.outcomes = 0
        self._find = find
        self._max_waiting = max_waiting
        self._ledger = Ledger(as_of_ns)
        self._joins: dict[tuple[str, str], tuple[Served, VersionJoin]] = {}
        self._changed: set[tuple[str, str]] = set()

    @property
    def served(self) -> list[Served]:
        """Versions that outcomes are joined for, by name and number."""
        return [served for _, (served, _) in sorted(self._joins.items())]

    def serves(self, model: str, version: str) -> bool:
        """Whether outcomes are joined for this version."""
        return (model, version) in self._joins

    def digest(self, model: str, version: str) -> str | None:
        """Of the package that outcomes of a version are joined for; None where they are not."""
        found = self._joins.get((model, version))
        return found[0].package.digest if found is not None else None

    @property
    def missing(self) -> set[tuple[str, str, str]]:
        """Models, versions and digests whose package was not found: those `look_again` is for."""
        return self.unfound - self._undeclared

    @property
    def kept(self) -> list[tuple[str, str, str]]:
        """Those of them that a checkpoint holds rows of."""
        return list(self._kept)

    @property
    def waiting(self) -> int:
        """Rows that have no outcome yet, of all versions."""
        return sum(join.waiting for _, join in self._joins.values())

    @property
    def let_go(self) -> int:
        """Rows that waited for an outcome until there were too many."""
        return sum(join.let_go for _, join in self._joins.values())

    def add(self, batch: Batch) -> None:
        """Takes in records of one version."""
        join = self._join(batch.model, batch.version, batch.digest)
        if join is not None and join.add(batch):
            self._changed.add((batch.model, batch.version))

    def look_again(self, model: str, version: str, digest: str) -> bool:
        """Asks for a package that was not found; whether it is there now. What a checkpoint held of it is taken up."""
        key = model, version, digest
        if key not in self._undeclared:
            self.unfound.discard(key)
            self._join(*key)
        return key not in self.missing

    def add_outcomes(self, outcomes: Iterable[Outcome]) -> None:
        """Takes in outcomes."""
        for outcome in outcomes:
            self.outcomes += 1
            key = self._ledger.add(outcome)
            if key is None:
                continue
            if outcome.horizon == PNL:
                self._changed.add((outcome.model, ""))
            for name, (_, join) in self._joins.items():
                if join.resolve(key):
                    self._changed.add(name)
        held = sum(join.joined for _, join in self._joins.values())
        if len(self._ledger) > 2 * held + MAX_UNKNOWN:
            self.forgotten += self._ledger.bound(
                2 * held + MAX_UNKNOWN // 2,
                lambda key: (
                    self._ledger.value((key,), PNL) is not None
                    or any(join.holds(key) for _, join in self._joins.values())
                ),
            )

    def take_changed(self) -> set[tuple[str, str]]:
        """Models and versions whose rows changed since this was last asked; the version is empty for P&L."""
        changed, self._changed = self._changed, set()
        return changed

    def rows(self, model: str, version: str, horizon: str) -> JoinedRows:
        """The joined rows of a version. Raises KeyError where it was not seen."""
        return self._joins[model, version][1].rows(horizon)

    def figures(self, model: str, version: str) -> tuple[OutcomeFigure, ...]:
        """All figures of a version, at every horizon that its package declares. Raises KeyError as `rows`."""
        return self._work(model, version).figures()

    def pnl(self, model: str) -> tuple[OutcomeFigure, ...]:
        """Figures of what the strategies of a model reported, added up by period; empty where none did."""
        return self._pnl(model).figures()

    def work(self, changed: Iterable[tuple[str, str]]) -> list[Work]:
        """What `take_changed` gave, as figures to be computed elsewhere: rows are taken now."""
        return [
            self._work(model, version) if version else self._pnl(model)
            for model, version in sorted(changed)
            if not version or self.serves(model, version)
        ]

    def _work(self, model: str, version: str) -> Work:
        served, join = self._joins[model, version]
        outcomes = served.package.manifest.outcomes
        horizons = outcomes.horizons if outcomes is not None else ()
        return Work(tuple((horizon, join.rows(horizon.name)) for horizon in horizons), served, self.lengths)

    def _pnl(self, model: str) -> Work:
        known = self._ledger.series(model, PNL)
        declared = [
            served.package.manifest.outcomes
            for (name, _), (served, _) in sorted(self._joins.items(), reverse=True)
            if name == model
        ]
        if not known or not declared or declared[0] is None:
            return Work((), None, self.lengths)
        per_year = declared[0].periods_per_year
        times = np.array([time for _, time, _ in known], np.int64)
        starts, group = np.unique(period_starts(times, per_year), return_inverse=True)
        returns = np.bincount(group, [value for _, _, value in known], minlength=len(starts)).astype(np.float64)
        return Work((), None, self.lengths, lambda: pnl_figures(starts, returns, model, per_year, self.lengths))

    def checkpoint(self, beside: Mapping[str, Any] | None = None) -> bytes:
        """Everything held, and what else `restore` shall return; packages are found again by their digests."""
        columns, versions = dict(self._ledger.state()), []
        states = [
            ((model, version, served.package.digest), join.state())
            for (model, version), (served, join) in self._joins.items()
        ]
        for place, ((model, version, digest), (held, facts)) in enumerate([*states, *self._kept.items()]):
            columns |= {f"{place}.{name}": column for name, column in held.items()}
            versions.append(facts | {"model": model, "version": version, "digest": digest})
        counts = {"outcomes": self.outcomes, "forgotten": self.forgotten}
        return pack(
            columns, {"format": 1, "versions": versions, "changed": sorted(self._changed), "beside": beside} | counts
        )

    def restore(self, data: bytes) -> dict[str, Any]:
        """Takes the place of a new monitor; returns what was `beside`. Raises ValueError where this is none."""
        columns, facts = unpack(data)
        if facts.get("format") != 1:
            raise ValueError(f"checkpoint of outcomes has format {facts.get('format')}, expected 1")
        try:
            self._ledger.restore(columns)
            for place, each in enumerate(facts["versions"]):
                prefix = f"{place}."
                held = {
                    name.removeprefix(prefix): column for name, column in columns.items() if name.startswith(prefix)
                }
                key = each["model"], each["version"], each["digest"]
                self._kept[key] = held, each
                self._join(*key)
                if key in self._undeclared:
                    del self._kept[key]
            self.outcomes, self.forgotten = facts["outcomes"], facts["forgotten"]
            self._changed = {(model, version) for model, version in facts["changed"]}
            return dict(facts.get("beside") or {})
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(f"no checkpoint of outcomes: {error}") from None

    def _join(self, model: str, version: str, digest: str) -> VersionJoin | None:
        found = self._joins.get((model, version))
        if found is not None and found[0].package.digest == digest:
            return found[1]
        if (model, version, digest) in self.unfound:
            return None
        package = self._find(model, version, digest)
        if package is None or package.manifest.outcomes is None or package.manifest.signal is None:
            self.unfound.add((model, version, digest))
            if package is not None:
                self._undeclared.add((model, version, digest))
            return None
        join = VersionJoin(package.manifest, self._ledger, window=self.lengths.window, max_waiting=self._max_waiting)
        # The number of a version that was given to another package says nothing about this one.
        held = self._kept.get((model, version, digest))
        self._kept = {key: kept for key, kept in self._kept.items() if key[:2] != (model, version)}
        if held is not None:
            join.restore(*held)
            self._changed.add((model, version))
        self._joins[model, version] = (Served(model, version, package), join)
        return join
