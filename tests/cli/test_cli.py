"""The command at work, in processes of its own, and the examples that come with it."""

from __future__ import annotations

import asyncio
import importlib
import platform
import re
import signal
import socket
import time
from contextlib import closing, suppress

import pytest

import cyasgi
from cyasgi import cli
from cyasgi.wire.address import format_address
from support.cli import ECHO, LOCAL, write_module
from support.serving import output, python
from support.udp import Client, Command


def ask(address, *data):
    """Sends datagrams to an address, each after the answer to the one before; gives the answers."""
    with socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(30)
        client.connect(address)
        answers = []
        for one in data:
            client.send(one)
            answers.append(client.recv(70_000))
        return answers


# ---- serving -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["auto", "asyncio", "uvloop"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve(cy, tmp_path, loop, number):
    """The command serves, says what and where, and ends by a signal with code 0 and its counters as the last line."""
    with Command("serve", *LOCAL, "--loop", loop, ECHO, cwd=tmp_path, backend=cy.backend) as command:
        chosen = "uvloop" if loop == "auto" else loop
        command.until(rf"cyasgi {cy.__version__} serves {ECHO} \(back end {cy.backend}, loop {chosen}\)$")
        assert ask(command.listening(), b"hello", bytes(9000)) == [b"hello", bytes(9000)]
        assert command.stop(number) == 0
        assert re.search(r" stopped after \d+\.\d s: .*datagrams_received=2 datagrams_sent=2$", command.lines[-1])
        assert [line for line in command.lines if number.name in line]
        assert not [line for line in command.lines if "Warning" in line or "Traceback" in line]


@pytest.mark.slow
def test_the_event_loop_that_was_asked_for(tmp_path):
    """The application runs on the loop that --loop names."""
    write_module(
        tmp_path,
        "looks",
        """
import asyncio

async def application(scope, receive, send):
    while await receive():
        kind = type(asyncio.get_running_loop())
        await send({"type": "datagram.send", "data": kind.__module__.encode()})
""",
    )
    for loop in ("asyncio", "uvloop"):
        with Command("serve", *LOCAL, "--loop", loop, "looks:application", cwd=tmp_path) as command:
            (answer,) = ask(command.listening(), b"")
            assert answer.startswith(loop.encode())
            assert command.stop(signal.SIGTERM) == 0


@pytest.mark.slow
def test_several_addresses(tmp_path):
    """One server listens on several addresses, of both families."""
    arguments = [*LOCAL, "--udp", "[::1]:0", "--udp", "localhost:0"]
    with Command("serve", *arguments, "cyasgi.examples:counter", cwd=tmp_path) as command:
        for _ in range(3):
            assert ask(command.listening(), b"", b"") == [b"1\n", b"2\n"]
        assert command.stop(signal.SIGTERM) == 0


@pytest.mark.slow
def test_sigterm_loses_no_queued_work(cy, tmp_path):
    """A signal that finds work queued: all of it is done, and every answer arrives, before the process ends."""
    write_module(
        tmp_path,
        "slow",
        """
import asyncio

async def application(scope, receive, send):
    while True:
        data = (await receive())["data"]
        await asyncio.sleep(0.005)
        await send({"type": "datagram.send", "data": data})
""",
    )
    expected = [b"%d" % number for number in range(100)]
    with Command("serve", *LOCAL, "slow:application", cwd=tmp_path, backend=cy.backend) as command:
        address = command.listening()
        with closing(Client(address)) as first, closing(Client(address)) as second:
            for client in (first, second):
                client.socket.settimeout(30)
                client.send(*expected)
            answers = [[first.socket.recv(100)], [second.socket.recv(100)]]
            assert command.stop(signal.SIGTERM) == 0
            for client, got in zip((first, second), answers, strict=True):
                # All were sent before the process ended: nothing has to be waited for.
                client.socket.setblocking(False)
                got += [client.socket.recv(100) for _ in range(99)]
                assert got == expected
        assert "datagrams_received=200 datagrams_sent=200" in command.lines[-1]
        assert "undelivered" not in command.lines[-1]


