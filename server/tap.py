"""The tap as the control plane has it: its files, what versions are called in them, and how much was written.

The same for every engine: it makes the files before the data plane maps them, and gives every plan its numbers.
"""

import errno
import fcntl
import json
import math
import os
import shutil
import stat
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import structlog

from mlops.package import MANIFEST_FILE
from mlops.tap import (
    COUNTERS,
    CatalogWriter,
    Identity,
    PageOwner,
    RingFile,
    Split,
    Version,
    create_page,
    create_ring,
    has_reader,
    new_boot,
    open_catalog,
    ring_path,
    ring_shape,
    tidy,
)
from mlops.tap.layout import COMPARED_ROLE, SHADOW_ROLE
from server.plan import ModelPlan, Plan, Role, VersionPlan
from tickserve.errors import ConfigurationError

_log = structlog.get_logger()
#: File systems that are memory: a write to them never waits for a disk.
_MEMORY = ("tmpfs", "ramfs", "hugetlbfs")
#: A tensor says its rank in one byte.
_MAX_RANK = 255
#: What a row's entity takes, as a rule.
_ENTITY_BYTES = 24


class Placed(NamedTuple):
    """What the tap calls a version under one plan: its number in the catalog, and its blocks of counters if any.

    `compared` is the block of its requests that are copied to the shadow.
    """

    version: int
    block: int | None
    compared: int | None = None


@dataclass(frozen=True, slots=True)
class TappedModel:
    """What the tap calls the versions of one model; those that it has no name for are absent.

    `shadow` is the block of what the shadow makes of its copies.
    """

    split_generation: int = 0
    latency_edge_ns: int = 0
    versions: Mapping[str, Placed] = field(default_factory=dict)
    shadow: int | None = None


UNTAPPED = TappedModel()


@dataclass(frozen=True, slots=True)
class TapTotals:
    """What was written since the start; `unplaced` are versions in a role that found no block of counters."""

    written: int
    dropped: int
    cut: int
    unplaced: int


class Tap:
    """One life of one server in the folder of the tap. Every method from any thread.

    Parameters
    ----------
    ring_bytes, slot_bytes : int
        The size of each ring, and of a slot in it.
    producers : int
        Threads that record: each has a ring, and rows of the counters page. The last one is that of shadows.
    server : str
        The name that readers know the server by, as it has it in its reports; empty for none.

    Raises
    ------
    ConfigurationError
        Where the folder is not in memory, cannot be written, or has no room.
    """

    def __init__(self, folder: Path, *, ring_bytes: int, slot_bytes: int, producers: int, server: str = "") -> None:
        require_memory(folder)
        boot = new_boot()
        self.folder = folder
        self.boot = folder / boot.hex()
        self.rings = [ring_path(self.boot, ring) for ring in range(producers)]
        self.counters = self.boot / COUNTERS
        shape = ring_shape(ring_bytes, slot_bytes)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            require_own(folder)
            for removed in tidy(folder):
                _log.info("tap_removed", boot=removed.name)
            self.boot.mkdir(mode=0o700)
        except OSError as error:
            raise _unusable(folder, error) from None
        try:
            self._descriptor = open_catalog(self.boot)
            self._catalog = CatalogWriter(self._descriptor)
            if server:
                self._catalog.server(server)
            for ring, path in enumerate(self.rings):
                create_ring(path, shape, boot, ring, producers)
            create_page(self.counters, boot, producers)
        except OSError as error:
            shutil.rmtree(self.boot, ignore_errors=True)
            if error.errno == errno.ENOSPC:
                raise _no_room(folder, producers, shape.file_bytes) from None
            raise _unusable(folder, error) from None
        self._page = PageOwner(self.counters)
        self._files = [RingFile(path) for path in self.rings]
        self._lock = threading.Lock()
        self._is_open = True

    def place(self, plan: Plan) -> Mapping[str, TappedModel]:
        """What to call everything in a plan that is about to be installed. What cannot be named is not recorded."""
        with self._lock:
            if not self._is_open:
                return {}
            try:
                named = {name: self._name(plan.generation, model) for name, model in plan.models.items()}
            except OSError as error:
                _log.warning("tap_cannot_name", error=str(error), generation=plan.generation)
                return {}
            blocks = self._page.place(
                [each for name, (_, numbers) in named.items() for each in _identities(plan.models[name], numbers)]
            )
        return {
            name: _tapped(plan.models[name], generation, numbers, blocks)
            for name, (generation, numbers) in named.items()
        }

    def keep(self, plan: Plan, placed: Mapping[str, TappedModel]) -> None:
        """Says that a plan is installed: the blocks of what is not in it are free some minutes from now."""
        planned = {
            identity
            for name, model in placed.items()
            for identity in _identities(
                plan.models[name], {version: found.version for version, found in model.versions.items()}
            )
        }
        with self._lock:
            if self._is_open:
                self._page.keep(planned)

    def totals(self) -> TapTotals:
        """What was written, over all rings; the last known once it is closed."""
        with self._lock:
            if self._is_open:
                self._totals = TapTotals(
                    written=sum(ring.written for ring in self._files),
                    dropped=sum(ring.dropped for ring in self._files),
                    cut=sum(ring.cut for ring in self._files),
                    unplaced=self._page.unplaced,
                )
            return self._totals

    def close(self) -> None:
        """Ends this life, once nothing is recorded any more; its files go where nobody reads them."""
        self.totals()
        with self._lock:
            if not self._is_open:
                return
            self._is_open = False
            self._page.close()
            for ring in self._files:
                ring.close()
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        os.close(self._descriptor)
        try:
            tidy(self.folder)
            if not has_reader(self.folder):
                self.folder.rmdir()
        except OSError as error:
            # Another server's life is in it, or somebody removed it.
            _log.debug("tap_folder_stays", error=str(error))

    def _name(self, plan_generation: int, model: ModelPlan) -> tuple[int, dict[str, int]]:
        segments = tuple((segment.upper_bound, segment.version, int(segment.role)) for segment in model.split.segments)
        generation = self._catalog.split(Split(model.name, plan_generation, model.split.salt, segments))
        numbers = {
            number: self._catalog.version(_version(version))
            for number, version in model.versions.items()
            if all(len(spec.shape) <= _MAX_RANK for spec in (*version.inputs, *version.outputs))
        }
        return generation, numbers


