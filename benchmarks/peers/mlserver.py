"""MLServer as a peer: a virtual environment of its own, `.venv-mlserver`, and the program that runs in it.

As lean as its settings allow: the model in its own process (no parallel workers), no metrics.
"""

import json
import subprocess
import sys
from pathlib import Path

import onnxruntime as ort

from benchmarks.servers import ROOT
from tickserve.errors import ConfigurationError
from tickserve.wire import grpc_service_pb2 as service_pb
from tickserve.wire import model_config_pb2 as pb

ENVIRONMENT = ROOT / ".venv-mlserver"
PYTHON = ENVIRONMENT / "bin" / "python"
PROGRAM = Path(__file__).resolve().parent / "mlserver_serve.py"
REQUIREMENTS = ("mlserver==1.7.*", "onnxruntime>=1.22,<2")
SETUP_TIMEOUT_S = 900.0


def set_up() -> None:
    """Makes the environment, minutes once. Raises ConfigurationError where it cannot be installed."""
    if _has_mlserver():
        return
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)],
        [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *REQUIREMENTS],
    ):
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=SETUP_TIMEOUT_S)
        except (OSError, subprocess.SubprocessError) as error:
            said = str(getattr(error, "stderr", None) or error).strip().splitlines()
            raise ConfigurationError(
                f"MLServer cannot be installed ({' and '.join(REQUIREMENTS)} from PyPI): {said[-1] if said else error}"
            ) from None


def command(model: Path, name: str, folder: Path) -> list[str]:
    """The command line that serves `model` as `name`; what it reads is written to `folder`."""
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    described = {
        "name": name,
        "model": str(model),
        "inputs": [_described(tensor) for tensor in session.get_inputs()],
        "outputs": [_described(tensor) for tensor in session.get_outputs()],
        "config": _config(session, name).hex(),
    }
    file = folder / f"mlserver-{name}.json"
    file.write_text(json.dumps(described))
    # -P: this file must not be what the program finds as `mlserver`.
    return [str(PYTHON), "-P", str(PROGRAM), str(file), "{port}", "{http_port}"]


def _has_mlserver() -> bool:
    if not PYTHON.exists():
        return False
    return subprocess.run([str(PYTHON), "-c", "import mlserver, onnxruntime"], check=False).returncode == 0


def _described(tensor: ort.NodeArg) -> dict[str, object]:
    return {"name": tensor.name, "datatype": "FP32", "shape": _dims(tensor)}


def _dims(tensor: ort.NodeArg) -> list[int]:
    return [size if isinstance(size, int) else -1 for size in tensor.shape]


def _config(session: ort.InferenceSession, name: str) -> bytes:
    fp32 = pb.TYPE_FP32
    config = pb.ModelConfig(
        name=name,
        platform="mlserver",
        input=[pb.ModelInput(name=i.name, data_type=fp32, dims=_dims(i)) for i in session.get_inputs()],
        output=[pb.ModelOutput(name=o.name, data_type=fp32, dims=_dims(o)) for o in session.get_outputs()],
    )
    return service_pb.ModelConfigResponse(config=config).SerializeToString()