@pytest.mark.slow
def test_a_second_signal_ends_at_once(tmp_path):
    """A second signal does not wait for the work; what is left is told."""
    write_module(
        tmp_path,
        "stuck",
        """
import asyncio

async def application(scope, receive, send):
    await send({"type": "datagram.send", "data": (await receive())["data"]})
    await asyncio.get_running_loop().create_future()
""",
    )
    with Command("serve", *LOCAL, "--shutdown-timeout", "1000", "stuck:application", cwd=tmp_path) as command:
        address = command.listening()
        assert ask(address, b"1") == [b"1"]
        with closing(Client(address)) as client:
            client.send(b"2", b"3")
            client.socket.settimeout(30)
            assert client.socket.recv(100) == b"2"
            command.process.send_signal(signal.SIGTERM)
            assert command.stop(signal.SIGINT) == 0
        assert "undelivered=1" in command.lines[-1]


@pytest.mark.slow
def test_options_reach_the_server(tmp_path):
    """What options say holds: here the most instances, the idle timeout and the length of queues."""
    arguments = [
        "--max-applications",
        "1",
        "--max-queue-size",
        "5",
        "--idle-timeout",
        "0.01",
        "--checker-interval",
        "0.001",
    ]
    with Command("serve", *LOCAL, *arguments, "cyasgi.examples:counter", cwd=tmp_path) as command:
        address = command.listening()
        with closing(Client(address)) as first, closing(Client(address)) as second:
            for client in (first, second):
                client.socket.settimeout(30)
            counts = []
            for _ in range(2):
                for client in (first, second):
                    client.send(b"")
                    counts.append(client.socket.recv(100))
            assert counts == [b"1\n"] * 4
        assert command.stop(signal.SIGTERM) == 0
        assert "created=4" in command.lines[-1]


@pytest.mark.slow
def test_a_failing_application_is_told_with_its_traceback(tmp_path):
    """What an application raises is logged with its traceback, and the server goes on."""
    write_module(
        tmp_path,
        "failing",
        """
async def application(scope, receive, send):
    data = (await receive())["data"]
    if data == b"fail":
        raise RuntimeError("on purpose")
    await send({"type": "datagram.send", "data": data})
""",
    )
    with Command("serve", *LOCAL, "failing:application", cwd=tmp_path) as command:
        address = command.listening()
        with closing(Client(address)) as client:
            client.send(b"fail")
            command.until("Traceback")
            command.until("RuntimeError: on purpose")
        assert ask(address, b"x") == [b"x"]
        assert command.stop(signal.SIGTERM) == 0
        assert "failed=1" in command.lines[-1]


@pytest.mark.slow
def test_log_level(tmp_path):
    """With a higher log level the command says nothing when all goes well."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        address = probe.getsockname()
    arguments = ["--udp", format_address(address), "--log-level", "warning"]
    with Command("serve", *arguments, ECHO, cwd=tmp_path) as command:
        for _ in range(3000):
            with suppress(ConnectionRefusedError):
                assert ask(address, b"x") == [b"x"]
                break
            time.sleep(0.01)
        assert command.stop(signal.SIGTERM) == 0
        assert command.lines == []


@pytest.mark.slow
def test_app_dir_and_factory(tmp_path):
    """The module is looked for in --app-dir; with --factory its attribute, dotted too, is called."""
    there = tmp_path / "there"
    there.mkdir()
    write_module(
        there,
        "made",
        """
class Factories:
    @staticmethod
    def create():
        from cyasgi.examples import echo
        return echo
