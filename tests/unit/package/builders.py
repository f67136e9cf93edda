"""Small packages whose figures a test can compute by hand, and ways to break them."""

import hashlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from mlops.package import (
    DIGEST_FILE,
    MANIFEST_FILE,
    Golden,
    Manifest,
    ReferenceRows,
    build_package,
    parse_manifest,
)
from mlops.package.verify import describe_file, witness_file

FEATURES = ("momentum", "rsi", "volume")
WEIGHTS = np.array([[1.0], [2.0], [4.0]], np.float32)
ROWS = np.random.default_rng(7).normal(size=(200, 3)).astype(np.float32)
TIMES = np.datetime64("2020-01-01") + np.arange(len(ROWS))
LATER = TIMES + len(ROWS)


def linear_model(edit: Callable[[Any], None] | None = None) -> bytes:
    """`prediction` = features @ WEIGHTS; `edit` changes the ModelProto before it is serialised."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["features", "weights"], ["prediction"])],
        "model",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", 3])],
        [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, ["rows", 1])],
        [helper.make_tensor("weights", TensorProto.FLOAT, [3, 1], WEIGHTS.ravel())],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    if edit:
        edit(model)
    return bytes(model.SerializeToString())


def golden() -> Golden:
    """Eight rows that `linear_model` repeats."""
    return Golden({"features": ROWS[:8]}, {"prediction": ROWS[:8] @ WEIGHTS})


def build_small(out: Path, **changes: Any) -> Path:
    """The package of `linear_model`, but for `changes`."""
    arguments: dict[str, Any] = {
        "name": "small",
        "model": linear_model(),
        "golden": golden(),
        "reference": ReferenceRows("train", {"features": ROWS}, TIMES),
        "outputs_reference": ReferenceRows("test", {"prediction": ROWS[:100] @ WEIGHTS}, LATER[:100]),
        "feature_names": FEATURES,
        "task": "regression",
    }
    return build_package(out, **(arguments | changes))


def copy_as(package: Path, target: Path) -> Path:
    """A writable copy under a name that is no digest."""
    return Path(shutil.copytree(package, target))


def rewrite(package: Path, out: Path, files: Mapping[str, bytes], **changes: Any) -> Path:
    """A copy with other files or manifest entries in which every hash is right again."""
    manifest = parse_manifest((package / MANIFEST_FILE).read_bytes())
    entries = {name: describe_file(data) for name, data in files.items()}
    changed: Manifest = manifest.model_copy(update={"files": manifest.files | entries} | changes)
    return seal(package, out, files, changed.canonical())


def seal(package: Path, out: Path, files: Mapping[str, bytes], manifest: bytes) -> Path:
    """A copy with other files and these very bytes as its manifest, under their digest."""
    digest = hashlib.sha256(manifest).hexdigest()
    folder = copy_as(package, out / digest)
    for name, data in {**files, MANIFEST_FILE: manifest, DIGEST_FILE: witness_file(digest)}.items():
        (folder / name).write_bytes(data)
    return folder
