"""Each feature by itself: what it still says about the outcome, and how far it moved from its reference."""

from dataclasses import dataclass

import numpy as np

from mlops.outcomes.estimate import Estimate
from mlops.outcomes.figure import State
from mlops.outcomes.information import information_coefficient
from mlops.outcomes.joined import JoinedRows
from mlops.outcomes.periods import period_starts
from mlops.package import FEATURE_IC, Baseline, Horizon, Manifest, NumericColumn
from mlops.statistics.rows import Floats


@dataclass(frozen=True, slots=True)
class FeatureFigure:
    """One feature over the joined rows of a window.

    Attributes
    ----------
    ic, lower, upper, standard_error : float or None
        Rank correlation of the feature with the outcome.
    reference_ic, reference_error : float or None
        The same in the package's reference, where the package says.
    mean_shift : float or None
        Mean less the reference's, in standard deviations of the reference.
    sd_ratio : float or None
        Standard deviation over the reference's.
    n, missing : int
        Rows with a value, and without.
    """

    model: str
    version: str
    horizon: str
    feature: str
    ic: float | None
    lower: float | None
    upper: float | None
    standard_error: float | None
    reference_ic: float | None
    reference_error: float | None
    mean_shift: float | None
    sd_ratio: float | None
    n: int
    missing: int
    state: State


def feature_figures(
    rows: JoinedRows, manifest: Manifest, baseline: Baseline | None, version: str, horizon: Horizon
) -> tuple[FeatureFigure, ...]:
    """The features of these rows, those that moved farthest from their reference first."""
    columns = {column.name: column for column in baseline.inputs.columns} if baseline is not None else {}
    found = []
    for place, name in enumerate(rows.feature_names):
        column = columns.get(name)
        values = rows.features[:, place]
        is_there = np.isfinite(values)
        shift, ratio = _against(values[is_there], column if isinstance(column, NumericColumn) else None)
        estimate = _ic(rows.take(is_there), values[is_there], manifest, horizon)
        claimed = manifest.metrics.get(manifest.baseline_inputs, {}).get(FEATURE_IC.format(name))
        found.append(
            FeatureFigure(
                model=manifest.name,
                version=version,
                horizon=horizon.name,
                feature=name,
                ic=estimate.value,
                lower=estimate.lower,
                upper=estimate.upper,
                standard_error=estimate.standard_error,
                reference_ic=None if claimed is None else claimed.value,
                reference_error=None if claimed is None else claimed.standard_error,
                mean_shift=shift,
                sd_ratio=ratio,
                n=int(is_there.sum()),
                missing=int((~is_there).sum()),
                state="ok" if estimate.lower is not None else "insufficient",
            )
        )
    return tuple(sorted(found, key=lambda each: (-abs(each.mean_shift or 0.0), each.feature)))


def _against(values: Floats, column: NumericColumn | None) -> tuple[float | None, float | None]:
    if column is None or len(values) == 0:
        return None, None
    mean, deviation = column.moments()
    if not deviation > 0:
        return None, None
    return float((values.mean() - mean) / deviation), float(values.std() / deviation) if len(values) > 1 else None


def _ic(rows: JoinedRows, values: Floats, manifest: Manifest, horizon: Horizon) -> Estimate:
    if manifest.outcomes is None:
        return Estimate(None)
    return information_coefficient(
        "rank_ic",
        manifest.outcomes.kind,
        time_ns=rows.time_ns,
        period=period_starts(rows.time_ns, manifest.outcomes.periods_per_year),
        signal=values,
        value=rows.value,
        horizon=horizon.periods,
    ).estimate
