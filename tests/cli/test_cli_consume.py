"""``cyasgi consume``: messages from lines and from RabbitMQ, its options, and how it refuses what is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from cyasgi import cli
from cyasgi.cli import consuming
from cyasgi.cli.consume_options import ATTRIBUTES, MOST_INSTANCES, MOST_INSTANCES_DEFAULT, consume_parameters
from cyasgi.sources.queue import QueueServer
from support.cli import write_module
from support.loops import PATIENCE
from support.serving import environment
from support.udp import Command

APPLICATION = """
import sys

async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        raise ValueError("none")
    while True:
        message = await receive()
        if message["body"] == b"fail":
            raise ValueError("on purpose")
        print(scope["scope_id"], message["body"].decode(), message["headers"], flush=True)
        if message["body"] == b"answer":
            await send({"type": "queue.reply", "body": b"answered"})
"""


def consume(tmp_path, *arguments, lines=(), backend=None):
    write_module(tmp_path, "work", APPLICATION)
    return subprocess.run(
        [sys.executable, "-m", "cyasgi", "consume", *arguments],
        cwd=tmp_path,
        env=environment(CYASGI_BACKEND=backend),
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("engine", [(), ("memory:",)])
def test_lines(tmp_path, engine):
    """Each is a message, and when all are done the command has done its work."""
    lines = [json.dumps({"scope_id": "a", "body": "one", "headers": {"x": 1}}), "plain", "", json.dumps([1])]
    done = consume(tmp_path, *engine, "--name", "orders", "work:application", lines=lines)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [" [1] {}", " plain {}", "a one {'x': 1}"]
    assert "cyasgi" in done.stderr and "works with work:application" in done.stderr
    assert "holds 32 of 32 partitions of orders" in done.stderr
    assert "received=3" in done.stderr and "acknowledged=3" in done.stderr


@pytest.mark.slow
def test_a_line_that_is_refused(tmp_path):
    """The others are not."""
    wrong = [{"scope_id": 7, "body": "one"}, {"body": 1}, {"queue": "x"}, {"queue": 1}, {"priority": 256}]
    own = {"queue": "orders", "body": "mine", "self": "a key that says nothing"}
    lines = [json.dumps(one) for one in [*wrong, own]] + ["good"]
    done = consume(tmp_path, "--name", "orders", "work:application", lines=lines)
    assert done.returncode == 0, done.stderr
    assert done.stdout == " mine {}\n good {}\n"
    for said in (
        "'scope_id' of a line must be a str, got 7",
        "'body' of a line must be a str, got 1",
        "there is no queue 'x'",
        "'queue' of a line must be a str, got 1",
        "'priority' of a line must be from 0 to 255, got 256",
    ):
        assert f"a line is not published: {said}" in done.stderr


@pytest.mark.slow
def test_lines_that_are_nested_deep(tmp_path):
    """Brackets are a body; values that nobody can read are refused. The command goes on, and ends."""
    deep = "[" * 900 + "]" * 900
    lines = ["[" * 5000, f'{{"scope_id": {deep}}}', f'{{"priority": {deep}}}', f'{{"headers": {deep}}}', "good"]
    done = consume(tmp_path, "work:application", lines=lines)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f" {'[' * 5000} {{}}\n good {{}}\n"
    assert done.stderr.count("a line is not published") == 3


@pytest.mark.slow
def test_poison(tmp_path):
    arguments = ("--max-deliveries", "2", "--retry-delay", "0.01")
    done = consume(tmp_path, *arguments, "work:application", lines=["fail", "after"])
    assert done.returncode == 0, done.stderr
    assert done.stdout == " after {}\n"
    assert "goes to the dead letters after 2 deliveries: ValueError: on purpose" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal(tmp_path, number):
    write_module(tmp_path, "work", APPLICATION)
    reading, writing = os.pipe()
    with Command("consume", "work:application", cwd=tmp_path, stdin=reading) as command:
        command.until("holds 32 of 32 partitions")
        assert command.stop(number) == 0
    os.close(reading)
    os.close(writing)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_rabbitmq(tmp_path, broker):
    """Two workers: both hold half of it."""
    pytest.importorskip("aiormq")
    write_module(tmp_path, "work", APPLICATION)
    queue = ("--name", "cli", "--partitions", "4", "--balance-interval", "0.2")
    changes = {"CYASGI_CONSUME_AMQP": broker.url}
    with Command("consume", *queue, "work:application", cwd=tmp_path, **changes) as one:
        one.until("takes messages of cli from amqp://127.0.0.1")
        one.until("holds 4 of 4 partitions of cli")
        with Command("consume", *queue, "work:application", cwd=tmp_path, **changes) as other:
            other.until("holds 2 of 4 partitions of cli")
            one.until("holds 2 of 4 partitions of cli")
            assert other.stop(signal.SIGTERM) == 0
        one.until("holds 4 of 4 partitions of cli")
        assert one.stop(signal.SIGTERM) == 0


@pytest.mark.slow
def test_an_engine_that_is_not_there(tmp_path):
    pytest.importorskip("aiormq")
    done = consume(tmp_path, "--amqp", "amqp://user:secret@127.0.0.1:1/", "--log-level", "error", "work:application")
    assert done.returncode == 1
    assert done.stderr.startswith("cyasgi: amqp://127.0.0.1:1/: ")
    assert done.stderr.count("\n") == 1
    assert "secret" not in done.stderr


def refused(capsys, *arguments):
    assert cli.main(["consume", *arguments]) == 2
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.startswith("cyasgi: ") and written.err.count("\n") == 1
    return written.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("a:b", "c:d"), "accepted are MODULE:ATTRIBUTE and, in front of it where there is no --amqp, memory:"),
        (("memory:",), "got 'memory:'"),
        (("--amqp", "amqp://h/", "memory:", "a:b"), "got 'memory: a:b' and --amqp"),
        (("--amqp", "redis://h/", "a:b"), "accepted is a URL as in amqp://"),
        (("--amqp", "amqp://u:p@:1/", "a:b"), "accepted is a URL as in amqp://"),
        (("--partitions", "0", "a:b"), "accepted is a whole number from 1 to 1024"),
        (("--name", "", "a:b"), "the name of a queue must have 1 to 255 bytes"),
        (("--prefetch", "0", "a:b"), "'0': accepted is a whole number from 1 to 65535"),
        (("--max-deliveries", "x", "a:b"), "'x': accepted is a whole number of at least 1"),
        (("--retry-delay", "-1", "a:b"), "'-1': accepted is a number of seconds from 0 to 60"),
        (("--udp", ":1", "a:b"), "--udp"),
        (("--prefetch", "1", "--prefetch", "2", "a:b"), "--prefetch is given 2 times, but takes one value"),
        (("nowhere",), "'nowhere' is not MODULE:ATTRIBUTE"),
    ],
)
def test_wrong_usage(capsys, arguments, said):
    assert said in refused(capsys, *arguments)


def test_the_options_are_the_attributes():
    """Each has the bounds and the default of what it sets."""
    defaults = {one.name: one.default for one in consume_parameters()}
    for one in ATTRIBUTES:
        assert defaults[one.attribute] == one.bound.written(getattr(QueueServer, one.attribute))
    server = QueueServer(None, engine="memory:")
    assert defaults[MOST_INSTANCES.attribute] == str(server.max_applications) == str(MOST_INSTANCES_DEFAULT)


@pytest.fixture
def taken(monkeypatch, tmp_path):
    """taken(*arguments) gives the engine, the path and the options that the command would have worked with."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(consuming, "configure_logging", lambda *_, **__: None)
    monkeypatch.setattr(consuming, "HangUps", lambda: None)
    seen = []
    monkeypatch.setattr(consuming, "_run", lambda *given, **_: seen.append(given) or 0)

    def taken(*arguments):
        assert cli.main(["consume", *arguments]) == 0
        return seen.pop()

    return taken


