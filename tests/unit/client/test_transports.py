"""Which transport a client takes, and what it says where that cannot be had."""

import subprocess
import sys
import types

import numpy as np
import pytest

from tests.unit.client.blocking import Connect
from tests.unit.client.scripted import Script, ScriptedServer
from tickserve import Client, aio
from tickserve.client.choice import TransportName, is_native
from tickserve.errors import ConfigurationError, FeaturesChangedError
from tickserve.v1 import prediction_pb2 as pb

ROW = np.array([1.0, 2.0, 3.0], np.float32)


def test_a_transport_that_is_none_is_refused() -> None:
    for client in (Client, aio.Client):
        with pytest.raises(ConfigurationError, match="'auto', 'grpcio' or 'native'") as caught:
            client("localhost:1", transport="carrier pigeon")  # type: ignore[arg-type]
        assert caught.value.field == "transport"


@pytest.mark.parametrize(
    ("module", "words"),
    [(None, "cannot be imported"), (types.SimpleNamespace(CLIENT_FORMAT=99), "has format 99 of the client")],
    ids=["missing", "of another release"],
)
def test_without_the_wheel_auto_takes_grpcio_and_native_says_why(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, module: object, words: str
) -> None:
    monkeypatch.setitem(sys.modules, "tickserve_native", module)  # type: ignore[arg-type]
    assert not is_native("auto")
    with Client(server.address, model="m", timeout_s=20.0) as client:
        assert client.predict(ROW).rows == 1
    for kind in (Client, aio.Client):
        with pytest.raises(ConfigurationError, match=words) as caught:
            kind(server.address, transport="native")
        assert caught.value.field == "transport"


def test_with_the_wheel_auto_is_native() -> None:
    pytest.importorskip("tickserve_native")
    assert is_native("auto")
    assert not is_native("grpcio")


#: Most of the later threads are given the number of the first, which has ended.
THREADS = """
import threading
from tickserve import Client

def work():
    Client("localhost:1", model="m", transport="native").close()

for _ in range(300):
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
print("fine")
"""


def test_the_thread_that_makes_the_first_client_may_end() -> None:
    pytest.importorskip("tickserve_native")
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (0, "fine\n")


def test_the_second_request_is_the_same_as_the_first(client: Client, script: Script) -> None:
    """The first one asks for the description, later ones go the short way where there is one."""
    options = {"routing_key": "k", "entities": ["X"], "version": "3", "event_time": 5, "timeout_s": 9.0}
    answers = [client.predict(ROW, request_id="r", **options) for _ in range(3)]  # type: ignore[arg-type]
    assert script.requests[0] == script.requests[1] == script.requests[2]
    assert len(script.described) == 1
    first, *later = answers
    for answer in later:
        assert answer.values.tolist() == first.values.tolist()
        assert (answer.named_values.keys(), answer.digest) == (first.named_values.keys(), first.digest)


def test_the_short_way_never_follows_another_order(client: Client, script: Script) -> None:
    client.predict(ROW)
    client.predict(ROW)
    script.models["m"].feature_digest = bytes(32)
    with pytest.raises(FeaturesChangedError, match="make a new one") as caught:
        client.predict(ROW, request_id="r-9")
    assert (caught.value.executed, caught.value.request_id) == (False, "r-9")


def test_an_answer_of_many_megabytes_is_whole(server: ScriptedServer, connect: Connect) -> None:
    def edit(answer: pb.PredictResponse) -> None:
        del answer.values[:]
        answer.values.extend([0.5] * 6_000_000)

    server.script.edit = edit
    with connect(server.address, model="m", check_features=False, timeout_s=60.0) as client:
        # More than a window holds, so that windows must be opened again.
        assert client.predict(ROW).values.shape == (1, 6_000_000)
        sent = np.arange(3_000_000, dtype=np.float32).reshape(-1, 3)
        server.script.edit = lambda answer: None
        with pytest.raises(Exception, match="Received message larger than max"):
            client.predict(sent)


def test_names_are_those_of_the_choice(transport: TransportName) -> None:
    assert is_native(transport) is (transport == "native")
