"""``cyasgi consume`` with ``--workers`` and ``--metrics``: processes that share a queue, and what they count."""

from __future__ import annotations

import asyncio
import http.client
import os
import re
import signal
import sys
import time

import pytest

from cyasgi import cli
from cyasgi.cli import consuming
from support.cli import write_module
from support.loops import PATIENCE
from support.rabbitmq import client, publish
from support.udp import Command

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such processes")

APPLICATION = """
import os

async def application(scope, receive, send):
    while True:
        message = await receive()
        if message["body"] == b"fail":
            raise ValueError("on purpose")
        with open(f"done-{os.getpid()}", "a") as file:
            file.write(message["body"].decode() + "\\n")
"""


def done(directory):
    """What each process has worked on."""
    return {int(path.name[5:]): path.read_text().split() for path in directory.glob("done-*")}


def bodies(directory):
    return {body for found in done(directory).values() for body in found}


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def send(broker, name, *bodies):
    """Publish each of these for a scope of its own."""
    aiormq = pytest.importorskip("aiormq")

    async def main():
        async with client(aiormq, broker) as channel:
            for body in bodies:
                await publish(channel, name, body, scope_id=body.decode())

    asyncio.run(main())


class Consumers(Command):
    def __init__(self, directory, broker, name, *arguments):
        write_module(directory, "work", APPLICATION)
        queue = ("--name", name, "--partitions", "8", "--balance-interval", "0.2", "--retry-delay", "0.01")
        changes = {"CYASGI_CONSUME_AMQP": broker.url}
        super().__init__("consume", *queue, *arguments, "work:application", cwd=directory, **changes)

    def next_worker(self):
        return int(self.until(r"worker (\d+) serves$")[1])


@pytest.mark.slow
@pytest.mark.long
def test_workers(tmp_path, broker):
    """They share the partitions; one that is killed, and all of them on SIGHUP, are replaced, and nothing is lost."""
    pytest.importorskip("aiormq")
    with Consumers(tmp_path, broker, "workers", "--workers", "2") as command:
        first, second = command.next_worker(), command.next_worker()
        command.until("works with work:application by 2 workers: workers of amqp://127.0.0.1")
        for _ in range(2):
            command.until("holds 4 of 8 partitions of workers")
        send(broker, "workers", *[b"%d" % number for number in range(40)])
        wait_until(lambda: len(bodies(tmp_path)) == 40)
        assert done(tmp_path).keys() == {first, second}
        os.kill(first, signal.SIGKILL)
        third = command.next_worker()
        send(broker, "workers", *[b"%d" % number for number in range(40, 80)])
        # What the first one has done and not acknowledged is done again.
        wait_until(lambda: len(bodies(tmp_path)) == 80)
        command.process.send_signal(signal.SIGHUP)
        replaced = {command.next_worker(), command.next_worker()}
        assert replaced.isdisjoint({first, second, third})
        command.until("all workers have been replaced")
        send(broker, "workers", *[b"%d" % number for number in range(80, 120)])
        wait_until(lambda: len(bodies(tmp_path)) == 120)
        assert command.stop(signal.SIGTERM) == 0


def get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


@pytest.mark.slow
@pytest.mark.long
def test_metrics(tmp_path, broker):
    pytest.importorskip("aiormq")
    pytest.importorskip("prometheus_client")
    arguments = ("--metrics", "127.0.0.1:0", "--max-deliveries", "2")
    with Consumers(tmp_path, broker, "metrics", *arguments) as command:
        port = int(command.until(r"metrics and health on .*:(\d+)")[1])
        command.until("by 1 worker")
        send(broker, "metrics", *[b"%d" % number for number in range(10)], b"fail")

        def counted():
            found = dict(re.findall(r"^(cyasgi_\w+)(?:\{[^}]*\})? ([\d.]+)$", get(port, "/metrics")[1], re.MULTILINE))
            return found if float(found.get("cyasgi_queue_acknowledged_total", 0)) == 11 else None

        found = wait_until(counted)
        assert float(found["cyasgi_queue_received_total"]) == 11
        assert float(found["cyasgi_queue_retried_total"]) == float(found["cyasgi_queue_dead_letters_total"]) == 1
        assert float(found["cyasgi_failures_total"]) == 2
        assert float(found["cyasgi_queue_partitions"]) == 8
        assert get(port, "/readyz")[0] == 200
        assert command.stop(signal.SIGTERM) == 0


@pytest.mark.slow
def test_a_broker_that_is_not_there(tmp_path):
    """The worker says so in one line, and the command ends with its exit code."""
    pytest.importorskip("aiormq")
    write_module(tmp_path, "work", APPLICATION)
    arguments = ("--amqp", "amqp://user:secret@127.0.0.1:1/", "--workers", "2", "--log-level", "error")
    with Command("consume", *arguments, "work:application", cwd=tmp_path) as command:
        assert command.wait() == 1
        (line,) = command.lines
        assert "amqp://127.0.0.1:1/: " in line and "secret" not in line


@pytest.mark.parametrize("arguments", [("--workers", "2"), ("--metrics", "127.0.0.1:0"), ("--worker-lifetime", "60")])
def test_not_for_lines(capsys, arguments):
    assert cli.main(["consume", *arguments, "work:application"]) == 2
    assert "are for a queue that several processes share: give --amqp URL" in capsys.readouterr().err


def test_settings(monkeypatch):
    """Each option reaches the supervising process."""
    given = []
    monkeypatch.setattr(consuming, "configure_logging", lambda *_, **__: None)
    monkeypatch.setattr(consuming, "_supervise", lambda *values: given.append(values[-2:]) or 0)
    monkeypatch.setattr("cyasgi.cli.supervising.usable_cores", lambda: 7)
    options = ("--worker-timeout", "none", "--worker-start-attempts", "2", "--worker-max-rss", "1000")
    assert cli.main(["consume", "--amqp", "amqp://h/", "--workers", "auto", *options, "a:b"]) == 0
    supervision, metrics = given.pop()
    assert (supervision.count, supervision.timeout, supervision.start_attempts, metrics) == (7, None, 2, None)
    assert supervision.recycling.max_rss == 1000
