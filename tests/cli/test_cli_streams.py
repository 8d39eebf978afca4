"""Streams by the command: their addresses, framings and limits, TLS, workers, and options without effect."""

from __future__ import annotations

import signal
import socket
import ssl
import subprocess
import sys

import pytest

from cyasgi.cli.servers import make_servers
from support.certificates import write_certificates
from support.cli import ECHO, application, options as options, refused
from support.loops import PATIENCE
from support.udp import Command
from support.workers import wait_for_end

LOCAL = ("--tcp", "127.0.0.1:0")
unix = pytest.mark.skipif(sys.platform == "win32", reason="asyncio has no Unix sockets on Windows")


def listening(command, scheme="tcp"):
    """The port that the command says next that it listens on."""
    return int(command.until(rf"listening on {scheme}://127\.0\.0\.1:(\d+)$")[1])


def ask(sock, data, size):
    sock.settimeout(PATIENCE)
    sock.sendall(data)
    answer = b""
    while len(answer) < size and (more := sock.recv(1000)):
        answer += more
    return answer


def test_addresses(options):
    """HOST:PORT, with a scheme that says whether it is TLS, a path, or a descriptor."""
    given = options("--tcp", "127.0.0.1:1", "--tcp", "tcp://[::1]:2", "--tcp", "unix:/run/s", "--tcp", "fd://3", ECHO)
    assert given.listeners["tcp"] == [(("127.0.0.1", 1), None), (("::1", 2), False), "/run/s", ("fd://3", None)]
    [server] = make_servers(given, application).values()
    assert [one.address for one in server.binds] == [("127.0.0.1", 1), ("::1", 2), "unix:/run/s", "fd://3"]
    assert (server.lifespan, server.eviction_policy, server.framing) == ("off", "refuse", "lines")


def test_limits(options):
    given = options(
        *LOCAL,
        *("--framing", "length:4:little", "--max-message-size", "10", "--max-waiting-bytes", "20"),
        *("--message-timeout", "none", "--silence-timeout", "5", "--first-byte-timeout", "none", ECHO),
    )
    [server] = make_servers(given, application).values()
    assert (server.framing, server.max_message_size, server.max_waiting_bytes) == ("length:4:little", 10, 20)
    assert (server.message_timeout, server.silence_timeout, server.first_byte_timeout) == (None, 5, None)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--tcp", "http://127.0.0.1:1"), "accepted before :// are tcp and tls"),
        (("--tcp", "unix:"), "accepted is the path of a socket"),
        ((*LOCAL, "--framing", "length:5"), "accepted is lines, lines:crlf, length:N"),
        ((*LOCAL, "--max-message-size", "0"), "accepted is a whole number of at least 1"),
    ],
)
def test_refused(capsys, arguments, error):
    assert error in refused(capsys, [*arguments, ECHO])


def test_tls_without_a_certificate(options):
    given = options("--tcp", "tls://127.0.0.1:1", ECHO)
    with pytest.raises(Exception, match="an address with https://, wss:// or tls:// needs --ssl-certfile"):
        make_servers(given, application)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((*LOCAL, "--header", "a:b"), "--header: no effect, since nothing serves HTTP or WebSockets"),
        ((*LOCAL, "--receive-buffer", "9"), "--receive-buffer: no effect, since nothing serves datagrams"),
        (("--udp", "127.0.0.1:0", "--framing", "raw"), "--framing: no effect, since nothing serves streams"),
        ((*LOCAL, "--unix-permissions", "660"), "--unix-permissions: no effect without --unix, or --tcp unix:PATH"),
        ((*LOCAL, "--proxy-headers"), "--proxy-headers: no effect, since nothing serves HTTP or WebSockets"),
        ((*LOCAL, "--forwarded-allow-ips", "*"), "--forwarded-allow-ips: no effect without --proxy-protocol"),
    ],
)
def test_options_without_effect(options, arguments, sentence):
    assert options(*arguments, ECHO).ignored == [sentence]


@pytest.mark.slow
def test_serving(cy, tmp_path):
    with Command("serve", *LOCAL, ECHO, cwd=tmp_path, backend=cy.backend) as command:
        port = listening(command)
        with socket.create_connection(("127.0.0.1", port)) as one:
            assert ask(one, b"hello\r\n", 6) == b"hello\n"
            assert command.stop(signal.SIGTERM) == 0
            assert one.recv(100) == b""
    assert any("tcp: created=1" in line and "streams=1" in line for line in command.lines)


