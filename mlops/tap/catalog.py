"""The catalog of a boot: what version numbers and split generations in records stand for."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlops.package import TensorSpec
from tickserve.errors import DamagedTapError


@dataclass(frozen=True, slots=True)
class Version:
    """What a version number stands for."""

    model: str
    version: str
    digest: bytes
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    feature_names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Split:
    """What decided the version of a model's requests; `segments` are (inclusive upper bound, version, role)."""

    model: str
    generation: int
    salt: bytes
    segments: tuple[tuple[int, str, int], ...]


class CatalogWriter:
    """Appends to a catalog. Under one lock; raises OSError where there is no room.

    Invariant: what a number stands for never changes, and is in the file before the number is given out.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._end = 0
        self._versions: dict[tuple[str, str, bytes], int] = {}
        self._splits: dict[str, Split] = {}

    def server(self, name: str) -> None:
        """Says which server this is a life of."""
        self._append({"kind": "server", "name": name})

    def version(self, version: Version) -> int:
        """The number of a version."""
        key = version.model, version.version, version.digest
        number = self._versions.get(key)
        if number is None:
            number = len(self._versions)
            self._append(version_entry(number, version))
            self._versions[key] = number
        return number

    def split(self, split: Split) -> int:
        """The generation that records name a split by: the one that it first came with."""
        known = self._splits.get(split.model)
        if known is not None and (known.salt, known.segments) == (split.salt, split.segments):
            return known.generation
        self._append(split_entry(split))
        self._splits[split.model] = split
        return split.generation

    def _append(self, entry: dict[str, Any]) -> None:
        data = json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        try:
            # Whole before it counts: the newline is what makes it a line.
            written = os.pwrite(self._descriptor, data, self._end)
            if written < len(data):
                raise OSError(28, "no room for a line of the catalog")
        except OSError:
            os.ftruncate(self._descriptor, self._end)
            raise
        self._end += len(data)


@dataclass(frozen=True, slots=True)
class Catalog:
    """A catalog as read: versions by their numbers, splits by model and generation; `server` is empty if not said."""

    versions: dict[int, Version]
    splits: dict[tuple[str, int], Split]
    server: str = ""


def version_entry(index: int, version: Version) -> dict[str, Any]:
    """A version as a line of the catalog says it."""
    return {
        "kind": "version",
        "index": index,
        "model": version.model,
        "version": version.version,
        "digest": version.digest.hex(),
        "inputs": _tensors(version.inputs),
        "outputs": _tensors(version.outputs),
        "feature_names": list(version.feature_names),
    }


def split_entry(split: Split) -> dict[str, Any]:
    """A split as a line of the catalog says it."""
    return {
        "kind": "split",
        "model": split.model,
        "generation": split.generation,
        "salt": split.salt.hex(),
        "segments": [list(segment) for segment in split.segments],
    }


def version_of(entry: Mapping[str, Any]) -> Version:
    """The other way round. Raises KeyError, TypeError or ValueError where it says none."""
    return Version(
        model=str(entry["model"]),
        version=str(entry["version"]),
        digest=bytes.fromhex(entry["digest"]),
        inputs=_specs(entry["inputs"]),
        outputs=_specs(entry["outputs"]),
        feature_names=tuple(map(str, entry["feature_names"])),
    )


def read_catalog(path: Path) -> Catalog:
    """Reads what is there; a last line that is not whole is left out. Raises DamagedTapError, OSError."""
    versions, splits, server = {}, {}, ""
    for number, line in enumerate(_lines(path), 1):
        try:
            entry = json.loads(line)
            if entry["kind"] == "version":
                versions[int(entry["index"])] = version_of(entry)
            elif entry["kind"] == "split":
                segments = tuple((int(bound), str(version), int(role)) for bound, version, role in entry["segments"])
                split = Split(str(entry["model"]), int(entry["generation"]), bytes.fromhex(entry["salt"]), segments)
                splits[split.model, split.generation] = split
            elif entry["kind"] == "server":
                server = str(entry["name"])
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedTapError(f"{path} line {number} is no entry: {error}", field=str(path)) from None
    return Catalog(versions, splits, server)


def _lines(path: Path) -> Iterator[bytes]:
    *whole, _ = path.read_bytes().split(b"\n")
    yield from whole


def _tensors(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
    return [{"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)} for spec in specs]


def _specs(tensors: Sequence[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(**(tensor | {"shape": tuple(tensor["shape"])})) for tensor in tensors)
