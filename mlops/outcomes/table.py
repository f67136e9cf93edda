"""The latest figures on disk, for whoever looks without asking the sidecar."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from mlops.outcomes.figure import OutcomeFigure

FILE = "outcomes.json"


def write_latest(folder: Path, figures: Iterable[OutcomeFigure]) -> None:
    """Replaces the figures, whole or not at all. Raises OSError."""
    staged = folder / f".{FILE}.new"
    staged.write_text(json.dumps([figure.as_dict() for figure in figures], allow_nan=False), encoding="utf-8")
    os.replace(staged, folder / FILE)


def read_latest(folder: Path) -> tuple[OutcomeFigure, ...]:
    """The figures that were written last; none where there is no file. Raises ValueError where it holds no figures."""
    try:
        content = (folder / FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ()
    try:
        return tuple(OutcomeFigure.from_dict(each) for each in json.loads(content))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / FILE} holds no figures: {error}") from None
