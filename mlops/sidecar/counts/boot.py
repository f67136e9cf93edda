"""One life of one server as it is counted: its catalog, its page, and the windows of each of its models."""

from collections.abc import Callable, Mapping
from pathlib import Path

from mlops.rollout.sums import CountedWindow
from mlops.rollout.sums.write import Progress
from mlops.sidecar.counts.windows import ModelWindows, Moment
from mlops.tap import CATALOG, COUNTERS, Catalog, PageReader, is_alive, read_catalog

LengthOf = Callable[[str], int]


#: Rows of a window of a model that is over, and how far the boot is with them.
Closed = tuple[tuple[CountedWindow, ...], Progress]


class CountedBoot:
    """Not for several threads. The page stays readable once it is mapped, also when its file is gone.

    Parameters
    ----------
    known : mapping
        By model, how far the boot was counted in an earlier life of this process.

    Raises
    ------
    DamagedTapError, OSError
        Where there is no page, or it cannot be read.
    """

    def __init__(self, path: Path, reporter: str, known: Mapping[str, Progress]) -> None:
        self._path, self._reporter, self._known = path, reporter, dict(known)
        self._page = PageReader(path / COUNTERS)
        self._catalog = Catalog({}, {})
        self._catalog_bytes = -1
        self._models: dict[str, ModelWindows] = {}
        #: Models whose last window was closed.
        self._through: set[str] = set()
        #: Where the open window of a model begins that was not there at the last look.
        self._polled_ns = int(path.name[:16], 16)
        self._is_alive = True

    @property
    def name(self) -> str:
        """The boot's id."""
        return self._path.name

    @property
    def is_through(self) -> bool:
        """Whether the server has ended, and all that it counted is in windows that were returned."""
        return not self._is_alive and self._through >= self._models.keys()

    def poll(self, now: Moment, length_of: LengthOf) -> list[Closed]:
        """The windows that are over. Raises DamagedTapError, OSError; what was not returned is returned later."""
        # In this order: what a server that lived no more had counted is in what is looked at next.
        self._is_alive = self._is_alive and is_alive(self._path)
        is_last = not self._is_alive
        self._refresh(now, length_of)
        due = [
            model
            for model, windows in self._models.items()
            if model not in self._through and windows.end_ns(now.unix_ns, length_of(model)) is not None
        ]
        if not due:
            return []
        blocks = self._page.snapshot()
        # Again: a split or a version that came meanwhile is in what was just looked at.
        self._refresh(now, length_of)
        versions = {index: (version.model, int(version.version)) for index, version in self._catalog.versions.items()}
        found: list[Closed] = []
        for model in due:
            windows = self._models[model]
            mine = [block for block in blocks if versions.get(block.identity.version, ("", 0))[0] == model]
            window_ns = length_of(model)
            rows = windows.close(mine, {index: number for index, (_, number) in versions.items()}, window_ns, now)
            if is_last:
                self._through.add(model)
            progress = Progress(
                boot=self.name,
                model=model,
                server=self._catalog.server,
                complete_to_ns=windows.start_ns,
                outputs_to_ns=0,
                window_ns=window_ns,
                dropped=0,
                state={} if is_last else windows.state,
                has_ended=is_last,
            )
            found.append((tuple(rows), progress))
        return found

    def close(self) -> None:
        """Unmaps the page."""
        self._page.close()

    def _refresh(self, now: Moment, length_of: LengthOf) -> None:
        """Reads the catalog where it has grown; once its file is gone it stays as it was."""
        try:
            size = (self._path / CATALOG).stat().st_size
            if size != self._catalog_bytes:
                self._catalog = read_catalog(self._path / CATALOG)
                self._catalog_bytes = size
        except FileNotFoundError:
            pass
        splits = list(self._catalog.splits.values())
        for model in {version.model for version in self._catalog.versions.values()}:
            if model not in self._models:
                self._models[model] = self._begun(model, length_of(model))
            self._models[model].see([split for split in splits if split.model == model], now)
        self._polled_ns = now.unix_ns

    def _begun(self, model: str, window_ns: int) -> ModelWindows:
        known = self._known.get(model)
        if known is not None:
            if known.has_ended:
                self._through.add(model)
            return ModelWindows(self._reporter, self.name, known.complete_to_ns, known.state)
        return ModelWindows(self._reporter, self.name, self._polled_ns // window_ns * window_ns)