""",
    )
    arguments = ["--app-dir", str(there), "--factory", "made:Factories.create"]
    with Command("serve", *LOCAL, *arguments, cwd=tmp_path) as command:
        assert ask(command.listening(), b"x") == [b"x"]
        assert command.stop(signal.SIGTERM) == 0


# ---- the examples --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sent", "expected"),
    [
        ("echo", [b"a", b""], [b"a", b""]),
        ("counter", [b"a", b"b"], [b"1\n", b"2\n"]),
        ("discard", [b"a", b"b"], []),
    ],
)
def test_examples(name, sent, expected):
    """The examples do what they say."""
    answers = asyncio.run(converse(getattr(importlib.import_module("cyasgi.examples"), name), sent))
    assert answers == expected


def test_daytime():
    """The time of day is a line of ASCII, in UTC."""
    (answer,) = asyncio.run(converse(importlib.import_module("cyasgi.examples").daytime, [b""]))
    assert re.fullmatch(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\r\n", answer)


def test_hello():
    """The page's application takes part in the lifespan, and refuses scopes that it does not know."""
    hello = importlib.import_module("cyasgi.examples").hello

    async def main():
        events = iter(["lifespan.startup", "lifespan.shutdown"])
        answers = []

        async def receive():
            return {"type": next(events)}

        async def send(message):
            answers.append(message)

        await hello({"type": "lifespan"}, receive, send)
        assert answers == [{"type": "lifespan.startup.complete"}, {"type": "lifespan.shutdown.complete"}]
        with pytest.raises(ValueError, match="'datagram'"):
            await hello({"type": "datagram"}, receive, send)

    asyncio.run(main())


async def converse(application, data):
    """Gives these data to an application, and what it sent."""
    messages = iter([{"type": "datagram.receive", "data": one} for one in data])
    answers = []

    async def receive():
        for message in messages:
            return message
        raise EOFError

    async def send(message):
        assert message["type"] == "datagram.send"
        answers.append(message["data"])

    with pytest.raises(EOFError):
        await application({"type": "datagram"}, receive, send)
    with pytest.raises(ValueError, match="'lifespan'"):
        await application({"type": "lifespan"}, receive, send)
    return answers


# ---- without uvloop ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_without_uvloop(tmp_path):
    """With uvloop not installed, --loop auto is asyncio."""
    code = """
        import os, signal, sys, threading
        sys.modules["uvloop"] = None
        from cyasgi.cli import main
        from cyasgi.gateways.datagram import DatagramServer

        class Server(DatagramServer):
            async def handle(self):
                os.kill(os.getpid(), signal.SIGTERM)
                await super().handle()

        import cyasgi.gateways.datagram
        cyasgi.gateways.datagram.DatagramServer = Server
        sys.exit(main(["serve", "--udp", "127.0.0.1:0", "cyasgi.examples:echo"]))
    """
    process = python(code, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert "loop asyncio)" in process.stderr


# ---- help ----------------------------------------------------------------------------------------------------------


def test_version(capsys):
    """--version tells the package's, which back end it has, and on what it runs."""
    assert cli.main(["--version"]) == 0
    python = f"{platform.python_implementation()} {platform.python_version()} on {platform.system()}"
    assert capsys.readouterr().out == f"cyasgi {cyasgi.__version__} (back end {cyasgi.backend}, {python})\n"


def test_help(capsys):
    """--help names every option with its default, and the exit codes."""
    assert cli.main(["serve", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for option, default in (
        ("--udp", None),
        ("--factory", None),
        ("--app-dir", "."),
        ("--max-applications", "1000"),
        ("--max-queue-size", "1024"),
        ("--idle-timeout", "none"),
        ("--shutdown-timeout", "10.0"),
        ("--checker-interval", "0.1"),
        ("--loop", "auto"),
        ("--log-level", "info"),
    ):
        _, rest = re.split(rf" {option}(?: |, --)", text, maxsplit=1)
        if default is not None:
            assert f"[default: {default}]" in rest.partition(" --")[0]
    assert "Exit codes: 0 " in text


def test_without_a_command(capsys):
    """Called with nothing the command shows its help."""
    cli.main([])
    written = capsys.readouterr()
    assert "serve" in written.out + written.err


@pytest.mark.slow
def test_imports_little(tmp_path):
    """`import cyasgi` needs neither the command's nor the gateways' libraries."""
    code = """
        import sys
        for name in ("click", "uvloop", "dns", "django", "httptools", "prometheus_client", "watchfiles", "websockets"):
            sys.modules[name] = None
        import cyasgi
        print(sorted(name for name in sys.modules if name.startswith("cyasgi.") and "._" not in name))
    """
    (line,) = output(python(code, cwd=tmp_path))
    assert "gateways" not in line
    assert "cyasgi.cli" not in line
