"""What `make serve` prints to copy works as it is."""

import shlex
import subprocess

import pytest

from tests.integration.programs import ROOT


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
            assert server.wait(60) in (0, 143)
