"""The committed stubs live beside other packages' stubs of the same protocol."""

import subprocess
import sys


def test_open_inference_stubs_coexist_with_another_packages() -> None:
    script = """
import tritonclient.grpc
from tritonclient.grpc import service_pb2
from tickserve.wire import grpc_service_pb2
theirs = service_pb2.ModelInferRequest(model_name="m", id="1")
ours = grpc_service_pb2.ModelInferRequest.FromString(theirs.SerializeToString())
assert (ours.model_name, ours.id) == ("m", "1")
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
