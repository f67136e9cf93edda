"""Builds the bare C++ peer where its compiler and libraries are, with ONNX Runtime's library of the Python package.

The wheel has no C header: it comes from the Go module that ships one.
"""

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path

from benchmarks.servers import ROOT
from tickserve.errors import ConfigurationError

SOURCE = Path(__file__).resolve().parent / "bare_cpp"
OUT = ROOT / ".build" / "bare_cpp"
BINARY = OUT / "bare_cpp"
HEADER_MODULE = "github.com/yalue/onnxruntime_go@v1.27.0"
BUILD_TIMEOUT_S = 900.0
_PACKAGES = "Debian's libgrpc++-dev, protobuf-compiler-grpc, pkg-config and g++"


def set_up() -> None:
    """Builds `BINARY`; half a minute once. Raises ConfigurationError where something it needs is missing."""
    tools = [tool for tool in ("g++", "make", "protoc", "grpc_cpp_plugin", "pkg-config") if shutil.which(tool) is None]
    if tools or subprocess.run(["pkg-config", "--exists", "grpc++"], check=False).returncode != 0:
        raise ConfigurationError(f"the C++ peer needs {_PACKAGES}; missing: {', '.join(tools) or 'grpc++'}")
    command = ["make", "--silent", f"ORT_LIBRARY={_library()}", f"ORT_INCLUDE={_include()}"]
    done = subprocess.run(command, cwd=SOURCE, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise ConfigurationError(f"the C++ peer cannot be built: {done.stderr.strip()[-500:]}")


def _library() -> Path:
    spec = importlib.util.find_spec("onnxruntime")
    folders = spec.submodule_search_locations if spec is not None else None
    for folder in folders or ():
        for path in sorted(Path(folder, "capi").glob("libonnxruntime.so.*")):
            return path
    raise ConfigurationError("the C++ peer needs the libonnxruntime.so of the onnxruntime wheel, which is not there")


def _include() -> Path:
    if shutil.which("go") is None:
        raise ConfigurationError(f"the C++ peer needs go to fetch ONNX Runtime's C header, of {HEADER_MODULE}")
    OUT.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["go", "mod", "download", "-json", HEADER_MODULE],
        cwd=OUT,
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise ConfigurationError(f"ONNX Runtime's C header cannot be had: `go mod download {HEADER_MODULE}` failed")
    return Path(json.loads(done.stdout)["Dir"])