def test_configured(taken, tmp_path, monkeypatch):
    """The command line comes first, then the environment, then the file."""
    (tmp_path / "queue.toml").write_text(
        'application = "a:b"\namqp = "amqp://h/"\nname = "orders"\nprefetch = 7\nmax-deliveries = 9\nretry-delay = 2\n'
    )
    monkeypatch.setenv("CYASGI_CONSUME_MAX_DELIVERIES", "8")
    monkeypatch.setenv("CYASGI_CONSUME_RETRY_DELAY", "3")
    engine, path, values, given = taken("--config", "queue.toml", "--retry-delay", "4")
    assert (engine.describe(), path, values["name"]) == ("amqp://h/", "a:b", "orders")
    assert (values["prefetch"], values["max_deliveries"], values["retry_delay"]) == (7, 8, 4.0)
    assert {"prefetch", "max_deliveries", "retry_delay", "name"} <= given
    assert "balance_interval" not in given


def test_where_a_wrong_value_comes_from(capsys, monkeypatch):
    monkeypatch.setenv("CYASGI_CONSUME_PREFETCH", "0")
    assert "environment variable CYASGI_CONSUME_PREFETCH: Invalid value for '--prefetch': '0'" in refused(capsys, "a:b")


def test_help(capsys):
    assert cli.main(["consume", "--help"]) == 0
    said = capsys.readouterr().out
    assert "--amqp URL" in said and "CYASGI_CONSUME_MAX_APPLICATIONS" in said
    assert "CYASGI_SERVE" not in said
