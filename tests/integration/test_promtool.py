"""promtool accepts what /metrics prints."""

import urllib.request

import tickserve
from tests.e2e.conftest import Running
from tests.integration.programs import call


def test_promtool_accepts_the_metrics(served: Running) -> None:
    with tickserve.Client(served.address, model="demo", timeout_s=60.0) as client:
        client.predict([1.0, 2.0, 3.0])
    with urllib.request.urlopen(f"http://{served.http}/metrics", timeout=60) as response:
        metrics = response.read()
    assert b"tickserve_requests_total" in metrics
    call("promtool", "check", "metrics", stdin=metrics)
