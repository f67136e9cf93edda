"""Every bad package beside a good one: each is refused with its reason, and the good model answers all the while."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import rfc8785
from onnx import TensorProto, helper

from mlops.package import BASELINE_FILE, DIGEST_FILE, GOLDEN_FILE, MANIFEST_FILE, MODEL_FILE
from tests.e2e.conftest import Launcher
from tests.support.models import FEATURES, echo_model
from tests.support.packages import add_constant, build_constant, flip_byte
from tickserve.client import Client

ROW = dict.fromkeys(FEATURES, 1.0)


def rewrite_model(package: Path, model: bytes) -> None:
    """Puts another model into a package and makes manifest and witness fit it: only its content is bad."""
    (package / MODEL_FILE).write_bytes(model)
    manifest = json.loads((package / MANIFEST_FILE).read_bytes())
    manifest["files"][MODEL_FILE] = {"sha256": hashlib.sha256(model).hexdigest(), "size_bytes": len(model)}
    rewrite_manifest(package, manifest)


def rewrite_manifest(package: Path, manifest: dict[str, object]) -> None:
    data = rfc8785.dumps(manifest)  # type: ignore[arg-type]
    (package / MANIFEST_FILE).write_bytes(data)
    (package / DIGEST_FILE).unlink(missing_ok=True)


def truncated(package: Path) -> None:
    rewrite_model(package, (package / MODEL_FILE).read_bytes()[:-40])


def external_data(package: Path) -> None:
    model = onnx.load_from_string((package / MODEL_FILE).read_bytes())
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/passwd")
    rewrite_model(package, model.SerializeToString())


def unknown_operator(package: Path) -> None:
    model = onnx.load_from_string((package / MODEL_FILE).read_bytes())
    model.graph.node[0].CopyFrom(helper.make_node("Teleport", model.graph.node[0].input, model.graph.node[0].output))
    rewrite_model(package, model.SerializeToString())


def other_schema(package: Path) -> None:
    rewrite_model(package, echo_model())


def other_answers(package: Path) -> None:
    model = onnx.load_from_string((package / MODEL_FILE).read_bytes())
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "bias")
    bias.CopyFrom(helper.make_tensor("bias", TensorProto.FLOAT, [1], [99.0]))
    rewrite_model(package, model.SerializeToString())


def name_with_dots(package: Path) -> None:
    rewrite_manifest(package, json.loads((package / MANIFEST_FILE).read_bytes()) | {"name": "../../etc"})


def extra_file(package: Path) -> None:
    (package / "weights.pkl").write_bytes(b"\x80\x04.")


def symlink(package: Path) -> None:
    shutil.move(package / MODEL_FILE, package.parent / "elsewhere.onnx")
    (package / MODEL_FILE).symlink_to("../elsewhere.onnx")


def flipped(name: str) -> Callable[[Path], None]:
    return lambda package: flip_byte(package / name)


def missing(name: str) -> Callable[[Path], None]:
    return lambda package: (package / name).unlink()


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "flipped-model": (flipped(MODEL_FILE), "model.onnx is damaged"),
    "flipped-golden": (flipped(GOLDEN_FILE), "golden.npz is damaged"),
    "flipped-baseline": (flipped(BASELINE_FILE), "baseline.json is damaged"),
    "flipped-manifest": (flipped(MANIFEST_FILE), "manifest.json"),
    "flipped-witness": (flipped(DIGEST_FILE), "manifest.sha256"),
    "missing-model": (missing(MODEL_FILE), "model.onnx is missing"),
    "missing-golden": (missing(GOLDEN_FILE), "golden.npz is missing"),
    "truncated": (truncated, "model.onnx"),
    "external-data": (external_data, "external data"),
    "unknown-operator": (unknown_operator, "Teleport"),
    "other-schema": (other_schema, "contradicts manifest.json"),
    "other-answers": (other_answers, "golden"),
    "name-with-dots": (name_with_dots, "name"),
    "extra-file": (extra_file, "weights.pkl"),
    "symlink": (symlink, "regular file"),
}


@pytest.fixture
def broken(launcher: Launcher) -> Launcher:
    for name, (break_it, _) in BAD.items():
        break_it(add_constant(launcher.models, 1.0, name=name))
    return launcher


def test_each_bad_package_is_refused_by_name_while_the_good_model_answers(
    broken: Launcher, client_of: Callable[..., Client]
) -> None:
    add_constant(broken.models, 1.0, name="good")
    with broken.serve("--serve-rest") as running:
        status = running.control.status()
        failed = {model.name: model.failed[0].message for model in status.models if model.failed}
        assert set(failed) == set(BAD)
        for name, (_, expected) in BAD.items():
            assert expected in failed[name], f"{name}: {failed[name]}"
        client = client_of(running)
        assert client.predict(ROW, model="good").values.tolist() == [[1.0]]
        assert "Traceback" not in running.log.read_text()


def test_each_bad_version_of_a_served_model_leaves_the_old_one_answering(
    launcher: Launcher, client_of: Callable[..., Client]
) -> None:
    add_constant(launcher.models, 1.0)
    package = build_constant(launcher.home / "packages", 2.0)
    with launcher.serve() as running:
        client = client_of(running)
        for number, (break_it, expected) in enumerate(BAD.values(), start=2):
            staged = launcher.home / "staged"
            shutil.copytree(package, staged)
            (staged / DIGEST_FILE).write_text(f"{package.name}  {MANIFEST_FILE}\n")
            break_it(staged)
            staged.rename(launcher.models / "demo" / str(number))
            status = running.control.wait(
                lambda status, number=number: any(f.version == str(number) for f in status.models[0].failed), 60
            )
            message = next(f.message for f in status.models[0].failed if f.version == str(number))
            assert expected in message
            answer = client.predict(ROW, model="demo")
            assert (answer.version, answer.values.tolist()) == ("1", [[1.0]])
