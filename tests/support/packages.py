"""Real packages of the small models, built and verified as any other."""

from pathlib import Path
from typing import Any

import numpy as np

from mlops.package import MODEL_FILE, Golden, ReferenceRows, add_version, build_package, run_model
from tests.support.models import FEATURES, constant_model, slow_model


def build_constant(out: Path, value: float, *, name: str = "demo", **changes: Any) -> Path:
    """A package whose model answers `value`, written below `out`."""
    rows = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    golden = Golden(
        inputs={"features": rows[:8]}, outputs={"values": np.full((8, 1), value, np.float32)}, rtol=0.0, atol=0.0
    )
    settings: dict[str, Any] = {
        "name": name,
        "model": constant_model(value),
        "golden": golden,
        "reference": ReferenceRows("train", {"features": rows}),
        "feature_names": FEATURES,
    }
    return build_package(out, **(settings | changes))


def add_constant(models: Path, value: float, *, name: str = "demo", **changes: Any) -> Path:
    """Adds such a package to a models directory as the next version; returns the version's folder."""
    _, path = add_version(models, build_constant(models.parent / "packages", value, name=name, **changes))
    return path


def add_sum(models: Path, repeats: int, **changes: Any) -> Path:
    """Adds a version that answers the sum of the row, after so much work."""
    model = slow_model(repeats)
    rows = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    outputs = run_model(model, {"features": rows})
    golden = Golden(inputs={"features": rows}, outputs=outputs, rtol=1e-3, atol=1e-3)
    return add_constant(models, 0.0, model=model, golden=golden, **changes)


def add_endless_load(models: Path) -> None:
    """A model whose warm-up takes many times as long as any test."""
    staged = models.parent / "staged"
    staged.mkdir()
    (staged / MODEL_FILE).write_bytes(slow_model(repeats=20_000))
    (models / "endless").mkdir()
    staged.rename(models / "endless" / "1")


def flip_byte(file: Path, position: int = -1) -> None:
    """Inverts one byte in place; by default the one in the middle."""
    data = bytearray(file.read_bytes())
    data[position if position >= 0 else len(data) // 2] ^= 0xFF
    file.write_bytes(data)
