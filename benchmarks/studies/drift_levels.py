"""How often drift is seen where there is none, and where there is some: writes docs/studies/drift-levels.md."""

import math
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.signal import lfilter

from mlops.drift import DriftMonitor, DriftSpec, WindowResult, calibrate, onset
from mlops.drift.check import DataRows
from mlops.drift.columns import Column, sides_of
from mlops.drift.counts import ColumnCounts
from mlops.drift.covariance import correlation_rows
from mlops.drift.null import Assessment, assess
from mlops.package import Baseline, Manifest, OutcomeSpec, ReferenceRows, TensorSpec, make_baseline
from mlops.package.manifest import make_manifest
from mlops.training import FEATURES, close_times, compute_features, load_bars

REPORT = Path(__file__).resolve().parents[2] / "docs" / "studies" / "drift-levels.md"
REFERENCE_ROWS = 5000
WINDOWS = (250, 1000, 2500)
RUNS, POWER_RUNS, ONSET_RUNS, MODELS = 200, 40, 300, 5
SUB_BLOCKS = 20
TITLES = {
    "levels": "## Level without drift",
    "budgets": "## False alarms against the budget",
    "powers": "## Power",
    "onsets": "## Onset",
    "years": "## Each year of the S&P 500 against all others",
}
DAY_NS = 86_400 * 10**9
Floats = NDArray[np.float64]
Process = Callable[[np.random.Generator, int, int], Floats]


def autoregressive(persistence: float) -> Process:
    """Standard normal AR(1) series, shape (runs, rows)."""

    def draw(generator: np.random.Generator, runs: int, rows: int) -> Floats:
        noise = generator.normal(size=(runs, rows + 500)) * math.sqrt(1 - persistence**2)
        return np.asarray(lfilter([1.0], [1.0, -persistence], noise, axis=1)[:, 500:])

    return draw


def stochastic_volatility(generator: np.random.Generator, runs: int, rows: int) -> Floats:
    """Returns without autocorrelation whose log volatility is AR(1) with 0.95."""
    volatility = autoregressive(0.95)(generator, runs, rows)
    return np.asarray(np.exp(0.5 * volatility) * generator.normal(size=(runs, rows)))


PROCESSES: dict[str, Process] = {
    "AR(1) 0": autoregressive(0.0),
    "AR(1) 0.5": autoregressive(0.5),
    "AR(1) 0.9": autoregressive(0.9),
    "AR(1) 0.98": autoregressive(0.98),
    "stochastic volatility": stochastic_volatility,
}


def package_of(rows: Floats, *, step_ns: int = DAY_NS, names: Sequence[str] = ()) -> tuple[Manifest, Baseline]:
    """A baseline of float32 rows, `step_ns` apart up to 1970-01-01 plus 50 years."""
    names = tuple(names) or tuple(f"x{number}" for number in range(rows.shape[1]))
    manifest = make_manifest(
        name="study",
        inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, rows.shape[1])),),
        outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1, 1)),),
        feature_names=names,
        outcomes=OutcomeSpec(kind="time_series", horizons=(), periods_per_year=365.0, cost_bp=0.0),
        files={},
    )
    times = np.arange(len(rows), dtype=np.int64) * step_ns
    reference = ReferenceRows("train", {"x": rows.astype(np.float32)}, times)
    return manifest, make_baseline(manifest.inputs, manifest.outputs, reference, None, feature_names=names)


def column_of(rows: Floats) -> Column:
    """The column of a one-dimensional reference."""
    return sides_of(package_of(rows[:, None])[1])[0].columns[0]


def counted(column: Column, rows: Floats) -> ColumnCounts:
    """A window in sub-blocks."""
    values = rows.astype(np.float32)
    codes, scaled = column.codes(values), column.scaled(values)
    pieces = np.arange(len(rows)) * SUB_BLOCKS // len(rows)
    cells = np.bincount(pieces * column.cells + codes, minlength=SUB_BLOCKS * column.cells)
    high, low = (
        np.bincount(codes, half, column.cells)[:-1].astype(np.int64) for half in (scaled >> 24, scaled & 0xFFFFFF)
    )
    return ColumnCounts(cells.reshape(SUB_BLOCKS, column.cells), high, low)


