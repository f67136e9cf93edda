"""Triton as a peer, where the variable TRITONSERVER names its binary: the model repository and the command line."""

import os
import shutil
from pathlib import Path

import onnxruntime as ort

from tickserve.errors import ConfigurationError

VARIABLE = "TRITONSERVER"


def set_up() -> None:
    """Raises ConfigurationError where there is no binary."""
    binary = os.environ.get(VARIABLE, "")
    if not binary:
        raise ConfigurationError(f"{VARIABLE} names no tritonserver binary (benchmarks/README.md says how to get one)")
    if shutil.which(binary) is None:
        raise ConfigurationError(f"{VARIABLE} names {binary}, which is no program")


def command(model: Path, name: str, folder: Path) -> list[str]:
    """The command line that serves `model` as `name`, from a model repository that is written below `folder`."""
    repository = folder / "triton-models"
    version = repository / name / "1"
    version.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(model, version / "model.onnx")
    (repository / name / "config.pbtxt").write_text(config(model, name))
    binary = Path(shutil.which(os.environ[VARIABLE]) or os.environ[VARIABLE]).resolve()
    line = [str(binary), f"--model-repository={repository}", "--grpc-address=127.0.0.1", "--grpc-port={port}"]
    line += ["--http-address=127.0.0.1", "--http-port={http_port}", "--allow-metrics=false", "--log-verbose=0"]
    backends = binary.parent.parent / "backends"
    # Beside its binary, as in its releases; elsewhere its own default holds.
    return [*line, f"--backend-directory={backends}"] if backends.is_dir() else line


def config(model: Path, name: str) -> str:
    """The model's config.pbtxt: one instance on the CPU with one thread, no batching, as the other peers run it."""
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    parts = [f'name: "{name}"', 'backend: "onnxruntime"', "max_batch_size: 0"]
    for kind, tensors in (("input", session.get_inputs()), ("output", session.get_outputs())):
        for tensor in tensors:
            dims = ", ".join(str(size if isinstance(size, int) else -1) for size in tensor.shape)
            parts.append(f'{kind} [{{ name: "{tensor.name}" data_type: TYPE_FP32 dims: [ {dims} ] }}]')
    parts.append("instance_group [{ kind: KIND_CPU count: 1 }]")
    for key, value in (("intra_op_thread_count", "1"), ("inter_op_thread_count", "1")):
        parts.append(f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}')
    return "\n".join(parts) + "\n"
