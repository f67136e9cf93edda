"""Reading a package: every byte is checked against the manifest before anything believes it, and is read only once."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlops.package._files import list_entries, read_file
from mlops.package.baseline import Baseline, check_baseline, read_baseline
from mlops.package.golden import Golden, check_golden, read_golden
from mlops.package.manifest import (
    BASELINE_FILE,
    DIGEST_FILE,
    GOLDEN_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    SIGNATURE_FILE,
    FileEntry,
    Manifest,
    TensorSpec,
    make_manifest,
    parse_manifest,
)
from mlops.package.onnx_file import read_graph
from mlops.package.signature import Signature, read_signature
from tickserve.errors import DamagedPackageError, PackageError

#: Bounds on the files of a package, in bytes.
MAX_BYTES = {
    MANIFEST_FILE: 4 << 20,
    MODEL_FILE: 1 << 30,
    GOLDEN_FILE: 64 << 20,
    BASELINE_FILE: 64 << 20,
    DIGEST_FILE: 256,
    SIGNATURE_FILE: 4096,
}
_PAYLOAD = frozenset({MODEL_FILE, GOLDEN_FILE, BASELINE_FILE})
_HEX_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, eq=False)
class Package:
    """A verified package.

    Parameters
    ----------
    path : Path
        The folder that it was read from.
    manifest : Manifest
        What the model is; synthetic for a bare model.
    digest : str
        SHA-256 of the canonical manifest, in hex: the identity of the package.
    model : bytes
        The ONNX file, the very bytes that were hashed.
    golden : Golden or None
        Golden rows; a bare model has none.
    baseline : Baseline or None
        Reference distributions; a bare model has none.
    signature : Signature or None
        One that fits the digest, where the package has any; whether its key is trusted says `require_signature`.
    """

    path: Path
    manifest: Manifest
    digest: str
    model: bytes
    golden: Golden | None
    baseline: Baseline | None = None
    signature: Signature | None = None


def read_package(path: Path) -> Package:
    """Reads and verifies a package, all but what needs a runtime (`check_model` does that).

    Parameters
    ----------
    path : Path
        The folder. Where its name is 64 hex digits, that must be the digest; where it holds manifest.sha256, that too.

    Raises
    ------
    DamagedPackageError
        A file is missing, too many, no regular file, over its bound, or not the one that the manifest or digest says.
    PackageError
        The folder is missing, or its files are whole but contradict each other or cannot be served.
    """
    return verify_files(path, read_files(path))


def read_files(path: Path) -> dict[str, bytes]:
    """The bytes of each file of a package by name, unverified."""
    names = list_entries(path)
    for missing in sorted((_PAYLOAD | {MANIFEST_FILE}) - names):
        raise DamagedPackageError(f"{path}: {missing} is missing", field=missing)
    for extra in sorted(names - MAX_BYTES.keys()):
        raise DamagedPackageError(f"{path}: {extra!r} is no file of a package; remove it", field=extra)
    return {name: read_file(path / name, MAX_BYTES[name]) for name in sorted(names)}


def verify_files(path: Path, files: Mapping[str, bytes]) -> Package:
    """The package that these files are; `path` gives the name that the digest is compared with, nothing is read."""
    digest = hashlib.sha256(files[MANIFEST_FILE]).hexdigest()
    _check_digest(path, digest, files.get(DIGEST_FILE))
    signature = read_signature(files[SIGNATURE_FILE], digest) if SIGNATURE_FILE in files else None
    manifest = parse_manifest(files[MANIFEST_FILE])
    if manifest.files.keys() != _PAYLOAD:
        raise PackageError(
            f"{MANIFEST_FILE}: files are {sorted(manifest.files)}, exactly {sorted(_PAYLOAD)} are expected",
            field="files",
        )
    for name, entry in manifest.files.items():
        _check_file(path, name, files[name], entry)
    check_schema(files[MODEL_FILE], manifest)
    golden = read_golden(files[GOLDEN_FILE])
    check_golden(golden, manifest.inputs, manifest.outputs)
    baseline = read_baseline(files[BASELINE_FILE])
    check_baseline(baseline, manifest)
    return Package(path, manifest, digest, files[MODEL_FILE], golden, baseline, signature)


def read_bare_model(path: Path, name: str) -> Package:
    """Reads a folder that holds model.onnx and nothing else (Triton's layout), under a synthetic manifest.

    The schema is the graph's; inputs must be finite, outputs have no rules; the digest follows from the name and the
    file's bytes.

    Raises
    ------
    DamagedPackageError
        The file is missing, no regular file, or not alone.
    PackageError
        The name is no model name, or the file cannot be served.
    """
    for extra in sorted(list_entries(path) - {MODEL_FILE}):
        raise DamagedPackageError(
            f"{path}: {extra!r} lies beside {MODEL_FILE}, but there is no whole package; remove it or complete it",
            field=extra,
        )
    model = read_file(path / MODEL_FILE, MAX_BYTES[MODEL_FILE])
    graph = read_graph(model)
    manifest = make_manifest(
        name=name,
        inputs=graph.inputs,
        outputs=graph.outputs,
        files={MODEL_FILE: describe_file(model)},
    )
    return Package(path, manifest, manifest.digest, model, golden=None)


def describe_file(data: bytes) -> FileEntry:
    """The manifest's entry for a file of these bytes."""
    return FileEntry(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def check_schema(model: bytes, manifest: Manifest) -> None:
    """Raises PackageError where the graph's inputs or outputs are not exactly the manifest's."""
    graph = read_graph(model)
    for kind, actual, declared in (
        ("input", graph.inputs, manifest.inputs),
        ("output", graph.outputs, manifest.outputs),
    ):
        if actual != declared:
            raise PackageError(
                f"{MODEL_FILE} contradicts {MANIFEST_FILE}: its {kind}s are {_describe(actual)}, "
                f"the manifest says {_describe(declared)}",
                field=f"{kind}s",
            )


def _check_digest(path: Path, digest: str, witness: bytes | None) -> None:
    if _HEX_DIGEST.fullmatch(path.name) and path.name != digest:
        raise DamagedPackageError(
            f"{path}: {MANIFEST_FILE} has digest {digest}, the folder's name says another", field=MANIFEST_FILE
        )
    if witness is not None and witness != witness_file(digest):
        raise DamagedPackageError(
            f"{path}: {MANIFEST_FILE} has digest {digest}, {DIGEST_FILE} says another", field=MANIFEST_FILE
        )


def witness_file(digest: str) -> bytes:
    """The bytes of manifest.sha256 for a digest."""
    return f"{digest}  {MANIFEST_FILE}\n".encode()


def _check_file(path: Path, name: str, data: bytes, entry: FileEntry) -> None:
    if len(data) != entry.size_bytes:
        raise DamagedPackageError(
            f"{path / name} is damaged: it has {len(data)} bytes, the manifest says {entry.size_bytes}", field=name
        )
    actual = hashlib.sha256(data).hexdigest()
    if actual != entry.sha256:
        raise DamagedPackageError(
            f"{path / name} is damaged: its SHA-256 is {actual}, the manifest says {entry.sha256}", field=name
        )


def _describe(tensors: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{tensor.name} {tensor.datatype} {list(tensor.shape)}" for tensor in tensors)