def judged(reference: Floats, window: Floats) -> Assessment:
    """One window against one reference."""
    column = column_of(reference)
    return assess(column, counted(column, window), float(len(window)))


def drawn(process: Process, runs: int, rows: int, seed: int) -> Iterator[tuple[Floats, Floats]]:
    """References and windows of one process, far apart."""
    generator = np.random.default_rng(seed)
    for _ in range(runs):
        [series] = process(generator, 1, REFERENCE_ROWS + 1000 + rows)
        yield series[:REFERENCE_ROWS], series[-rows:]


@dataclass(frozen=True)
class Level:
    """Shares of windows without drift."""

    process: str
    rows: int
    runs: int
    correlation: float
    insufficient: float
    psi: tuple[float, float, float]
    others: tuple[float, ...]
    marginal: float
    null_q95: float


OTHERS = ("js", "chi_square", "ks_binned", "w1")


def level(name: str, rows: int, runs: int, seed: int) -> Level:
    """How often p is below 5%, 1% and 0.1%, and below 5% by the formula for independent rows."""
    judgements = [judged(*pair) for pair in drawn(PROCESSES[name], runs, rows, seed)]
    found = [each for each in judgements if each.correlation_rows <= rows / 20]
    if not found:
        slow = float(np.mean([each.correlation_rows for each in judgements]))
        return Level(name, rows, runs, slow, 1.0, (math.nan,) * 3, (math.nan,) * len(OTHERS), math.nan, math.nan)
    p = {key: np.array([each.levels[key].p for each in found]) for key in ("psi", *OTHERS)}  # type: ignore[index]
    freedom = 19
    values = np.array([each.levels["psi"].value for each in found])
    independent = stats.chi2.sf(values / (1 / REFERENCE_ROWS + 1 / rows), freedom)
    return Level(
        name,
        rows,
        runs,
        float(np.mean([each.correlation_rows for each in judgements])),
        1 - len(found) / len(judgements),
        (float((p["psi"] < 0.05).mean()), float((p["psi"] < 0.01).mean()), float((p["psi"] < 0.001).mean())),
        tuple(float((p[key] < 0.05).mean()) for key in OTHERS),
        float((independent < 0.05).mean()),
        float(np.mean([each.levels["psi"].q95 for each in found])),
    )


CHANGES: dict[str, Callable[[Floats, float], Floats]] = {
    "shift (sd)": lambda rows, size: rows + size,
    "scale (factor)": lambda rows, size: rows * size,
    "missing (share)": lambda rows, size: np.where(np.arange(len(rows)) % 100 < 100 * size, np.nan, rows),
}
SIZES = {
    "shift (sd)": (0.1, 0.25, 0.5, 1.0),
    "scale (factor)": (0.7, 0.9, 1.25, 1.5, 2.0),
    "missing (share)": (0.01, 0.03, 0.1),
}


def power(process: str, rows: int, change: str, size: float, runs: int) -> float:
    """Share of changed windows with p below 1%."""
    pairs = drawn(PROCESSES[process], runs, rows, 11)
    return float(
        np.mean([(judged(before, CHANGES[change](after, size)).levels["psi"].p or 0) < 0.01 for before, after in pairs])
    )


@dataclass(frozen=True)
class Budget:
    """Alarms of a model of ten features that does not drift."""

    process: str
    rows: int
    budget_days: float
    calibrated: float
    counted: float
    budget: float
    insufficient: float


