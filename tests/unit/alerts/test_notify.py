"""A webhook gets each notice with its identity, and anything but a 2xx answer is a failure."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from mlops.alerts.actions import Notice
from mlops.alerts.notify import webhook
from tickserve.errors import ConfigurationError

NOTICE = Notice("a1-7", "demo", "3", "ic", "warning", "raised", "notify", "upper bound 0.01", "2026-01-01T00:00:00Z")


class Receiver(HTTPServer):
    """Answers with `status` and keeps what came."""

    def __init__(self) -> None:
        self.status, self.got = 200, list[tuple[str, dict[str, Any]]]()
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.headers["Idempotency-Key"], json.loads(body)))
        self.send_response(self.server.status)
        self.send_header("Location", "http://127.0.0.1:1/elsewhere")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_notice_arrives_with_its_identity(receiver: Receiver) -> None:
    webhook(f"http://127.0.0.1:{receiver.server_port}/hook")(NOTICE)
    ((key, body),) = receiver.got
    assert key == "a1-7"
    assert body["evidence"] == "upper bound 0.01"


@pytest.mark.parametrize("status", [302, 307, 404, 500])
def test_any_other_answer_is_a_failure(receiver: Receiver, status: int) -> None:
    receiver.status = status
    with pytest.raises(OSError, match=f"answers {status}"):
        webhook(f"http://127.0.0.1:{receiver.server_port}/hook?token=secret")(NOTICE)
    assert len(receiver.got) == 1


def test_nobody_listening_is_a_failure_that_does_not_tell_the_token() -> None:
    with pytest.raises(OSError, match="does not answer") as failed:
        webhook("http://127.0.0.1:1/hook?token=secret")(NOTICE)
    assert "secret" not in str(failed.value)


@pytest.mark.parametrize("url", ["", "file:///etc/passwd", "ftp://x/y", "http://", "hook"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="webhook"):
        webhook(url)
