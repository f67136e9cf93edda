"""How much memory loaded versions may take: what each took, and what the next one should take by its file."""

import threading
from collections.abc import Mapping, Sequence

from tickserve.errors import Code, ControlError

#: Model and version.
_Key = tuple[str, str]
#: A file of a forest of 17 MB takes 200 MB once it is loaded.
_UNKNOWN_FACTOR = 12.0
#: What a smaller file takes has little to do with its size.
_LEAST_BYTES = 1 << 20


def expected_resident_bytes(size_bytes: int, known: Sequence[tuple[int, int]]) -> int:
    """What a model's file should take once it is loaded, never less than itself.

    `known` are others of the same model: size of the file, and what it turned out to take. Without any, a rule of
    thumb.
    """
    if not known:
        return round(size_bytes * _UNKNOWN_FACTOR)
    ratio = max(resident_bytes / max(size, _LEAST_BYTES) for size, resident_bytes in known)
    return max(size_bytes, round(ratio * max(size_bytes, _LEAST_BYTES)))


class Memory:
    """How much memory loaded versions may take together, by what loading each of them took.

    Parameters
    ----------
    budget_bytes : int
        0 means no bound.
    """

    def __init__(self, budget_bytes: int = 0) -> None:
        self.budget_bytes = budget_bytes
        self._lock = threading.Lock()
        self._loaded: dict[_Key, int] = {}
        self._reserved: dict[_Key, int] = {}

    def keep(self, loaded: Mapping[_Key, int]) -> None:
        """Says what is loaded now."""
        with self._lock:
            self._loaded = dict(loaded)

    def reserve(self, key: _Key, expected_bytes: int) -> None:
        """Takes what a load should need, until `settle`.

        Raises
        ------
        ControlError
            RESOURCE_EXHAUSTED where that does not fit; nothing is taken then.
        """
        with self._lock:
            taken = sum(self._loaded.values()) + sum(self._reserved.values())
            if self.budget_bytes and taken + expected_bytes > self.budget_bytes:
                model, version = key
                raise ControlError(
                    f"version {version} of model {model!r} should need {_mib(expected_bytes)} MiB; {_mib(taken)} of "
                    f"the {_mib(self.budget_bytes)} MiB of memory_budget_mb are taken",
                    code=Code.RESOURCE_EXHAUSTED,
                    field="memory_budget_mb",
                )
            self._reserved[key] = expected_bytes

    def lacking_bytes(self, expected_bytes: int) -> int:
        """How much would have to come free before a load that should need so much fits."""
        return self.taken_bytes + expected_bytes - self.budget_bytes if self.budget_bytes else 0

    def room_bytes(self, key: _Key) -> int:
        """What a load may take that has reserved: that, and all that is free. 0 is no bound."""
        with self._lock:
            others = sum(self._loaded.values()) + sum(self._reserved.values()) - self._reserved.get(key, 0)
            return max(1, self.budget_bytes - others) if self.budget_bytes else 0

    def settle(self, key: _Key) -> None:
        """Ends the reservation of a load, however that went."""
        with self._lock:
            self._reserved.pop(key, None)

    @property
    def taken_bytes(self) -> int:
        """What is loaded or being loaded."""
        with self._lock:
            return sum(self._loaded.values()) + sum(self._reserved.values())


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.1f}"
