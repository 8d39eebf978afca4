"""Metrics of servers in a program of one's own, at work."""

from __future__ import annotations

import asyncio
import importlib
import os
import re
import signal
import sys
import time
from contextlib import asynccontextmanager

import pytest

from support import streams
from support.loops import PATIENCE
from support.metrics import answer, samples
from support.real_clients import client, serving, tool, url
from support.serving import eventually, in_time, quiet
from support.udp import clients, echo, gateway, serving_datagrams


async def application(scope, receive, send):
    """Fails on one path."""
    assert scope["type"] == "http"
    if scope["path"] == "/fail":
        raise ValueError("<b>as asked</b>")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"here"})


def metrics_of(cy, **servers):
    return importlib.import_module(f"{cy.__name__}.metrics").Metrics(**servers)


def http_server(cy, app=application):
    return importlib.import_module(f"{cy.__name__}.gateways.http").HTTPServer(app, binds="127.0.0.1:0")


@asynccontextmanager
async def at_work(server):
    """The server in this loop, which has ended afterwards."""
    task = asyncio.create_task(server.arun())
    await server.wait_started()
    try:
        yield
    finally:
        server.stop()
        await task


@pytest.mark.few_combinations
def test_requests_and_datagrams(cy, run):
    """What clients have counted is what the metrics say."""
    pytest.importorskip("prometheus_client")

    async def main():
        http, udp = http_server(cy), gateway(cy).DatagramServer(echo, binds=("127.0.0.1", 0))
        metrics = metrics_of(cy, http=http, udp=udp)
        async with metrics.measuring(), at_work(http), serving_datagrams(udp) as addresses:
            async with client(http) as browser:
                for path in ("/", "/", "/fail"):
                    await browser.get(path)
            with clients(addresses[0]) as [one]:
                for _ in range(40):
                    await one.ask(b"x")
            _, _, body = await answer(metrics.application, "/metrics")
            found = samples(body.decode())
            _, _, page = await answer(metrics.application, "/")
        assert found["cyasgi_http_requests_total"] == found["cyasgi_http_request_duration_seconds_count"] == 3
        assert found['cyasgi_http_responses_total{code="2xx"}'] == 2
        assert found['cyasgi_http_responses_total{code="5xx"}'] == 1
        assert found["cyasgi_datagrams_received_total"] == found["cyasgi_datagrams_sent_total"] == 40
        assert found["cyasgi_message_wait_seconds_count"] >= 2
        assert found['cyasgi_failures_by_type_total{type="ValueError"}'] == found["cyasgi_failures_total"] == 1
        assert found['cyasgi_instances{server="udp",worker="1"}'] == 1
        assert found['cyasgi_workers{state="serving"}'] == 1
        assert b"&lt;b&gt;as asked&lt;/b&gt;" in page and b"GET &#x27;/fail&#x27;" in page
        # What was counted stays, and nothing more is.
        assert http.cells is None is udp.cells

    run(main())


@pytest.mark.few_combinations
def test_streams(cy, run):
    """Connections, messages and bytes both ways, refusals by reason, and how long messages wait."""
    pytest.importorskip("prometheus_client")

    async def main():
        async def application(scope, receive, send):
            await ready.wait()
            await streams.echo(scope, receive, send)

        ready = asyncio.Event()
        server = streams.server_of(cy, application, max_applications=2, max_message_size=100)
        metrics = metrics_of(cy, lines=server)
        async with metrics.measuring(), streams.serving(server) as address:
            async with streams.Client(address) as one, streams.Client(address) as two:
                await in_time(lambda: len(server.application_instances) == 2)
                async with streams.Client(address) as third:
                    assert await third.rest() == b""
                for number in range(20):
                    one.send(b"%02d\n" % number)
                    await in_time(lambda count=number: server.traffic.bytes_received == 3 * count + 3)
                found = samples((await answer(metrics.application, "/metrics"))[2].decode())
                assert found['cyasgi_waiting_bytes{server="lines",worker="1"}'] == 60
                ready.set()
                assert await one.exactly(60) == b"".join(b"%02d\n" % number for number in range(20))
                two.send(b"x" * 200)
                assert await two.rest() == b""
            _, _, body = await answer(metrics.application, "/metrics")
            found = samples(body.decode())
            assert found["cyasgi_streams_total"] == 2
            assert found["cyasgi_stream_messages_received_total"] == found["cyasgi_stream_messages_sent_total"] == 20
            assert found["cyasgi_stream_received_bytes_total"] == 260
            assert found["cyasgi_stream_sent_bytes_total"] == 60
            assert found["cyasgi_message_wait_seconds_count"] >= 1
            assert found['cyasgi_streams_refused_total{reason="instances",server="lines"}'] == 1
            assert found['cyasgi_streams_refused_total{reason="scope_id",server="lines"}'] == 0
            assert found['cyasgi_refused_total{server="lines"}'] == 1
            assert found['cyasgi_bad_messages_total{server="lines"}'] == 1
            assert found['cyasgi_connections_opened_total{server="lines"}'] == 3
        assert server.cells is None is server.traffic.cells

    run(main())