@pytest.mark.slow
def test_a_framing_of_ones_own(cy, tmp_path):
    """It is found beside the application; one that cannot be imported is an error in one line."""
    (tmp_path / "mine.py").write_text(
        "from cyasgi.wire.stream import Framing\n"
        "class Pairs(Framing):\n"
        "    def next_message(self):\n"
        "        return self.take(2) if self.buffered >= 2 else None\n"
        "    def encode(self, data):\n"
        "        return data.upper()\n",
        encoding="utf-8",
    )
    with (
        Command("serve", *LOCAL, "--framing", "mine:Pairs", ECHO, cwd=tmp_path, backend=cy.backend) as command,
        socket.create_connection(("127.0.0.1", listening(command))) as one,
    ):
        assert ask(one, b"abcde", 4) == b"ABCD"
    with Command("serve", *LOCAL, "--framing", "mine:Nothing", ECHO, cwd=tmp_path, backend=cy.backend) as command:
        assert command.wait() == 1
    assert command.lines[-1].startswith("cyasgi: framing='mine:Nothing': it cannot be imported: ")


@pytest.mark.slow
@pytest.mark.few_combinations
def test_tls(cy, tmp_path):
    """The certificate is for all that is not told otherwise; openssl's client has its lines echoed."""
    write_certificates(tmp_path)
    certificate = ("--ssl-certfile", "cert.pem", "--ssl-keyfile", "key.pem")
    arguments = (*LOCAL, "--tcp", "tcp://127.0.0.1:0", *certificate, ECHO)
    with Command("serve", *arguments, cwd=tmp_path, backend=cy.backend) as command:
        secure, plain = listening(command, "tls"), listening(command)
        context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
        with (
            socket.create_connection(("127.0.0.1", secure)) as sock,
            context.wrap_socket(sock, server_hostname="127.0.0.1") as one,
            socket.create_connection(("127.0.0.1", plain)) as two,
        ):
            assert ask(one, b"a\n", 2) == ask(two, b"a\n", 2) == b"a\n"
        words = [
            "openssl",
            "s_client",
            "-quiet",
            "-connect",
            f"127.0.0.1:{secure}",
            "-CAfile",
            str(tmp_path / "ca.pem"),
        ]
        with subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as client:
            client.stdin.write(b"by openssl\n")
            client.stdin.flush()
            assert client.stdout.readline() == b"by openssl\n"
            client.kill()


@unix
@pytest.mark.slow
@pytest.mark.few_combinations(1)
def test_workers(cy, tmp_path):
    """The system spreads connections over them, and a restart tells those that are open."""
    (tmp_path / "app.py").write_text(
        "import os\n"
        "async def application(scope, receive, send):\n"
        "    if scope['type'] != 'stream': raise ValueError\n"
        "    while (message := await receive())['type'] != 'stream.disconnect':\n"
        "        if message['type'] == 'stream.receive':\n"
        "            await send({'type': 'stream.send', 'data': str(os.getpid()).encode()})\n"
        "    await send({'type': 'stream.send', 'data': message['reason'].encode()})\n",
        encoding="utf-8",
    )
    arguments = ("--workers", "2", *LOCAL, "--tcp", "unix:s", "app:application")
    with Command("serve", *arguments, cwd=tmp_path, backend=cy.backend) as command:
        port = listening(command)
        for _ in range(2):
            command.until("worker .* serves|is ready|serving")
        pids = set()
        while len(pids) < 2:
            with socket.create_connection(("127.0.0.1", port)) as one:
                pids.add(int(ask(one, b"?\n", 2)))
        with socket.socket(socket.AF_UNIX) as other, socket.create_connection(("127.0.0.1", port)) as one:
            other.connect(str(tmp_path / "s"))
            assert int(ask(other, b"?\n", 2)) in pids
            ask(one, b"?\n", 2)
            command.process.send_signal(signal.SIGHUP)
            command.until("all workers have been replaced$")
            one.settimeout(PATIENCE)
            assert one.recv(100) == b"stopping\n"
            assert one.recv(100) == b""
        # The last one to be replaced accepts connections until it knows.
        for pid in pids:
            wait_for_end(pid, command)
        with socket.create_connection(("127.0.0.1", port)) as one:
            assert int(ask(one, b"?\n", 2)) not in pids
        assert command.stop(signal.SIGTERM) == 0
