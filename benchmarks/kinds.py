"""The servers that can be measured: ours by engine, and their peers; each says whether it can be had here."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.loads import Load
from benchmarks.peers import cpp, mlserver, triton
from benchmarks.servers import ROOT, ServerProcess
from server.config import Settings
from tickserve.errors import ConfigurationError

NATIVE_OFF = ROOT / ".build" / "native-off"
BUILD_TIMEOUT_S = 1800.0
_TAP_OFF = {"TICKSERVE_TAP": "off"}


@dataclass(frozen=True)
class Place:
    """What a server serves, `model` of the served folder `models`; its state and its output go to `folder`."""

    models: Path
    model: str
    folder: Path


@dataclass(frozen=True)
class Kind:
    """A server that can be measured.

    Parameters
    ----------
    server, engine : str
        Its names in the results.
    make : callable
        One of it, not yet started.
    set_up : callable
        Builds or installs what it needs; a second call does nothing. Raises ConfigurationError where it cannot be had.
    is_ours : bool
        Whether it is compared with the peers, or is one.
    has_streams : bool
        Whether it answers ModelStreamInfer as Triton does.
    every : int
        It takes part in every so many rounds: slow ones in fewer.
    """

    server: str
    engine: str | None
    make: Callable[[Place], ServerProcess]
    set_up: Callable[[], None]
    is_ours: bool = False
    has_streams: bool = True
    every: int = 1

    def takes(self, load: Load) -> bool:
        """Whether it can be put under this load."""
        return self.has_streams or not load.is_streaming


def tickserve(
    place: Place, engine: str, *, environment: Mapping[str, str] | None = None, cpus: Collection[int] = ()
) -> ServerProcess:
    """Our server on one of its engines."""
    program = str(Path(sys.executable).with_name("tickserve"))
    command = [program, "serve", "--models", str(place.models), "--listen", "{address}", "--http", "{http}"]
    given = {"TICKSERVE_HOME": str(place.folder / f"home-{engine}"), **(environment or {})}
    log = place.folder / f"tickserve-{engine}.log"
    return ServerProcess([*command, "--engine", engine], given, log, has_metrics=True, cpus=cpus)


def native_off(place: Place) -> ServerProcess:
    """Our server on a native engine that was built without checks, routing and histograms, and its tap off."""
    tap = _TAP_OFF if _has_tap() else {}
    return tickserve(place, "native", environment={"PYTHONPATH": str(NATIVE_OFF), **tap})


def native_tap_off(place: Place) -> ServerProcess:
    """Our server on the native engine, with all but the tap."""
    return tickserve(place, "native", environment=_TAP_OFF)


def need_tap() -> None:
    """Raises ConfigurationError where the server has no native engine or no tap."""
    need_native()
    if not _has_tap():
        raise ConfigurationError("this server has no tap yet")


def _has_tap() -> bool:
    return "tap" in Settings.model_fields


def build_native_off() -> None:
    """Builds that engine, which only this measurement ever loads. Raises ConfigurationError."""
    need_native()
    if shutil.which("cargo") is None:
        raise ConfigurationError("the native engine without its features is built with cargo, which is not here")
    command = ["cargo", "build", "--quiet", "--release", "-p", "tickserve-native", "--features", "bench-bare"]
    # Apart from other builds: an extension module with and without a feature has one file name.
    command += ["--target-dir", str(NATIVE_OFF / "target")]
    done = subprocess.run(
        command, cwd=ROOT / "native", capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        raise ConfigurationError(f"the native engine without its features failed: {done.stderr.strip()[-500:]}")
    built = NATIVE_OFF / "target" / "release" / "libtickserve_native.so"
    shutil.copyfile(built, NATIVE_OFF / "tickserve_native.so")


def need_native() -> None:
    """Raises ConfigurationError where the native engine is not installed."""
    if importlib.util.find_spec("tickserve_native") is None:
        raise ConfigurationError("the native engine is not installed; `make native` builds it")


def bare_grpc_aio(place: Place) -> ServerProcess:
    """The bare peer in Python."""
    path = place.models / place.model / "1" / "model.onnx"
    command = [sys.executable, "-m", "benchmarks.peers.bare_grpc_aio", "--model", str(path), "--name", place.model]
    return ServerProcess([*command, "--listen", "{address}"], {}, place.folder / "bare.log", has_metrics=False)


def bare_cpp(place: Place) -> ServerProcess:
    """The bare peer in C++, with as many threads as our native engine has workers by default."""
    path = place.models / place.model / "1" / "model.onnx"
    workers = max(1, len(os.sched_getaffinity(0)) - 1)
    command = [str(cpp.BINARY), str(path), place.model, "{address}", str(workers)]
    return ServerProcess(command, {}, place.folder / "cpp.log", has_metrics=False)


def mlserver_peer(place: Place) -> ServerProcess:
    """MLServer with the runtime of peers/mlserver_serve.py."""
    command = mlserver.command(place.models / place.model / "1" / "model.onnx", place.model, place.folder)
    return ServerProcess(command, {}, place.folder / "mlserver.log", has_metrics=False)


def triton_peer(place: Place) -> ServerProcess:
    """Triton with its ONNX Runtime backend."""
    command = triton.command(place.models / place.model / "1" / "model.onnx", place.model, place.folder)
    return ServerProcess(command, {}, place.folder / "triton.log", has_metrics=False)


def _nothing() -> None:
    pass


KINDS = {
    "native": Kind("tickserve", "native", lambda place: tickserve(place, "native"), need_native, is_ours=True),
    "python": Kind("tickserve", "python", lambda place: tickserve(place, "python"), _nothing, is_ours=True, every=3),
    "native-off": Kind("tickserve", "native without its features", native_off, build_native_off, is_ours=True),
    "native-tap-off": Kind("tickserve", "native without its tap", native_tap_off, need_tap, is_ours=True),
    "cpp": Kind("bare_cpp", None, bare_cpp, cpp.set_up),
    "triton": Kind("triton", None, triton_peer, triton.set_up),
    "bare": Kind("bare_grpc_aio", None, bare_grpc_aio, _nothing, has_streams=False, every=3),
    "mlserver": Kind("mlserver", None, mlserver_peer, mlserver.set_up, has_streams=False, every=3),
}


def available(names: Collection[str]) -> tuple[list[str], dict[str, str]]:
    """Sets up each of the kinds; those that can be had, and for the others why not."""
    found, missing = [], {}
    for name in names:
        try:
            KINDS[name].set_up()
            found.append(name)
        except ConfigurationError as error:
            missing[name] = error.message
    return found, missing