def widest_record(models: Path) -> int:
    """About how large a record of one row is, of the widest model in a folder; sizes the slots of the rings.

    What cannot be read here is refused elsewhere; records of it take several slots.
    """
    return max((_row_bytes(manifest) for manifest in models.glob(f"*/*/{MANIFEST_FILE}")), default=0)


def require_memory(folder: Path) -> None:
    """Refuses a folder that is not in memory. Raises ConfigurationError."""
    kind = file_system(folder)
    if kind not in _MEMORY:
        raise ConfigurationError(
            f"tap: {folder} is on {kind or 'an unknown file system'}, whose writes may wait for a disk; name a folder "
            "on tmpfs, such as one in /dev/shm, or turn it off with tap=off",
            field="tap",
        )


def require_own(folder: Path) -> None:
    """Refuses a folder that others can put files into: shared memory is everybody's. Raises ConfigurationError."""
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_mode & 0o022:
        raise ConfigurationError(
            f"tap: {folder} is no folder of this user that nobody else can write to; remove it, or name another",
            field="tap",
        )


def file_system(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """The kind of file system that a path is on, or would be; empty where that cannot be told."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    resolved, best, kind = path.resolve(), -1, ""
    for line in lines:
        before, _, after = line.partition(" - ")
        mounted = Path(before.split(" ")[4].replace("\\040", " ").replace("\\011", "\t"))
        # Of two on one place the later one is seen.
        if len(mounted.parts) >= best and resolved.is_relative_to(mounted):
            best, kind = len(mounted.parts), after.split(" ")[0]
    return kind


def _row_bytes(manifest: Path) -> int:
    try:
        content = json.loads(manifest.read_bytes())
        tensors = [*content["inputs"], *content["outputs"]]
        # A head, the dimensions, and values of 4 bytes as a rule; an open dimension is taken for one.
        values = sum(math.prod(max(1, size) for size in tensor["shape"]) for tensor in tensors)
        heads = sum(8 + 8 * len(tensor["shape"]) for tensor in tensors)
        return heads + 4 * int(values) + _ENTITY_BYTES
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _tapped(
    model: ModelPlan, split_generation: int, numbers: Mapping[str, int], blocks: Mapping[Identity, int]
) -> TappedModel:
    shadow = model.shadow.version if model.shadow is not None else ""
    return TappedModel(
        split_generation=split_generation,
        latency_edge_ns=model.latency_edge_ns,
        versions={
            version: Placed(
                number,
                blocks.get(_identity(model, version, number, _split_role(model, version))),
                blocks.get(_identity(model, version, number, COMPARED_ROLE)) if _is_compared(model, version) else None,
            )
            for version, number in numbers.items()
        },
        shadow=blocks.get(_identity(model, shadow, numbers[shadow], SHADOW_ROLE)) if shadow in numbers else None,
    )


def _identities(model: ModelPlan, numbers: Mapping[str, int]) -> Iterator[Identity]:
    """What is counted apart under the plan of one model; `numbers` are those of its versions in the catalog."""
    for version, number in numbers.items():
        yield _identity(model, version, number, _split_role(model, version))
        if _is_compared(model, version):
            yield _identity(model, version, number, COMPARED_ROLE)
        if model.shadow is not None and model.shadow.version == version:
            yield _identity(model, version, number, SHADOW_ROLE)


def _is_compared(model: ModelPlan, version: str) -> bool:
    """Whether the split gives the version requests that the shadow gets too."""
    return (
        model.shadow is not None
        and model.shadow.copies(version)
        and any(segment.version == version for segment in model.split.segments)
    )


def _split_role(model: ModelPlan, version: str) -> int:
    roles = {segment.version: segment.role for segment in model.split.segments}
    return int(roles.get(version, Role.PREVIOUS))


def _identity(model: ModelPlan, version: str, number: int, role: int) -> Identity:
    return Identity(
        version=number,
        role=role,
        budget_ns=model.versions[version].limits.latency_budget_us * 1000,
        edge_ns=model.latency_edge_ns,
    )


def _version(version: VersionPlan) -> Version:
    return Version(
        model=version.model,
        version=version.version,
        digest=version.digest,
        inputs=version.inputs,
        outputs=version.outputs,
        feature_names=version.feature_names,
    )


def _unusable(folder: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"tap: cannot use {folder}: {error.strerror}; name another folder on tmpfs, or turn it off with tap=off",
        field="tap",
    )


def _no_room(folder: Path, producers: int, file_bytes: int) -> ConfigurationError:
    facts = os.statvfs(folder)
    return ConfigurationError(
        f"tap: {folder} has {facts.f_bavail * facts.f_frsize >> 10} KiB free, less than {producers} rings of "
        f"{file_bytes >> 10} KiB and the counters page need; lower tap_ring_bytes, give that file system more memory, "
        "or turn it off with tap=off",
        field="tap_ring_bytes",
    )
