"""Real Prometheus, Alertmanager and a webhook on free ports, configured from deploy/."""

import json
import queue
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from tests.integration.programs import ROOT, program

DEPLOY = ROOT / "deploy"
BOUND_S = 60.0


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as response:
        return str(response.read().decode())


def wait_until(what: str, holds: Callable[[], Any], bound_s: float = BOUND_S) -> Any:
    """What `holds` gives once that is true; failures to connect count as not yet."""
    end = time.monotonic() + bound_s
    while True:
        try:
            found = holds()
        except OSError as error:
            found = None
            last: object = error
        else:
            last = found
        if found:
            return found
        assert time.monotonic() < end, f"{what} did not come about; last seen: {last}"
        time.sleep(0.05)


class Webhook(ThreadingHTTPServer):
    """Keeps what is posted, by path."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.posted: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
        self.seen: list[tuple[str, dict[str, Any]]] = []

    def wait_for(self, path: str, holds: Callable[[dict[str, Any]], bool], bound_s: float = BOUND_S) -> dict[str, Any]:
        """The first body posted to a path for which this holds, of those that were and those that will be."""
        end = time.monotonic() + bound_s
        place = 0
        while True:
            for posted, body in self.seen[place:]:
                if posted == path and holds(body):
                    return body
            place = len(self.seen)
            try:
                self.seen.append(self.posted.get(timeout=max(0.0, end - time.monotonic())))
            except queue.Empty:
                raise AssertionError(f"nothing like it was posted to {path}: {self.seen}") from None


class _Handler(BaseHTTPRequestHandler):
    server: Webhook

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()
        self.server.posted.put((self.path, body))

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def webhook() -> Iterator[Webhook]:
    server = Webhook()
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def running(name: str, arguments: Sequence[str], log: Path, ready: str) -> Iterator[None]:
    """A program that answers at `ready` before the context begins, ended with it."""
    with open(log, "w") as output:
        process = subprocess.Popen([program(name), *arguments], stdout=output, stderr=output, cwd=log.parent)
    try:

        def is_ready() -> bool:
            assert process.poll() is None, log.read_text()
            return bool(fetch(ready))

        wait_until(f"{name} ready", is_ready)
        yield
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def alertmanager(folder: Path, hook: Webhook) -> Iterator[str]:
    """The shipped routes with short intervals, to this webhook; yields the address."""
    text = (DEPLOY / "alertmanager" / "alertmanager.yml").read_text()
    assert text.count("127.0.0.1:9099") == 3
    text = text.replace("127.0.0.1:9099", f"127.0.0.1:{hook.server_port}")
    assert "group_interval: 1m" in text
    text = text.replace("group_interval: 1m", "group_interval: 1s")
    config = folder / "alertmanager.yml"
    config.write_text(text)
    address = f"127.0.0.1:{free_port()}"
    options = [
        f"--config.file={config}",
        f"--storage.path={folder / 'alertmanager'}",
        f"--web.listen-address={address}",
        "--cluster.listen-address=",
    ]
    with running("prometheus-alertmanager", options, folder / "alertmanager.log", f"http://{address}/-/ready"):
        yield address


class Prometheus:
    """One that runs."""

    def __init__(self, address: str) -> None:
        self.address = address

    def query(self, expression: str) -> list[dict[str, Any]]:
        text = fetch(f"http://{self.address}/api/v1/query?query={urllib.parse.quote(expression)}")
        return list(json.loads(text)["data"]["result"])

    def rules(self) -> list[dict[str, Any]]:
        groups = json.loads(fetch(f"http://{self.address}/api/v1/rules"))["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def firing(self) -> set[str]:
        return {found["metric"]["alertname"] for found in self.query('ALERTS{alertstate="firing"}')}


@contextmanager
def prometheus(folder: Path, targets: dict[str, str], manager: str) -> Iterator[Prometheus]:
    """The shipped configuration and rules, looked at every second; `targets` are by the example's address."""
    text = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
    for shipped, real in (targets | {"127.0.0.1:9093": manager}).items():
        assert text.count(shipped) == 1, shipped
        text = text.replace(shipped, real)
    text = text.replace("_interval: 15s", "_interval: 1s")
    for rules in (DEPLOY / "prometheus").glob("*.rules.yml"):
        (folder / rules.name).write_text(rules.read_text())
    config = folder / "prometheus.yml"
    config.write_text(text)
    address = f"127.0.0.1:{free_port()}"
    options = [
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'prometheus'}",
        f"--web.listen-address={address}",
        "--rules.alert.resend-delay=1s",
        "--log.level=warn",
    ]
    with running("prometheus", options, folder / "prometheus.log", f"http://{address}/-/ready"):
        yield Prometheus(address)
