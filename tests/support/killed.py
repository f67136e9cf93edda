"""The program, killed at one step of its swap to version 2: `python -m tests.support.killed STEP ARGUMENT...`."""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def around(owner: Any, name: str, is_it: Callable[..., bool], *, before: bool) -> None:
    """Replaces a function by one that kills the process before or after the call that `is_it` names."""
    original = getattr(owner, name)

    def killing(*arguments: Any, **named: Any) -> Any:
        if before and is_it(*arguments, **named):
            kill()
        result = original(*arguments, **named)
        if not before and is_it(*arguments, **named):
            kill()
        return result

    setattr(owner, name, killing)


def has_second(plan: Any) -> bool:
    return any("2" in model.versions for model in plan.models.values())


def arm(step: str) -> None:
    """Sets the trap. The first package is in the cache already, so that the only one that is fetched is the second."""
    from mlops.registry import fetch
    from server.engine.native import NativeEngine
    from server.engine.python import PythonEngine
    from server.models import registry
    from server.models.served import ServedFile

    engines = (PythonEngine, NativeEngine)
    traps: dict[str, tuple[tuple[Any, ...], str, Callable[..., bool], bool]] = {
        "before-state": ((registry,), "write_checked", lambda _, body: "2" in wanted(body), True),
        "after-state": ((registry,), "write_checked", lambda _, body: "2" in wanted(body), False),
        "half-fetched": ((fetch,), "publish_folder", lambda *_: True, True),
        "fetched": ((fetch,), "publish_folder", lambda *_: True, False),
        "before-prepare": (engines, "prepare", lambda _, version: version.version == "2", True),
        "prepared": (engines, "prepare", lambda _, version: version.version == "2", False),
        "installed": (engines, "install", lambda _, plan: has_second(plan), False),
        "before-written": (
            (ServedFile,),
            "write",
            serves_second,
            True,
        ),
        "written": ((ServedFile,), "write", serves_second, False),
    }
    owners, name, is_it, before = traps[step]
    for owner in owners:
        around(owner, name, is_it, before=before)


def serves_second(_: Any, last: Any) -> bool:
    return "demo" in last and "2" in last["demo"].versions


def wanted(body: Any) -> list[str]:
    return [share["version"] for target in body["models"]["demo"]["targets"] for share in target["shares"]]


if __name__ == "__main__":
    step, *arguments = sys.argv[1:]
    arm(step)
    sys.argv = ["tickserve", *arguments]
    from tickserve.cli import main

    main()