def false_alarms(process: str, rows: int, budget_days: float, models: int) -> Budget:
    """Ten features of one process that share a factor, thresholds calibrated, a row an hour, for years.

    Each model has a baseline and windows of its own, because one baseline that lies off alarms again and again.
    """
    generator = np.random.default_rng(23)
    alarms, years, expected, budget, blind = 0, 0.0, [], 0.0, []
    per_model = max(1, 10_000 // rows)
    for _ in range(models):
        total = REFERENCE_ROWS + 1000 + per_model * rows
        common, own = PROCESSES[process](generator, 1, total), PROCESSES[process](generator, 10, total)
        series = (0.6 * common + 0.8 * own).T
        manifest, baseline = package_of(series[:REFERENCE_ROWS], step_ns=DAY_NS // 24)
        spec = DriftSpec(rows=rows, budget_days=budget_days)
        found = calibrate(baseline, spec, shifts=())
        expected.append(found.false_alarms_per_year)
        budget = found.budget_per_year
        chosen = DriftSpec(rows=rows, budget_days=budget_days, column_thresholds=found.thresholds())
        results = stream(manifest, baseline, chosen, series[REFERENCE_ROWS + 1000 :], DAY_NS // 24)
        alarms += sum(result.state in ("warning", "critical") for result in results)
        blind += [decision.state == "insufficient" for result in results for decision in result.decisions]
        years += len(results) * found.window_days / 365.25
    return Budget(process, rows, budget_days, float(np.mean(expected)), alarms / years, budget, float(np.mean(blind)))


def stream(manifest: Manifest, baseline: Baseline, spec: DriftSpec, rows: Floats, step_ns: int) -> list[WindowResult]:
    """Rows through a monitor."""
    times = (np.arange(len(rows), dtype=np.int64) + 100_000) * step_ns
    batch = DataRows(manifest.digest, {"x": rows.astype(np.float32)}, {}, times, {})
    return DriftMonitor(manifest, baseline, spec).add(batch)


@dataclass(frozen=True)
class Year:
    """One year of the S&P 500 against all others."""

    year: int
    values: dict[str, tuple[float, float, str]]


def left_out_years() -> list[Year]:
    """Each year from 2000 on against a baseline of all others, by the default rule with calibrated thresholds."""
    bars = load_bars("sp500")
    features, times = compute_features(bars).astype(np.float64), close_times(bars.sessions).astype(np.int64)
    known = np.isfinite(features).all(axis=1)
    features, times = features[known], times[known]
    years = times.astype("datetime64[ns]").astype("datetime64[Y]").astype(int) + 1970
    found = []
    for year in sorted(set(years.tolist()) - {1999}):
        others, own = features[years != year], features[years == year]
        manifest, baseline = package_of(others, names=FEATURES)
        spec = DriftSpec(rows=len(own))
        chosen = DriftSpec(rows=len(own), column_thresholds=calibrate(baseline, spec, shifts=()).thresholds())
        [result] = stream(manifest, baseline, chosen, own, DAY_NS)
        values = {
            decision.column: (decision.value or 0.0, decision.p if decision.p is not None else 1.0, decision.state)
            for decision in result.decisions
        }
        found.append(Year(year, values))
    return found


@dataclass(frozen=True)
class OnsetStudy:
    """How well the onset is found: share of intervals that hold it, and their mean width in sub-blocks."""

    process: str
    shift: float
    held: float
    width: float
    off: float


def onsets(process: str, shift: float, runs: int) -> OnsetStudy:
    """A shift somewhere in the second half of three windows of 1000 rows."""
    generator = np.random.default_rng(31)
    rows, pieces = 3000, 60
    held, widths, distances = [], [], []
    for before, after in drawn(PROCESSES[process], runs, rows, 37):
        column = column_of(before)
        true = int(generator.integers(rows // 4, rows * 3 // 4))
        values = (after + np.where(np.arange(rows) >= true, shift, 0.0)).astype(np.float32)
        cells = np.bincount(np.arange(rows) * pieces // rows * column.cells + column.codes(values))
        cells = np.append(cells, np.zeros(pieces * column.cells - len(cells), np.int64)).reshape(pieces, column.cells)
        point = onset.change_point(column.reference, cells, 2 * correlation_rows(column))
        boundary = true * pieces / rows
        held.append(point.low - 1 <= boundary <= point.high + 1)
        widths.append(point.high - point.low + 2)
        distances.append(abs(point.best - boundary))
    return OnsetStudy(process, shift, float(np.mean(held)), float(np.mean(widths)), float(np.median(distances)))


def prose(text: str) -> Iterator[str]:
    """A paragraph in lines, and an empty line."""
    yield from textwrap.wrap(" ".join(text.split()), 120)
    yield ""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table in Markdown, and an empty line."""
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""


def level_lines(levels: Sequence[Level]) -> Iterator[str]:
    """Levels by process and window."""
    errors = {runs: math.sqrt(0.05 * 0.95 / runs) for runs in sorted({each.runs for each in levels})}
    told = ", ".join(f"{error:.1%} over {runs} runs" for runs, error in errors.items())
    yield TITLES["levels"]
    yield ""
    yield from prose(
        f"""Shares of windows whose p is below 5%, 1% and 0.1%; pairs of a reference of {REFERENCE_ROWS} rows in
        50 blocks and a window in {SUB_BLOCKS} sub-blocks a line, so a share of 5% has a standard error of {told}.
        Beside PSI the other statistics at 5%; `marginal` is what the formula for independent rows makes of PSI at 5%.
        `insufficient`: windows of which a twentieth is shorter than the correlation time, in rows; they are left out
        of the other columns."""
    )
    head = [
        "process",
        "rows",
        "runs",
        "correlation",
        "insufficient",
        "PSI 5%",
        "1%",
        "0.1%",
        "JS",
        "chi-square",
        "KS",
        "W1",
    ]
    rows = [
        [
            each.process,
            str(each.rows),
            str(each.runs),
            f"{each.correlation:.1f}",
            f"{each.insufficient:.0%}",
            *("-" if math.isnan(share) else f"{share:.1%}" for share in (*each.psi, *each.others)),
            "-" if math.isnan(each.marginal) else f"{each.marginal:.0%}",
            "-" if math.isnan(each.null_q95) else f"{each.null_q95:.3f}",
        ]
        for each in levels
    ]
    yield from table([*head, "marginal", "null 95% of PSI"], rows)


def budget_lines(budgets: Sequence[Budget]) -> Iterator[str]:
    """False alarms."""
    yield TITLES["budgets"]
    yield ""
    yield from prose(
        f"""{MODELS} models of ten features that share a factor, a row an hour, each with a baseline of its own and
        thresholds from `calibrate`; alarms a year of the whole rule on rows that do not drift. `insufficient`: share
        of decisions that were none."""
    )
    rows = [
        [
            each.process,
            str(each.rows),
            f"{each.budget_days:g}",
            f"{each.budget:.2f}",
            f"{each.calibrated:.2f}",
            f"{each.counted:.2f}",
            f"{each.insufficient:.0%}",
        ]
        for each in budgets
    ]
    yield from table(["process", "rows", "budget days", "budget", "by calibrate", "counted", "insufficient"], rows)


def power_lines(found: dict[tuple[str, int, str, float], float]) -> Iterator[str]:
    """Power curves."""
    yield TITLES["powers"]
    yield ""
    yield f"Share of windows with p below 1%, {POWER_RUNS} runs each."
    yield ""
    cases = sorted({(process, rows) for process, rows, _, _ in found})
    for change, sizes in SIZES.items():
        rows = [
            [process, str(window), *(f"{found[process, window, change, size]:.0%}" for size in sizes)]
            for process, window in cases
        ]
        yield from table(["process", "rows", *(f"{change} {size:g}" for size in sizes)], rows)


def onset_lines(found: Sequence[OnsetStudy]) -> Iterator[str]:
    """Onsets."""
    yield TITLES["onsets"]
    yield ""
    yield from prose(
        f"""A shift in the midst of three windows of 1000 rows, 60 sub-blocks; {ONSET_RUNS} runs. Share of 95%
        intervals that hold the true onset, their mean width and the median distance of the estimate, in sub-blocks of
        50 rows."""
    )
    rows = [
        [each.process, f"{each.shift:g}", f"{each.held:.0%}", f"{each.width:.1f}", f"{each.off:.1f}"] for each in found
    ]
    yield from table(["process", "shift (sd)", "holds", "width", "off by"], rows)


def year_lines(years: Sequence[Year]) -> Iterator[str]:
    """Years of the S&P 500."""
    yield TITLES["years"]
    yield ""
    yield from prose(
        """Ten features of daily bars, 2000 to 2018; the baseline is every other year, the window the whole year,
        thresholds are calibrated. PSI; **bold** is an alarm, in brackets is `insufficient`, with * where p is below
        5%. Markets change, so what is seen here need not be false: this says what the rule makes of them."""
    )
    rows = []
    for each in years:
        shown = []
        for name in FEATURES:
            value, p, state = each.values[name]
            text = f"{value:.2f}{'*' if p < 0.05 else ''}"
            shown.append({"ok": text, "insufficient": f"({text})"}.get(state, f"**{text}**"))
        rows.append([str(each.year), *shown])
    yield from table(["year", *(name.replace("_", " ") for name in FEATURES)], rows)
    every = [value for each in years for value in each.values.values()]
    decided = [value for value in every if value[2] != "insufficient"]
    alarms = sum(value[2] in ("warning", "critical") for value in every)
    shares = [float(np.mean([p < 0.05 for _, p, _ in group])) for group in (every, decided)]
    yield from prose(
        f"""p is below 5% in {shares[0]:.1%} of all {len(every)}, and in {shares[1]:.1%} of the {len(decided)} that were
        decided; {alarms} are alarms."""
    )


def levels() -> Iterator[str]:
    """The level of every process and window."""
    yield from level_lines(
        [level(name, rows, RUNS, 100 * number + rows) for number, name in enumerate(PROCESSES) for rows in WINDOWS]
    )


def budgets() -> Iterator[str]:
    """False alarms of whole models."""
    yield from budget_lines(
        [
            false_alarms(process, rows, 365.0, MODELS)
            for process, rows in (("AR(1) 0", 250), ("stochastic volatility", 500))
        ]
    )


def powers() -> Iterator[str]:
    """Power against every change."""
    yield from power_lines(
        {
            (process, rows, change, size): power(process, rows, change, size, POWER_RUNS)
            for process in ("AR(1) 0", "AR(1) 0.9")
            for rows in (250, 1000)
            for change, sizes in SIZES.items()
            for size in sizes
        }
    )


def begun() -> Iterator[str]:
    """Onsets of shifts."""
    yield from onset_lines(
        [onsets(process, shift, ONSET_RUNS) for process in ("AR(1) 0", "AR(1) 0.9") for shift in (0.5, 1.0, 2.0)]
    )


def years() -> Iterator[str]:
    """Years of real prices."""
    yield from year_lines(left_out_years())


PARTS: dict[str, Callable[[], Iterator[str]]] = {
    "levels": levels,
    "budgets": budgets,
    "powers": powers,
    "onsets": begun,
    "years": years,
}


def main(chosen: Sequence[str]) -> None:
    """Runs these parts, or all, and writes them into the report; the others stay as they were."""
    sections = read_sections()
    for name in chosen or PARTS:
        lines = list(PARTS[name]())
        sections[lines[0]] = "\n".join(lines).strip()
    order = [line for name in TITLES for line in sections if line == TITLES[name]]
    about = "Written by `benchmarks.studies.drift_levels` (`make studies`), each part by itself"
    head = f"# How often drift is seen\n\n{about}; how it is decided: [drift.md](../drift.md)."
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text("\n\n".join([head, *(sections[line] for line in order)]) + "\n")
    print(REPORT.read_text())


def read_sections() -> dict[str, str]:
    """Sections of the report by their first line."""
    if not REPORT.exists():
        return {}
    found = ("## " + part for part in REPORT.read_text().split("\n## ")[1:])
    return {part.partition("\n")[0]: part.strip() for part in found}


if __name__ == "__main__":
    main(sys.argv[1:])
