"""The response matrix: which figure, at which level, held for how long, leads to which action. Data, checked once."""

import json
import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from mlops.package.manifest import Frozen, explain
from tickserve.errors import ConfigurationError

Source = Literal["drift_input", "drift_output", "outcome", "server"]
Basis = Literal["state", "lower", "upper", "value"]
LevelName = Literal["warning", "critical"]
ActionName = Literal[
    "notify", "request_review", "request_retraining", "set_position_scale", "halt", "reduce_share", "roll_back"
]

#: From the mildest to the worst.
LEVELS: tuple[LevelName, ...] = ("warning", "critical")
#: Figures that a row may name, by source.
FIGURES: dict[Source, frozenset[str]] = {
    "drift_input": frozenset({"psi", "js", "chi_square", "ks_binned", "w1", "missing"}),
    "drift_output": frozenset({"psi", "js", "chi_square", "ks_binned", "w1", "missing"}),
    "outcome": frozenset(
        {
            "ic",
            "rank_ic",
            "sharpe",
            "sharpe_lo",
            "sharpe_mertens",
            "sharpe_of_sign",
            "sortino",
            "information_ratio",
            "total_return",
            "max_drawdown",
            "profit_factor",
            "positive_share",
            "hit_rate",
            "up_share",
            "accuracy",
            "precision",
            "recall",
            "f1",
            "auc",
            "brier",
            "log_loss",
            "mse",
            "mae",
            "r2",
        }
    ),
    "server": frozenset({"error_rate", "violation_rate", "slow_rate"}),
}
#: Actions that tell somebody, and change nothing by themselves. The others act.
TELLING: frozenset[ActionName] = frozenset({"notify", "request_review"})
#: Actions on who gets which requests.
TRAFFIC: frozenset[ActionName] = frozenset({"reduce_share", "roll_back"})
#: Outcome figures that are also taken over the latest few periods; a row says over how many.
ROLLING = frozenset({"ic", "rank_ic", "sharpe"})
_DECIDED: dict[LevelName, tuple[float, float]] = {"warning": (1.0, 0.0), "critical": (2.0, 1.0)}


class Level(Frozen):
    """When a level is entered and left, and what is done when it is entered.

    Parameters
    ----------
    enter, leave : float, optional
        The level is raised when `windows` windows in a row lie beyond `enter`, and cleared when `clear_windows` in a
        row lie at `leave` or on its good side. What lies between the two does neither. Absent on basis `state`.
    position_scale : float, optional
        The factor that `set_position_scale` sets; while several levels of a model set one, the smallest counts.
    """

    enter: float | None = None
    leave: float | None = None
    windows: Annotated[int, Field(ge=1, le=1000)] = 1
    clear_windows: Annotated[int, Field(ge=1, le=1000)] = 1
    actions: Annotated[tuple[ActionName, ...], Field(min_length=1)]
    position_scale: Annotated[float, Field(ge=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.actions)) != len(self.actions):
            raise ValueError("an action is named twice")
        if ("set_position_scale" in self.actions) != (self.position_scale is not None):
            raise ValueError("set_position_scale and position_scale go together")
        return self

    @property
    def acts(self) -> bool:
        """Whether it does more than tell somebody."""
        return bool(set(self.actions) - TELLING)


