"""The metrics, as Prometheus reads them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import cyasgi
from cyasgi._common.cells import BOUNDS, FAILURES, REQUEST_TIME, REQUESTS, RESPONSES
from cyasgi.metrics.overview import Failure, Overview, ServerOverview
from cyasgi.metrics.snapshot import SERVING, Totals
from support.metrics import Fixed, samples, worker

pytest.importorskip("prometheus_client")


def collected(source):
    from prometheus_client import CollectorRegistry, generate_latest

    from cyasgi.metrics.exposition import CyasgiCollector

    registry = CollectorRegistry()
    registry.register(CyasgiCollector(source))
    return samples(generate_latest(registry).decode())


def test_sums():
    """Counters are sums over all workers, those that have ended included; what there is now is told of each one."""
    ended = Totals()
    ended.add_ended(worker(cells={REQUESTS: 7}).cells, Overview({"http": ServerOverview({"created": 5, "live": 4})}))
    found = collected(
        Fixed(
            worker(1, 100, cells={REQUESTS: 10, RESPONSES + 1: 8, RESPONSES + 4: 2}, http={"created": 10, "live": 3}),
            worker(2, 101, cells={REQUESTS: 1}, lag=0.5, http={"created": 1, "live": 0}, udp={"created": 2}),
            ended=ended,
            started=3,
            restarts={"died": 1},
        )
    )
    assert found["cyasgi_http_requests_total"] == 18
    assert found['cyasgi_http_responses_total{code="2xx"}'] == 8
    assert found['cyasgi_http_responses_total{code="5xx"}'] == 2
    assert found['cyasgi_instances_created_total{server="http"}'] == 16
    assert found['cyasgi_instances_created_total{server="udp"}'] == 2
    assert found['cyasgi_instances{server="http",worker="1"}'] == 3
    assert found['cyasgi_instances{server="http",worker="2"}'] == 0
    assert found['cyasgi_event_loop_late_seconds{worker="2"}'] == 0.5
    assert found['cyasgi_workers{state="serving"}'] == 2
    assert found["cyasgi_workers_started_total"] == 3
    assert found['cyasgi_worker_restarts_total{reason="died"}'] == 1
    assert found[f'cyasgi_build_info{{backend="{cyasgi.backend}",version="{cyasgi.__version__}"}}'] == 1


def test_while_one_replaces_another():
    """Both have the same number: their instances are added, and the lag is that of the later one."""
    found = collected(
        Fixed(
            worker(1, 100, state="stopping", lag=2.0, http={"live": 3}),
            worker(1, 101, state="serving", lag=1.0, http={"live": 4}),
        )
    )
    assert found['cyasgi_instances{server="http",worker="1"}'] == 7
    assert found['cyasgi_event_loop_late_seconds{worker="1"}'] == 2
    assert found['cyasgi_workers{state="stopping"}'] == 1


def test_histograms():
    found = collected(Fixed(worker(cells={REQUEST_TIME: 1, REQUEST_TIME + 2: 4, REQUEST_TIME + 17: 3_000_000})))
    name = "cyasgi_http_request_duration_seconds"
    assert found[f'{name}_bucket{{le="{BOUNDS[0]!r}"}}'] == 1
    assert found[f'{name}_bucket{{le="{BOUNDS[2]!r}"}}'] == 5
    assert found[f'{name}_bucket{{le="+Inf"}}'] == found[f"{name}_count"] == 5
    assert found[f"{name}_sum"] == 0.003


def test_nothing_goes_back():
    """When a worker has ended, no counter is less than while it was there, whatever it had come to tell."""
    overview = Overview({"http": ServerOverview({"created": 3, "live": 3})}, failure_types={"ValueError": 1})
    view = worker(cells={REQUESTS: 4, FAILURES: 3}, http=overview.servers["http"])
    before = collected(Fixed(view))
    ended = Totals()
    ended.add_ended(view.cells, overview)
    after = collected(Fixed(worker(1, 101), ended=ended))
    counters = {name for name in before if re.search(r"_(total|count|sum|bucket)($|\{)", name)}
    assert counters <= after.keys()
    assert all(after[name] >= before[name] for name in counters)
    assert after["cyasgi_failures_total"] == 3
    assert after['cyasgi_failures_by_type_total{type="ValueError"}'] == 1
    # Of the others nobody has learnt the types.
    assert after['cyasgi_failures_by_type_total{type="other"}'] == 2


def test_totals_are_bounded():
    """However many names there are, over however many workers."""
    totals = Totals()
    for number in range(100):
        overview = Overview({f"s{number}": ServerOverview({"created": 1})}, failure_types={f"E{number}": 1})
        totals.add_ended(worker(cells={FAILURES: 1}).cells, overview)
    assert len(totals.stats) == 16
    assert len(totals.failure_types) == 21 and sum(totals.failure_types.values()) == 100


@pytest.mark.parametrize("text", ['"} 1\nfake 5', "\\", "\n", "ä🙂", "", "{}", "x" * 200])
def test_hostile_names(text):
    """A type of exception is one label, whatever it is called."""
    ended = Totals()
    ended.add_ended(worker(cells={FAILURES: 2}).cells, Overview(failure_types={text: 2}))
    found = collected(Fixed(worker(), ended=ended))
    assert found[f'cyasgi_failures_by_type_total{{type="{text}"}}'] == 2
    assert "fake" not in found


def all_counters(cy):
    """What every kind of server counts."""
    from channels.layers import InMemoryChannelLayer

    from cyasgi.gateways.datagram import DatagramServer
    from cyasgi.gateways.http import HTTPServer
    from cyasgi.gateways.stream import StreamServer
    from cyasgi.lifecycle import ManagedServer
    from cyasgi.sources.channels import ChannelLayerServer
    from cyasgi.sources.queue import QueueServer

    class Datagrams(ManagedServer, DatagramServer):
        pass

    class Requests(ManagedServer, HTTPServer):
        pass

    class Streams(ManagedServer, StreamServer):
        pass

    servers = [Datagrams(None), Requests(None), Streams(None), QueueServer(None, engine="memory:")]
    servers.append(ChannelLayerServer(None, ["a"], InMemoryChannelLayer()))
    return {name for server in servers for name in server.stats()}


def test_every_counter_is_exposed(cy):
    """Whoever adds a counter adds its metric; these have cells."""
    from cyasgi.metrics.exposition import COUNTERS, GAUGES
    from cyasgi.metrics.snapshot import NOW

    cells = {"requests", "websockets", "datagrams_received", "datagrams_sent", "undelivered", "streams"}
    cells |= {f"{what}_{way}" for what in ("messages", "bytes") for way in ("received", "sent")}
    assert all_counters(cy) == COUNTERS.keys() | GAUGES.keys() | cells
    assert GAUGES.keys() == NOW


def test_the_chapter_lists_all(cy):
    """With exactly these names."""
    every = dict.fromkeys(all_counters(cy), 1)
    failures = Totals()
    failures.add_ended(worker(cells={FAILURES: 1}).cells, Overview())
    found = collected(Fixed(worker(http=every), ended=failures, restarts={"died": 1}))
    names = {re.sub(r"_(bucket|count|sum)?(\{.*)?$", "", re.sub(r"\{.*", "", name)) for name in found}
    names = {re.sub(r"_(bucket|count|sum)$", "", name) for name in names}
    chapter = Path(cyasgi.__file__).parent / "metrics" / "README.md"
    if not chapter.exists():
        pytest.skip("not a checkout")
    told = set(re.findall(r"`(cyasgi_[a-z_]+)`", chapter.read_text(encoding="utf-8")))
    assert told == names


def test_the_last_failures_are_no_metric():
    """Nothing of a traceback, or a path, is in any label."""
    failure = Failure(1.0, "http", "GET '/secret'", "ValueError", "Traceback: secret")
    found = collected(Fixed(worker(), failures=[(1, failure)], state=SERVING))
    assert not any("secret" in name for name in found)
