"""What the tests of metrics share: snapshots made by hand, and metrics as Prometheus' own parser reads them."""

from __future__ import annotations

import contextlib
import http.client
import time

import pytest

from support.loops import PATIENCE


class Fixed:
    """A source of one snapshot."""

    def __init__(self, *workers, state="serving", **further):
        self.workers, self.state, self.further = list(workers), state, further

    def snapshot(self):
        from cyasgi.metrics.snapshot import Snapshot

        return Snapshot(time.monotonic(), self.state, self.workers, **self.further)


def worker(number=1, pid=100, *, state="serving", age=10.0, lag=0.0, cells=None, **servers):
    """A worker with these cells, by index, and servers: each with its `stats()`, or a `ServerOverview`."""
    from cyasgi._common.cells import CELLS
    from cyasgi.metrics.overview import Overview, ServerOverview
    from cyasgi.metrics.snapshot import WorkerView

    values = [0] * CELLS
    for place, value in (cells or {}).items():
        values[place] = value
    seen = {name: ServerOverview(one) if isinstance(one, dict) else one for name, one in servers.items()}
    return WorkerView(number, pid, state, age, lag, values, Overview(seen))


def samples(text):
    """The value of each sample: by its name and its labels in their order, as in `name{a="b"}`."""
    parse = pytest.importorskip("prometheus_client.parser").text_string_to_metric_families
    found = {}
    for family in parse(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            key = f"{sample.name}{{{labels}}}" if labels else sample.name
            assert key not in found, key
            found[key] = sample.value
    return found


async def answer(application, path="/", method="GET", headers=(), **changes):
    """What an application answers: status, headers and body."""
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        raise AssertionError("nothing is to be received")

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "root_path": "",
        "headers": list(headers),
        **changes,
    }
    await application(scope, receive, send)
    start, body = sent
    assert int(dict(start["headers"])[b"content-length"]) == len(body["body"]) or method == "HEAD"
    return start["status"], dict(start["headers"]), body["body"]


class Page:
    """What the supervising process serves."""

    def __init__(self, command):
        found = command.until(r"metrics and health on http://127\.0\.0\.1:(\d+)$")
        self.port = int(found[1])

    def get(self, path):
        """Status and body."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def metrics(self):
        status, body = self.get("/metrics")
        assert status == 200
        return samples(body)

    def until(self, condition):
        """Waits until the metrics are so, and gives them."""
        deadline = time.monotonic() + PATIENCE
        while not condition(found := self.metrics()):
            assert time.monotonic() < deadline, found
            time.sleep(0.02)
        return found

    def until_ready(self, status, says=""):
        deadline = time.monotonic() + PATIENCE
        while True:
            found = self.get("/readyz")
            if found[0] == status and says in found[1]:
                return
            assert time.monotonic() < deadline, found
            time.sleep(0.02)