class Row(Frozen):
    """One figure and its levels.

    Parameters
    ----------
    source, figure : str
        Where the figure comes from, and its name there. A drift row takes the worst column.
    basis : str
        `state`: the decision that drift monitoring made within its budget of false alarms. `lower` and `upper`: that
        bound of the figure's interval. `value`: the point estimate, on which a row may only tell.
    direction : str
        Which side of `enter` is bad.
    horizon : str
        Of an outcome row; empty takes every horizon that the package declares, each with levels of its own.
    length : int, optional
        Periods of a window, for a figure that rolls (ICs and Sharpe ratios); required for these.
    columns, models : tuple of str
        Only these; empty means all.
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
    source: Source
    figure: str
    basis: Basis
    direction: Literal["above", "below"] = "above"
    horizon: str = ""
    length: Annotated[int, Field(ge=20, le=10_000)] | None = None
    columns: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    warning: Level | None = None
    critical: Level | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        known = FIGURES[self.source]
        if self.figure not in known:
            raise ValueError(f"unknown figure {self.figure!r} of {self.source}; known are {', '.join(sorted(known))}")
        is_drift = self.source.startswith("drift")
        if is_drift and self.basis not in ("state", "value"):
            raise ValueError("drift is decided by its state; basis is state, or value to tell somebody")
        if self.basis == "state" and not (is_drift and self.figure == "psi" and self.direction == "above"):
            raise ValueError("basis state is for the psi of drift, above")
        if self.source != "outcome" and (self.horizon or self.length is not None):
            raise ValueError("horizon and length are for outcomes")
        if self.source == "outcome" and (self.length is not None) != (self.figure in ROLLING):
            raise ValueError(f"length is for {', '.join(sorted(ROLLING))}, and needed there")
        if not is_drift and self.columns:
            raise ValueError("columns are for drift")
        if self.warning is None and self.critical is None:
            raise ValueError("a row needs a warning or a critical level")
        for name, level in self.levels():
            self._check_level(name, level)
        if self.warning is not None and self.critical is not None:
            self._check_order(self.warning, self.critical)
        return self

    def levels(self) -> tuple[tuple[LevelName, Level], ...]:
        """The levels that it has, the mildest first."""
        pairs: tuple[tuple[LevelName, Level | None], ...] = (("warning", self.warning), ("critical", self.critical))
        return tuple((name, level) for name, level in pairs if level is not None)

    def level(self, name: LevelName) -> Level:
        """One of its levels. Raises KeyError."""
        return dict(self.levels())[name]

    def thresholds(self, name: LevelName) -> tuple[float, float]:
        """Where a level is entered and where it is left, in numbers; on basis `state` ok is 0, warning 1, critical 2.

        A value is beyond the first where it lies strictly on the bad side, but on basis `state` at it already.
        """
        level = self.level(name)
        if level.enter is None or level.leave is None:
            return _DECIDED[name]
        return level.enter, level.leave

    def is_beyond(self, name: LevelName, value: float) -> bool:
        """Whether a window with this value counts towards the level."""
        enter, _ = self.thresholds(name)
        if self.basis == "state":
            return value >= enter
        return value > enter if self.direction == "above" else value < enter

    def is_within(self, name: LevelName, value: float) -> bool:
        """Whether a window with this value counts towards leaving the level."""
        _, leave = self.thresholds(name)
        return value <= leave if self.direction == "above" else value >= leave

    def _check_level(self, name: LevelName, level: Level) -> None:
        traffic = sorted(TRAFFIC & set(level.actions))
        if traffic and self.source == "drift_input":
            raise ValueError(f"{name}: {traffic[0]} on input drift is refused: every version sees the same inputs")
        if self.basis == "state":
            if level.enter is not None or level.leave is not None:
                raise ValueError(
                    f"{name}: basis state has its thresholds from drift monitoring; leave enter and leave out"
                )
        else:
            if level.enter is None or level.leave is None:
                raise ValueError(f"{name}: enter and leave are missing")
            if self._is_worse(level.leave, level.enter):
                raise ValueError(
                    f"{name}: leave {level.leave:g} lies beyond enter {level.enter:g}; it would be raised and cleared "
                    "by the same window"
                )
        if level.acts and self.basis == "value":
            acting = sorted(set(level.actions) - TELLING)[0]
            raise ValueError(
                f"{name}: {acting} on a point estimate is refused; use basis "
                f"{'lower' if self.direction == 'above' else 'upper'}, so that the whole interval lies beyond enter"
            )
        if level.acts and self.basis in ("lower", "upper") and self.basis != self._far_bound():
            raise ValueError(
                f"{name}: an action {self.direction} a level needs the interval's {self._far_bound()} bound beyond it, "
                f"not the {self.basis} one"
            )

    def _check_order(self, warning: Level, critical: Level) -> None:
        if warning.enter is not None and critical.enter is not None:
            if self._is_worse(warning.enter, critical.enter):
                raise ValueError(f"warning at {warning.enter:g} lies beyond critical at {critical.enter:g}")
            if warning.enter == critical.enter and warning.windows >= critical.windows:
                raise ValueError("critical is entered where warning is and no later; warning can never hold alone")
        scales = (warning.position_scale, critical.position_scale)
        if scales[0] is not None and scales[1] is not None and scales[1] > scales[0]:
            raise ValueError("the critical position_scale is larger than the one of warning")

    def _is_worse(self, left: float, right: float) -> bool:
        return left > right if self.direction == "above" else left < right

    def _far_bound(self) -> str:
        return "lower" if self.direction == "above" else "upper"


class Matrix(Frozen):
    """All rows; names are unique."""

    format: Literal[1] = 1
    row: Annotated[tuple[Row, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [row.name for row in self.row]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"row {twice[0]!r} is there twice")
        return self

    def rows(self, model: str) -> tuple[Row, ...]:
        """The rows that hold for a model."""
        return tuple(row for row in self.row if not row.models or model in row.models)

    @property
    def moves_traffic(self) -> bool:
        """Whether any row acts on who gets which requests, which needs a registry."""
        return any(TRAFFIC & set(level.actions) for row in self.row for _, level in row.levels())

    def lengths(self) -> tuple[int, ...]:
        """The lengths, in periods, that outcome figures have to be taken over for these rows."""
        return tuple(sorted({row.length for row in self.row if row.length is not None}))


def default_matrix() -> Matrix:
    """The matrix that is shipped."""
    text = resources.files("mlops.alerts").joinpath("default.toml").read_text(encoding="utf-8")
    return _check(tomllib.loads(text), "the matrix that is shipped")


def load_matrix(path: Path) -> Matrix:
    """Reads a matrix of one's own, TOML or JSON by its suffix.

    It stands alone, unless it says `extends = "default"`: then its rows come beside the shipped ones, in the place of
    those of the same name, and `without` names those that are left out.

    Raises
    ------
    ConfigurationError
        Where the file cannot be read, or holds no matrix; the message names the row.
    """
    try:
        data = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read the alert matrix {path}: {error}", field="alerts") from None
    try:
        body = json.loads(data) if path.suffix == ".json" else tomllib.loads(data)
    except (ValueError, RecursionError) as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise ConfigurationError(f"alert matrix {path} is no {kind}: {error}", field="alerts") from None
    if not isinstance(body, dict):
        raise ConfigurationError(f"alert matrix {path} is no table of rows", field="alerts")
    extends, without = body.pop("extends", None), body.pop("without", None)
    if extends is None and without is None:
        return _check(body, str(path))
    if extends != "default":
        raise ConfigurationError(f'alert matrix {path}: extends can only be "default"', field="alerts")
    return _extended(body, without or [], path)


def _extended(body: dict[str, Any], without: Any, path: Path) -> Matrix:
    own = _check(body, str(path)).row if body.get("row") else ()
    shipped = default_matrix().row
    names = {row.name for row in shipped}
    if not isinstance(without, list) or not set(map(str, without)) <= names:
        raise ConfigurationError(
            f"alert matrix {path}: without names no shipped row; those are {', '.join(sorted(names))}", field="alerts"
        )
    replaced = {row.name for row in own} | set(without)
    kept = tuple(row for row in shipped if row.name not in replaced)
    if not kept + own:
        raise ConfigurationError(f"alert matrix {path}: no row is left", field="alerts")
    return Matrix(row=kept + own)


def _check(body: Any, what: str) -> Matrix:
    try:
        # By way of text: JSON has lists where the value has tuples, which strict validation takes from JSON only.
        return Matrix.model_validate_json(json.dumps(body, default=str))
    except ValidationError as error:
        fault = explain(error, f"alert matrix ({what})")
        place = error.errors(include_url=False)[0]["loc"]
        name = _row_name(body, place)
        text = f"{fault.message} (row {name!r})" if name else fault.message
        raise ConfigurationError(text, field="alerts") from None


def _row_name(body: Any, place: tuple[int | str, ...]) -> str:
    try:
        return str(body["row"][place[1]]["name"]) if place[0] == "row" else ""
    except (IndexError, KeyError, TypeError):
        return ""
