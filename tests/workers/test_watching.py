"""Metrics, health and the live page of worker processes: what clients count is what they say, whatever happens."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import time

import pytest

from support.loops import PATIENCE
from support.metrics import Page
from support.workers import APPLICATION, Datagrams, Fresh, KeptAlive, Talking, load, more

pytest.importorskip("prometheus_client")

pytestmark = [pytest.mark.slow, pytest.mark.few_combinations]


@pytest.fixture
def watched(workers):
    """watched(*arguments) starts the command with metrics; gives it and its page."""

    def start(*arguments, **changes):
        command = workers("--metrics", "127.0.0.1:0", *arguments, **changes)
        return command, Page(command)

    return start


def counted(clients, kind):
    return sum(client.answers for client in clients if isinstance(client, kind))


@pytest.mark.long
def test_replaced_under_load(watched):
    """SIGHUP, one more and one less: no request, datagram or WebSocket is counted twice, or not at all."""
    command, page = watched("--workers", "2")
    command.started(2)
    with load(command, [Fresh, KeptAlive, Talking, Datagrams, Datagrams]) as clients:
        command.process.send_signal(signal.SIGHUP)
        command.until(r"all workers have been replaced$")
        more(clients)
        command.process.send_signal(signal.SIGTTIN)
        command.next_worker()
        more(clients)
        assert page.get("/readyz") == (200, "ready\n")
        command.process.send_signal(signal.SIGTTOU)
        command.next_worker()
        more(clients)
        page.until(lambda found: found['cyasgi_workers{state="serving"}'] == 2)
    requests = counted(clients, (Fresh, KeptAlive))
    sent = sum(client._number for client in clients if isinstance(client, Datagrams))
    # The last ones may have reached their clients, and not yet be counted: each is counted once it is written.
    page.until(lambda found: found["cyasgi_http_request_duration_seconds_count"] == requests)
    found = page.until(lambda found: found["cyasgi_datagrams_sent_total"] == sent)
    assert found["cyasgi_datagrams_received_total"] == sent
    assert found["cyasgi_http_requests_total"] == found['cyasgi_http_responses_total{code="2xx"}'] == requests
    assert found["cyasgi_http_request_duration_seconds_count"] == requests
    assert found["cyasgi_websockets_total"] == 1 + sum(one.restarts for one in clients if isinstance(one, Talking))
    assert found["cyasgi_workers_started_total"] == 6
    assert found['cyasgi_worker_restarts_total{reason="replaced"}'] == 3
    assert found['cyasgi_worker_restarts_total{reason="died"}'] == 0
    # What is told with heartbeats is complete, too, where workers end in order.
    http_instances = 'cyasgi_instances_created_total{server="http"}'
    assert page.until(lambda found: found[http_instances] >= requests)[http_instances] >= requests
    assert command.stop(signal.SIGTERM) == 0


@pytest.mark.long
def test_killed_under_load(watched):
    """What a killed worker had in hand has no answer, and that is the difference between both counts."""
    command, page = watched("--workers", "2")
    victim, _ = command.started(2)
    clients = [Fresh(command), KeptAlive(command), Datagrams(command), Datagrams(command)]
    for client in clients:
        client.start()
    more(clients)
    os.kill(victim, signal.SIGKILL)
    command.until(rf"worker {victim} was killed by SIGKILL: another one is started$")
    command.next_worker()
    for client in clients:
        # What was in hand may be missed once.
        goal = client.answers + 5
        deadline = time.monotonic() + PATIENCE
        while client.answers < goal:
            assert time.monotonic() < deadline, client.failures
            time.sleep(0.005)
        client.end()
    for client in clients:
        client.join(PATIENCE)
        assert not client.is_alive()
        assert len(client.failures) <= 1
    answers = counted(clients, (Fresh, KeptAlive))
    lost = sum(len(client.failures) for client in clients[:2])
    sent = sum(client._number for client in clients[2:])
    unanswered = sum(len(client.unanswered) for client in clients[2:])
    # What had reached its client, or the worker, may not have been counted when that was killed: one for each client.
    found = page.until(lambda found: found["cyasgi_datagrams_sent_total"] >= sent - unanswered - 2)
    assert found["cyasgi_datagrams_sent_total"] <= sent
    assert sent - 2 <= found["cyasgi_datagrams_received_total"] <= sent
    assert answers - 2 <= found['cyasgi_http_responses_total{code="2xx"}'] <= answers + lost
    assert answers <= found["cyasgi_http_requests_total"] <= answers + lost
    assert found['cyasgi_worker_restarts_total{reason="died"}'] == 1
    assert command.stop(signal.SIGTERM) == 0


@pytest.mark.long
def test_frozen(watched):
    """The page answers while a worker hangs, says so, and has what that has counted up to then."""
    command, page = watched("--workers", "2")
    victim, _ = command.started(2)
    answers = [command.get() for _ in range(20)]
    page.until_ready(200)
    os.kill(victim, signal.SIGSTOP)
    try:
        assert page.metrics()["cyasgi_http_requests_total"] == len(answers)
        began = time.monotonic()
        assert page.get("/healthz") == (200, "ok\n")
        assert str(victim) in page.get("/")[1]
        assert time.monotonic() - began < PATIENCE / 4
        page.until_ready(503, "the event loop of worker 1 is late by")
        assert page.metrics()['cyasgi_event_loop_late_seconds{worker="1"}'] > 5
    finally:
        os.kill(victim, signal.SIGCONT)
    page.until_ready(200)
    assert command.stop(signal.SIGTERM) == 0


STARTING = """
import asyncio, os
from hello import application as hello

