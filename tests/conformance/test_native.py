"""The native engine's own promises: no state of the interpreter holds it up, and it ends without losing an answer."""

import contextlib
import ctypes
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from tests.conformance.conftest import ENGINES, Bench, outcome
from tests.conformance.requests import PREDICT, predict
from tests.support.certificates import Authority
from tests.support.models import echo_model, version_plan
from tickserve.errors import ConfigurationError
from tickserve.listening.tls import Certificates, TlsFiles

pytestmark = pytest.mark.skipif("native" not in ENGINES, reason="the native engine is not built here")

#: Asks until it has so many answers and so many seconds have passed; says `r` before, once it may begin, and `d` then.
CLIENT = """
import os, sys, time, grpc
address, message, answers, seconds = sys.argv[1], bytes.fromhex(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
call = grpc.insecure_channel(address).unary_unary(sys.argv[5])
call(message, timeout=60)
os.write(1, b"r")
sys.stdin.readline()
begin, count = time.monotonic(), 0
while count < answers or time.monotonic() < begin + seconds:
    call(message, timeout=60)
    count += 1
os.write(1, b"d")
"""


@pytest.fixture
def engine_name() -> str:
    """This file is about one engine."""
    return "native"


def test_requests_are_answered_while_someone_holds_the_interpreter_for_two_seconds(bench: Bench) -> None:
    bench.install(version_plan(bench.folder, echo_model()))
    message = predict(model="echo", features=[1, 2, 3])
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, bench.address, message.hex(), "200", "2.0", PREDICT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with client:
        assert client.stdin is not None
        assert client.stdout is not None
        said = client.stdout.fileno()
        # Bytes, since a word may come in pieces.
        assert os.read(said, 1) == b"r"
        read, byte = ctypes.PyDLL(None).read, ctypes.create_string_buffer(1)
        client.stdin.close()
        # A call through PyDLL keeps the interpreter's lock: until the client is done, or has died of a late answer.
        assert read(ctypes.c_int(said), byte, ctypes.c_size_t(1)) == 1
        assert byte.raw == b"d"
        assert client.wait(60) == 0


def test_stopping_under_load_answers_or_refuses_every_request(bench: Bench) -> None:
    bench.install(version_plan(bench.folder, echo_model()))
    message, seen, is_over = predict(model="echo", features=[1, 2, 3]), [], threading.Event()

    def ask() -> None:
        channel = grpc.insecure_channel(bench.address, options=[("grpc.use_local_subchannel_pool", 1)])
        call = channel.unary_unary(PREDICT)
        while not is_over.is_set():
            seen.append(outcome(call.future(message, timeout=60)))
        channel.close()

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    while len(seen) < 200:
        threading.Event().wait(0.001)
    bench.engine.stop(10.0)
    answered = len(seen)
    while len(seen) < answered + 20:
        threading.Event().wait(0.001)
    is_over.set()
    for thread in threads:
        thread.join()
    # Once the listener is gone gRPC itself says UNAVAILABLE, without trailers.
    assert {each.status for each in seen} == {"OK", "UNAVAILABLE"}
    assert {each.reason for each in seen if each.reason} <= {"DRAINING"}
    assert all(each.executed != "1" for each in seen if each.status != "OK")


def test_a_worker_count_and_cpus_are_taken(make_bench: Callable[..., Bench]) -> None:
    cpu = min(os.sched_getaffinity(0))
    bench = make_bench(workers=3, cpus=[cpu])
    bench.install(version_plan(bench.folder, echo_model()))
    assert bench.predict().status == "OK"
    assert len(bench.engine.counters().worker_busy_ns) == 3
    end = time.monotonic() + 60
    while pinned_workers(cpu) != 3 and time.monotonic() < end:
        threading.Event().wait(0.01)
    assert pinned_workers(cpu) == 3


def test_a_certificate_that_it_cannot_serve_is_refused_like_any_other(tmp_path: Path) -> None:
    files, authority = TlsFiles(tmp_path / "cert.pem", tmp_path / "key.pem"), Authority(tmp_path)
    authority.sign("first").move_to(files.certificate, files.key)
    certificates = Certificates(files)
    engine = ENGINES["native"](certificates=certificates)
    (address,) = engine.start()
    before = certificates.current
    # OpenSSL signs with keys this short; the library of this engine does not.
    make = f"openssl req -x509 -nodes -subj /CN=x -newkey rsa:1024 -keyout {files.key} -out {files.certificate}"
    subprocess.run(make.split(), check=True, capture_output=True)
    certificates.refresh()
    assert certificates.refused.startswith("setting tls_cert: the certificate and the key cannot be used together")
    assert certificates.current is before
    trusted = grpc.ssl_channel_credentials(authority.certificate.read_bytes())
    with grpc.secure_channel(address, trusted) as channel:
        grpc.channel_ready_future(channel).result(60)
    engine.stop(0)
    with pytest.raises(ConfigurationError, match="setting tls_cert"):
        ENGINES["native"](certificates=Certificates(files)).start()
    authority.sign("second").move_to(files.certificate, files.key)
    certificates.refresh()
    assert (certificates.refused, certificates.current) == ("", Certificates(files).current)


def pinned_workers(cpu: int) -> int:
    """How many workers may run on this CPU alone; each pins itself when it starts."""
    pinned = 0
    for task in Path("/proc/self/task").iterdir():
        # A thread may end while it is looked at.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            is_worker = (task / "comm").read_text().startswith("data-")
            pinned += is_worker and os.sched_getaffinity(int(task.name)) == {cpu}
    return pinned
