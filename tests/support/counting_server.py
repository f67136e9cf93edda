"""A server of one model that writes down every request that it executes, for tests that kill it.

`python -m tests.support.counting_server ADDRESS LOG [DELAY_S]` prints `ready`. Each execution is a line of LOG, written
before the answer, so that it is there whatever becomes of the process.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc

from tickserve.v1 import prediction_pb2 as pb
from tickserve.v1 import prediction_pb2_grpc
from tickserve.wire import health_pb2


class _Prediction(prediction_pb2_grpc.PredictionServicer):
    def __init__(self, log: int, delay_s: float, is_draining: threading.Event) -> None:
        self._log, self._delay_s, self._is_draining = log, delay_s, is_draining

    def Predict(self, request: pb.PredictRequest, context: grpc.ServicerContext) -> pb.PredictResponse:
        if self._is_draining.is_set():
            context.set_trailing_metadata((("tickserve-reason", "DRAINING"), ("tickserve-executed", "0")))
            context.abort(grpc.StatusCode.UNAVAILABLE, "draining")
        os.write(self._log, f"{request.request_id}\n".encode())
        time.sleep(self._delay_s)
        return pb.PredictResponse(
            request_id=request.request_id, model=request.model, version="1", values=[0.5], rows=1, position_scale=1.0
        )


def main() -> None:
    """Serves until it is killed; SIGTERM drains for a moment first, as the real server does."""
    # Waited for below: a handler could come when the main thread has the lock of the event that it sets.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    address, log = sys.argv[1], os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    is_draining, is_over = threading.Event(), threading.Event()

    def watch(_request: object, context: grpc.ServicerContext) -> Iterator[object]:
        yield health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
        while context.is_active() and not is_draining.wait(0.01):
            pass
        yield health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.NOT_SERVING)
        is_over.wait()

    server = grpc.server(ThreadPoolExecutor(32), options=[("grpc.so_reuseport", 0)])
    delay_s = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
    prediction_pb2_grpc.add_PredictionServicer_to_server(_Prediction(log, delay_s, is_draining), server)
    handler = grpc.unary_stream_rpc_method_handler(
        watch,
        request_deserializer=health_pb2.HealthCheckRequest.FromString,
        response_serializer=health_pb2.HealthCheckResponse.SerializeToString,
    )
    health = grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Watch": handler})
    server.add_generic_rpc_handlers((health,))
    if server.add_insecure_port(address) == 0:
        raise SystemExit(f"{address} is taken")
    server.start()
    print("ready", flush=True)
    signal.sigwait({signal.SIGTERM})
    is_draining.set()
    # Long enough for clients to hear of it on a busy machine too.
    time.sleep(1.5)
    is_over.set()
    server.stop(2).wait()


if __name__ == "__main__":
    main()
