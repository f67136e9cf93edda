"""What a client knows of the models it asks, and what it may rely on."""

from tickserve.prediction import ModelInfo, Prediction, Role

#: Model, and version pinned; empty for the stable one.
Key = tuple[str, str]


class KnownModels:
    """Descriptions by model and pinned version. Each method is one atomic step on a dict, so threads may share it.

    Two memories, because names and positions need opposite things. Values by name can follow the model to another
    order, so the `latest` description counts. Values by position were laid out by the caller in the order of the day,
    so the `first` description counts for the client's whole life: renewing it would let a swapped model read the same
    array in another order, and the feature digest exists to prevent just that.
    """

    def __init__(self) -> None:
        self._latest: dict[Key, ModelInfo] = {}
        self._first: dict[Key, ModelInfo] = {}

    def latest(self, key: Key) -> ModelInfo | None:
        """The newest description, or None where there is none that can still be true."""
        return self._latest.get(key)

    def first(self, key: Key) -> ModelInfo | None:
        """The description that this client began with."""
        return self._first.get(key)

    def learn(self, key: Key, info: ModelInfo) -> None:
        """Takes in what the server has said."""
        self._first.setdefault(key, info)
        self._latest[key] = info

    def compare(self, key: Key, prediction: Prediction) -> None:
        """Forgets the latest description where the answer shows that another version is stable by now."""
        known = self._latest.get(key)
        _, pinned = key
        if known is not None and not pinned and prediction.role is Role.STABLE and prediction.digest != known.digest:
            self._latest.pop(key, None)
