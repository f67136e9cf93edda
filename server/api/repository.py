"""The repository calls of the Open Inference Protocol, as changes of what one server does.

Unload stops a model's answers as a halt does, which survives a restart; load ends that and tries again at once what
failed. Models come from desired state: a call cannot bring its own files or configuration.
"""

import threading
from collections.abc import Callable

from server.models import Operations, Reconciler
from server.models.records import decided_here
from tickserve.errors import Code, ControlError
from tickserve.wire import grpc_service_pb2 as oip

#: Each holds a thread of the admin listener, of which operators need some.
_WAITS = 4


class RepositoryService:
    """Answers RepositoryModelLoad and RepositoryModelUnload, on the admin listener."""

    def __init__(self, reconciler: Reconciler, operations: Operations, *, within_s: float = 60.0) -> None:
        self._reconciler = reconciler
        self._operations = operations
        self._within_s = within_s
        self._waits = threading.BoundedSemaphore(_WAITS)

    def load(self, request: oip.RepositoryModelLoadRequest, actor: str) -> oip.RepositoryModelLoadResponse:
        """Returns once the model answers with what is desired.

        Raises
        ------
        ControlError
            With the reason where it cannot be loaded; UNIMPLEMENTED where the call brings files or a configuration.
        """
        if request.parameters or request.repository_name:
            raise ControlError(
                "models come from desired state; a load takes no parameters and no repository name",
                code=Code.UNIMPLEMENTED,
            )
        self._operations.load(request.model_name, actor=actor)
        if not self._waits.acquire(blocking=False):
            raise ControlError(
                f"{_WAITS} loads are waited for already; model {request.model_name!r} is being loaded all the same",
                code=Code.RESOURCE_EXHAUSTED,
            )
        try:
            self._wait(request.model_name)
        finally:
            self._waits.release()
        return oip.RepositoryModelLoadResponse()

    def unload(self, request: oip.RepositoryModelUnloadRequest, actor: str) -> oip.RepositoryModelUnloadResponse:
        """Returns once the model answers no more. Raises ControlError."""
        if not request.model_name:
            raise ControlError("model_name is empty", code=Code.INVALID_ARGUMENT, field="model_name")
        self._operations.unload(request.model_name, actor=actor)
        return oip.RepositoryModelUnloadResponse()

    def _wait(self, model: str) -> None:
        def is_there() -> bool:
            snapshot = self._reconciler.snapshot()
            record = next((record for record in snapshot.models if record.name == model), None)
            if record is None:
                raise ControlError(f"model {model!r} is gone", code=Code.NOT_FOUND)
            for change in record.failed.values():
                raise ControlError(change.error.message, code=change.error.code)
            is_behind = snapshot.is_behind(record)
            decided = decided_here(record, snapshot.overrides)
            if is_behind and decided:
                raise ControlError(
                    f"model {model!r}: {decided}; `tickserve follow on {model}` ends that",
                    code=Code.FAILED_PRECONDITION,
                )
            return record.plan is not None and not is_behind

        if not wait_for(is_there, self._within_s):
            raise ControlError(
                f"model {model!r} is still loading after {self._within_s:g} s", code=Code.DEADLINE_EXCEEDED
            )


def wait_for(is_true: Callable[[], bool], within_s: float, pause_s: float = 0.05) -> bool:
    """Whether something became true within so many seconds."""
    pause = threading.Event()
    for _ in range(max(1, round(within_s / pause_s))):
        if is_true():
            return True
        pause.wait(pause_s)
    return is_true()