async def application(scope, receive, send):
    if scope["type"] != "lifespan":
        return await hello(scope, receive, send)
    await receive()
    while not os.path.exists("begin"):
        await asyncio.sleep(0.01)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
"""


def test_ready_between_start_and_end(watched, tmp_path):
    """Not before the application has started, and no more while work in hand is finished."""
    (tmp_path / "hello.py").write_text(APPLICATION, encoding="utf-8")
    command, page = watched("--workers", "1", application=STARTING)
    assert page.get("/readyz") == (503, "not ready: starting\n")
    assert page.get("/healthz") == (200, "ok\n")
    assert page.metrics()['cyasgi_workers{state="starting"}'] == 1
    (tmp_path / "begin").touch()
    command.started(1)
    assert page.get("/readyz") == (200, "ready\n")
    held = http.client.HTTPConnection("127.0.0.1", command.port, timeout=PATIENCE)
    held.request("GET", "/hold")
    deadline = time.monotonic() + PATIENCE
    while not (tmp_path / "held").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    command.process.send_signal(signal.SIGTERM)
    page.until_ready(503, "stopping")
    assert page.metrics()['cyasgi_workers{state="stopping"}'] == 1
    (tmp_path / "go").touch()
    assert held.getresponse().status == 200
    held.close()
    assert command.wait() == 0


FAILING = """
async def application(scope, receive, send):
    if scope["type"] == "http":
        raise ValueError(f"<i>{scope['path']}</i>")
    if scope["type"] == "datagram":
        while True:
            await receive()
            await receive()
            raise KeyError("datagram")
"""


def test_failures(watched):
    """The page has them with tracebacks, also of a worker that has ended, and the metrics have their types."""
    command, page = watched(application=FAILING)
    [first] = command.started(1)
    for number in range(3):
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", command.port, timeout=PATIENCE)) as one:
            one.request("GET", f"/{number}")
            assert one.getresponse().status == 500
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(command.udp)
        for data in (b"a", b"b", b"c"):
            client.send(data)
        values = 'cyasgi_failures_by_type_total{type="ValueError"}'
        keys = 'cyasgi_failures_by_type_total{type="KeyError"}'
        found = page.until(lambda found: found.get(values) == 3 and found.get(keys) == 1)
    assert found["cyasgi_failures_total"] == 4
    command.process.send_signal(signal.SIGHUP)
    command.until(r"all workers have been replaced$")
    command.ended(first)
    assert page.metrics()[values] == 3
    body = page.get("/")[1]
    assert body.count("<pre>Traceback") == 4
    assert "ValueError: &lt;i&gt;/2&lt;/i&gt;" in body and "<i>/2" not in body
    assert command.stop(signal.SIGTERM) == 0


def test_on_a_unix_socket(workers, tmp_path):
    """With one worker; the path is removed at the end."""
    path = tmp_path / "m.sock"
    command = workers("--metrics", "unix:m.sock")
    command.until(r"metrics and health on unix:m\.sock$")
    command.started(1)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(str(path))
        client.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
        answer = b""
        while data := client.recv(10_000):
            answer += data
    assert re.match(rb"HTTP/1\.[01] 200 .*\r\n\r\nready\n$", answer, re.DOTALL)
    assert command.stop(signal.SIGTERM) == 0
    assert not path.exists()


def test_clients_of_the_page_delay_nothing(watched):
    """Connections that say nothing are bounded, and the end does not wait for them."""
    command, page = watched()
    command.started(1)
    with contextlib.ExitStack() as stack:
        for _ in range(150):
            silent = stack.enter_context(socket.socket())
            silent.connect(("127.0.0.1", page.port))
        assert command.get() in command.workers()
        began = time.monotonic()
        assert command.stop(signal.SIGTERM) == 0
        assert time.monotonic() - began < PATIENCE / 4


def test_an_application_that_does_not_start(watched):
    """The command ends with its error, as without metrics."""
    command, page = watched("--workers", "2", application="raise ValueError('not yet')")
    assert page.port
    assert command.wait() == 1
    assert any("ValueError: not yet" in line for line in command.lines)
