"""Which engine serves, and that a server whose data plane has died does not stay up."""

import importlib.util
import signal
from pathlib import Path

import pytest

from server.engine.native import PLAN_FORMAT
from tests.e2e.conftest import Launcher
from tests.support.models import FEATURES
from tests.support.packages import add_constant
from tickserve.client import Client

ROW = dict.fromkeys(FEATURES, 1.0)
native_only = pytest.mark.skipif(
    importlib.util.find_spec("tickserve_native") is None, reason="the native engine is not built here"
)


def engine_line(log: Path) -> str:
    (line,) = [line for line in log.read_text().splitlines() if "engine" in line and "why" in line]
    return line


def shadow_module(launcher: Launcher, source: str) -> None:
    """Puts another `tickserve_native` before the installed one."""
    folder = launcher.home / "shadow"
    folder.mkdir()
    (folder / "tickserve_native.py").write_text(source)
    launcher.settings["PYTHONPATH"] = str(folder)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (
            "PLAN_FORMAT = 99\n__version__ = '9.9'\n",
            f"tickserve-native 9.9 speaks plan format 99, this server {PLAN_FORMAT}",
        ),
        ("", "tickserve-native of no version speaks plan format none"),
        ("raise ImportError('GLIBC_9.99 not found')\n", "is not installed: GLIBC_9.99 not found"),
    ],
)
def test_a_wheel_that_does_not_fit_leaves_the_python_engine(launcher: Launcher, source: str, why: str) -> None:
    shadow_module(launcher, source)
    add_constant(launcher.models, 0.5)
    with launcher.serve() as running, Client(running.address, model="demo") as client:
        assert client.predict(ROW).values.tolist() == [[0.5]]
        line = engine_line(running.log)
        assert "engine=python" in line
        assert why in line
    done = launcher.run("serve", "--engine", "native", code=2)
    assert why in done.stderr


@native_only
def test_the_native_engine_is_taken_where_it_is_and_named_in_the_metrics(launcher: Launcher) -> None:
    add_constant(launcher.models, 0.5)
    with launcher.serve() as running:
        assert "engine=native" in engine_line(running.log)
        assert running.terminate() == 0
    with launcher.serve("--engine", "python") as running:
        assert "engine=python" in engine_line(running.log)
        assert running.terminate() == 0


@native_only
def test_a_server_whose_worker_dies_is_not_ready_any_more_and_exits(launcher: Launcher) -> None:
    # A worker cannot be made to die from outside: its thread's end is told by a module that stands before the real one.
    real = importlib.util.find_spec("tickserve_native")
    assert real is not None
    assert real.origin is not None
    (library,) = Path(real.origin).parent.glob("*.so")
    shadow_module(
        launcher,
        f"""
import importlib.util, os
spec = importlib.util.spec_from_file_location("tickserve_native", {str(library)!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
PLAN_FORMAT, __version__ = module.PLAN_FORMAT, module.__version__


class NativeEngine:
    def __init__(self, **settings):
        self.engine = module.NativeEngine(**settings)

    def __getattr__(self, name):
        return getattr(self.engine, name)

    def has_died(self):
        return os.path.exists({str(launcher.home / "die")!r})
""",
    )
    add_constant(launcher.models, 0.5)
    with launcher.serve("--engine", "native") as running:
        (launcher.home / "die").touch()
        assert running.process.wait(60) == 3
        assert "a thread of the data plane has ended" in running.log.read_text()


@native_only
def test_a_killed_server_leaves_nothing_that_the_next_one_minds(launcher: Launcher) -> None:
    add_constant(launcher.models, 0.5)
    with launcher.serve("--engine", "native") as running, Client(running.address, model="demo") as client:
        client.predict(ROW)
        launcher.run("halt", "demo", "--reason", "test")
        running.process.send_signal(signal.SIGKILL)
        running.process.wait(60)
    with launcher.serve("--engine", "native") as running:
        launcher.run("resume", "demo")
        with Client(running.address, model="demo") as client:
            assert client.predict(ROW).values.tolist() == [[0.5]]
        assert running.terminate() == 0


@pytest.mark.parametrize("engine", ["python", pytest.param("native", marks=native_only)])
def test_nothing_is_kept_in_the_users_home_to_be_sent_anywhere(launcher: Launcher, engine: str) -> None:
    user = launcher.home / "user"
    user.mkdir()
    # What this process may have set for itself is no part of the test.
    launcher.settings |= {"HOME": str(user), "XDG_CACHE_HOME": str(user / "cache"), "ORT_DISABLE_TELEMETRY": ""}
    add_constant(launcher.models, 0.5)
    with launcher.serve("--engine", engine) as running, Client(running.address, model="demo") as client:
        assert client.predict(ROW).values.tolist() == [[0.5]]
        assert running.terminate() == 0
    assert list(user.rglob("*")) == []
