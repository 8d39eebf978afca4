"""Sockets that the command inherits: by number, and from a service manager, with workers and without."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sys

import pytest

from cyasgi import cli
from cyasgi.cli import activation
from cyasgi.cli.activation import Passed
from support.cli import refused
from support.loops import PATIENCE
from support.systemd import passing
from support.udp import Command

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows passes no descriptors")

APPLICATION = """
async def application(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"web"})
    elif scope["type"] == "datagram":
        while True:
            await send({"type": "datagram.send", "data": (await receive())["data"]})
"""


@pytest.fixture
def sockets(tmp_path):
    """A TCP socket, a Unix socket and a UDP socket, bound and not listening."""
    (tmp_path / "app.py").write_text(APPLICATION, encoding="utf-8")
    made = [
        socket.socket(socket.AF_INET, socket.SOCK_STREAM),
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    ]
    for sock, address in zip(made, (("127.0.0.1", 0), str(tmp_path / "socket"), ("127.0.0.1", 0)), strict=True):
        sock.bind(address)
    yield made
    for sock in made:
        sock.close()


def get(sock):
    """What is answered to a request on this socket."""
    connection = http.client.HTTPConnection("x", timeout=PATIENCE)
    connection.sock = socket.socket(sock.family)
    connection.sock.settimeout(PATIENCE)
    connection.sock.connect(sock.getsockname())
    connection.request("GET", "/")
    body = connection.getresponse().read()
    connection.close()
    return body


def ask(address, data):
    """What is answered to a datagram."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(PATIENCE)
        client.connect(address)
        client.send(data)
        return client.recv(100)


def activated(tmp_path, sockets, *arguments):
    prefix = passing("web:local:names", sockets)
    numbers = [sock.fileno() for sock in sockets]
    return Command("serve", *arguments, "app:application", cwd=tmp_path, prefix=prefix, pass_fds=numbers)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_all_that_is_passed(sockets, tmp_path, workers):
    """Without addresses each socket is served by its kind, and stays when the command has ended."""
    web, local, names = sockets
    with activated(tmp_path, sockets, *workers) as command:
        command.until("by 2 workers" if workers else "listening on udp")
        assert get(web) == get(local) == b"web"
        assert ask(names.getsockname(), b"x") == b"x"
        assert command.stop(signal.SIGTERM) == 0
    assert os.path.exists(local.getsockname())
    # Still listening, so that the next start gets who connects meanwhile.
    with socket.create_connection(web.getsockname(), timeout=PATIENCE):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_by_name(sockets, tmp_path, workers):
    """An address names a socket; others that were passed are not served."""
    with activated(tmp_path, sockets, *workers, "--udp", "fd://names", "--http", "fd://local") as command:
        command.until("by 2 workers" if workers else "listening on udp")
        assert get(sockets[1]) == b"web"
        with socket.socket() as client, pytest.raises(ConnectionRefusedError):
            client.connect(sockets[0].getsockname())
        assert command.stop(signal.SIGTERM) == 0


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_by_number(sockets, tmp_path, loop):
    """--fd is a descriptor that was inherited, of a TCP or a Unix socket."""
    web, local, _ = sockets
    numbers = [web.fileno(), local.fileno()]
    arguments = ("--fd", str(numbers[0]), "--http", f"fd://{numbers[1]}", "--loop", loop, "app:application")
    with Command("serve", *arguments, cwd=tmp_path, pass_fds=numbers) as command:
        command.until("listening on unix:")
        command.until("listening on http:")
        assert get(web) == get(local) == b"web"
        assert command.stop(signal.SIGTERM) == 0
    assert os.path.exists(local.getsockname())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--fd", "x"], "'x': accepted is the number of a descriptor, as in 3"),
        (
            ["--http", "fd://chat"],
            "fd://chat: no socket of this name was passed by a service manager; those passed are: web",
        ),
        (["--udp", "fd://names"], "fd://names: no socket of this name was passed"),
        (["--udp", "fd://"], "'fd://' is not a descriptor: accepted is fd://NUMBER"),
    ],
)
def test_misuse(arguments, says, capsys, monkeypatch):
    monkeypatch.setenv(activation.MARK, json.dumps([Passed("web", 3, "http")]))
    assert says in refused(capsys, [*arguments, "cyasgi.examples:hello"])


def test_a_descriptor_that_is_no_listener(sockets, capsys):
    """Each is refused with the reason."""

    def error(number):
        assert cli.main(["serve", "--http", f"fd://{number}", "cyasgi.examples:hello"]) == 1
        return capsys.readouterr().err.splitlines()[-1]

    reads, writes = os.pipe()
    number = sockets[2].fileno()
    assert error(number) == f"cyasgi: cannot listen on fd://{number}: it is not a TCP or Unix socket"
    assert error(reads) == f"cyasgi: cannot listen on fd://{reads}: Socket operation on non-socket"
    os.close(reads)
    os.close(writes)
    assert error(reads) == f"cyasgi: cannot listen on fd://{reads}: Bad file descriptor"
    one, other = socket.socketpair()
    with socket.socket() as unbound, one, other:
        number = unbound.fileno()
        assert error(number) == f"cyasgi: cannot listen on fd://{number}: it is not bound to an address"


def test_what_was_passed_to_another(monkeypatch):
    """Variables for another process, or that are malformed, are nothing."""
    for name, value in {"LISTEN_PID": "1", "LISTEN_FDS": "1"}.items():
        monkeypatch.setenv(name, value)
    assert activation.take_passed() == []
    assert os.environ["LISTEN_FDS"] == "1"
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "many")
    assert activation.take_passed() == []