def test_a_message_that_waits_in_a_stream(cy, run):
    """The time is observed from the end of a message to the moment when its application takes it."""

    async def main():
        async def application(scope, receive, send):
            await ready.wait()
            await streams.echo(scope, receive, send)

        cells_of = importlib.import_module(f"{cy.__name__}._common.cells")
        page = cells_of.Page()
        ready = asyncio.Event()
        server = streams.server_of(cy, application, is_sampled=lambda self: True)
        server.cells = page.cells
        async with streams.serving(server) as address, streams.Client(address) as client:
            client.send(b"a\n")
            await in_time(lambda: server.waiting_bytes == 2)
            began = time.monotonic()
            await in_time(lambda: time.monotonic() > began + 0.03)
            ready.set()
            assert await client.line() == b"a\n"
            waits = page.histogram(cells_of.MESSAGE_TIME)
            assert waits.count == 1 and 0.03 < waits.sum < 60

    run(main())


def test_ready_while_it_serves(cy, run):
    async def main():
        class Server(quiet(cy.StatelessServer)):
            async def handle(self):
                await asyncio.get_running_loop().create_future()

        async def slow(scope, receive, send):
            await leaving.wait()

        leaving = asyncio.Event()
        server = Server(slow)
        metrics = metrics_of(cy, one=server)

        async def ready():
            status, _, body = await answer(metrics.application, "/readyz")
            return status, body.decode()

        async with metrics.measuring():
            assert await ready() == (503, "not ready: starting\n")
            task = asyncio.create_task(server.arun())
            await server.wait_started()
            assert await ready() == (200, "ready\n")
            server.get_or_create_application_instance("id", {"type": "test"}).put_nowait("message")
            server.stop()
            await eventually(lambda: server._cyasgi.server_run.stopping)
            assert await ready() == (503, "not ready: stopping\n")
            leaving.set()
            await task
            assert await ready() == (503, "not ready: starting\n")

    run(main())


def test_in_a_registry_of_ones_own(cy, run):
    registries = pytest.importorskip("prometheus_client")

    async def main():
        server = http_server(cy)
        metrics = metrics_of(cy, http=server)
        registry = registries.CollectorRegistry()
        registry.register(metrics.collector)
        async with metrics.measuring(), at_work(server), client(server) as browser:
            await browser.get("/")
            found = samples(registries.generate_latest(registry).decode())
            assert found["cyasgi_http_requests_total"] == 1

    run(main())


def test_without_prometheus_client(cy, monkeypatch):
    monkeypatch.delitem(sys.modules, "cyasgi.metrics.exposition", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "prometheus_client"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    metrics = metrics_of(cy, http=http_server(cy))
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'cyasgi\[metrics\]'"):
        _ = metrics.collector


def test_misuse(cy):
    with pytest.raises(ValueError, match=r"no server is named: accepted are one or more"):
        metrics_of(cy)
    with pytest.raises(TypeError, match="http=None: accepted is a StatelessServer"):
        metrics_of(cy, http=None)
    with pytest.raises(ValueError, match="lag_bound=0"):
        metrics_of(cy, http=http_server(cy), lag_bound=0)


#: A browser that has no screen, no user, nothing to update, and nobody to talk to but the server.
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
FLAGS += ("--no-proxy-server", "--disable-background-networking", "--disable-component-update", "--disable-extensions")


@pytest.mark.slow
@pytest.mark.few_combinations(1)
@pytest.mark.skipif(sys.platform == "win32", reason="its processes are ended as a group, which Windows has not")
def test_in_a_browser(cy, run, tmp_path):
    """Headless Chromium shows the tables, loads nothing but the page, and loads it anew by itself."""

    async def main():
        server = http_server(cy)
        metrics = metrics_of(cy, http=server)
        asked = []

        async def watched(scope, receive, send):
            if scope["type"] == "http":
                asked.append(scope["path"])
            await metrics.application(scope, receive, send)

        async with metrics.measuring(), at_work(server), serving(cy, watched) as page:
            async with client(server) as one:
                await one.get("/fail")
            browser = tool("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
            flags = (*FLAGS, f"--user-data-dir={tmp_path}")
            printing = await asyncio.create_subprocess_exec(
                *(browser, *flags, "--dump-dom", url(page, "/?refresh=off")),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
            dom, _ = await asyncio.wait_for(printing.communicate(), PATIENCE / 2)
            text = dom.decode()
            assert re.search(r'<span id="state"><span class="good">ready</span>', text)
            assert len(re.findall(r'<table id="(processes|servers)">', text)) == 2
            assert "ValueError: &lt;b&gt;as asked&lt;/b&gt;" in text and "<b>as asked" not in text
            assert asked == ["/"]
            staying = await asyncio.create_subprocess_exec(
                *(browser, *flags, "--remote-debugging-port=0", url(page, "/")),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                async with asyncio.timeout(PATIENCE / 2):
                    while len(asked) < 4:
                        await asyncio.sleep(0.05)
                assert set(asked) == {"/"}
            finally:
                os.killpg(staying.pid, signal.SIGKILL)
                await staying.wait()
            await in_time(lambda: not page.connections)

    run(main())
