"""Who may import whom: the layers of the system, walked from the code's own imports."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVER_MAY_USE = ("mlops.package", "mlops.routing", "mlops.registry", "mlops.histogram", "mlops.tap")
#: Library by the places that may import it.
CONFINED = {
    "grpc": (
        "tickserve/client/",
        "tickserve/listening/",
        "tickserve/v1/",
        "server/engine/",
        "server/api/admin.py",
        "mlops/sidecar/",
    ),
    "onnxruntime": ("server/engine/python/session.py", "mlops/package/"),
    "prometheus_client": ("server/metrics.py", "server/app.py", "tickserve/listening/", "mlops/sidecar/"),
}
FORBIDDEN_EVERYWHERE = ("pickle", "joblib", "dill", "cloudpickle")


def modules() -> list[Path]:
    folders = ("tickserve", "server", "mlops")
    return sorted(path.relative_to(ROOT) for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Every imported module, also those inside functions; relative imports do not occur."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


@pytest.mark.parametrize("path", modules(), ids=str)
def test_module_imports_only_what_its_layer_may(path: Path) -> None:
    place = path.as_posix()
    for module in imports(path):
        if place.startswith("tickserve/") and not place.startswith("tickserve/cli/"):
            assert not is_within(module, "mlops"), f"{place} imports {module}"
            assert not is_within(module, "server"), f"{place} imports {module}"
        if place.startswith("mlops/"):
            assert not is_within(module, "server"), f"{place} imports {module}"
        if place.startswith("server/") and is_within(module, "mlops") and module != "mlops":
            assert any(is_within(module, allowed) for allowed in SERVER_MAY_USE), f"{place} imports {module}"
        for library, places in CONFINED.items():
            if is_within(module, library):
                assert place.startswith(places), f"{place} imports {module}"
        assert not any(is_within(module, library) for library in FORBIDDEN_EVERYWHERE), f"{place} imports {module}"


def test_only_the_composition_roots_choose_implementations() -> None:
    concrete = ("server.engine.python", "server.engine.native")
    for path in modules():
        place = path.as_posix()
        if place.startswith("server/engine/") or place == "server/app.py":
            continue
        assert not any(is_within(module, name) for module in imports(path) for name in concrete), place
