"""Clients that nobody here wrote work unmodified."""

import json
import shlex
import shutil
import subprocess
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc

from tests.e2e.conftest import Running

ROOT = Path(__file__).resolve().parents[2]
ROW = {"momentum": 1.0, "rsi": 2.0, "volume": 3.0}


def program(name: str) -> str:
    found = shutil.which(name)
    assert found, f"{name} is missing; `make integration` installs it"
    return found


def grpcurl(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([program("grpcurl"), "-plaintext", *arguments], capture_output=True, text=True, timeout=30)
    assert done.returncode == code, done.stderr
    return done


def test_tritonclient_infers_and_reads_the_schema(served: Running) -> None:
    client = tritonclient.grpc.InferenceServerClient(served.address)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("demo")
    assert client.get_model_metadata("demo").inputs[0].name == "features"
    assert client.get_model_config("demo").config.max_batch_size == 0
    rows = np.ones((4, 3), dtype=np.float32)
    tensor = tritonclient.grpc.InferInput("features", [4, 3], "FP32")
    tensor.set_data_from_numpy(rows)
    result = client.infer("demo", [tensor], request_id="t-1", client_timeout=10)
    np.testing.assert_array_equal(result.as_numpy("values"), np.full((4, 1), 0.5, np.float32))
    assert result.get_response().id == "t-1"
    with pytest.raises(tritonclient.grpc.InferenceServerException, match="unknown model 'nope'"):
        client.infer("nope", [tensor], client_timeout=10)
    client.close()


def test_grpcurl_predicts_from_the_protos_alone(served: Running) -> None:
    request = {"model": "demo", "named": [{"name": name, "value": value} for name, value in ROW.items()]}
    protos = ("-import-path", str(ROOT / "protos"), "-proto", "tickserve/v1/prediction.proto")
    done = grpcurl(*protos, "-d", json.dumps(request), served.address, "tickserve.v1.Prediction/Predict")
    answer = json.loads(done.stdout)
    assert (answer["model"], answer["version"], answer["values"]) == ("demo", "1", [0.5])


def test_grpcurl_checks_health(served: Running) -> None:
    protos = ("-import-path", str(ROOT / "protos"), "-proto", "grpc/health/v1/health.proto")
    done = grpcurl(*protos, served.address, "grpc.health.v1.Health/Check")
    assert json.loads(done.stdout) == {"status": "SERVING"}


def test_promtool_accepts_the_metrics(served: Running) -> None:
    with urllib.request.urlopen(f"http://{served.http}/metrics", timeout=5) as response:
        metrics = response.read()
    done = subprocess.run([program("promtool"), "check", "metrics"], input=metrics, capture_output=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode()


def test_lines_that_make_serve_prints_work_as_they_are(tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("h")
    command = [ROOT / ".venv/bin/tickserve", "demo", "--serve", "--home", home]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT) as server:
        try:
            assert server.stdout is not None
            lines = []
            for line in server.stdout:
                lines.append(line.rstrip("\n"))
                if line.startswith("curl "):
                    break
            commands = [line for line in lines if line.startswith((".venv/", "grpcurl ", "TICKSERVE_HOME=", "curl "))]
            assert len(commands) == 5, lines
            for printed in commands:
                done = subprocess.run(printed, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=60)
                assert done.returncode == 0, f"{printed}\n{done.stdout}{done.stderr}"
                assert done.stdout.strip(), shlex.split(printed)[0]
        finally:
            server.terminate()
            assert server.wait(30) in (0, 143)
