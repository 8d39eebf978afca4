"""The command with HTTP: several listeners and applications, TLS, lifespan, signals; in processes of their own."""

from __future__ import annotations

import http.client
import re
import signal
import socket
import ssl
import stat
import sys
from contextlib import closing

import pytest
from websockets.sync.client import connect

from support.certificates import PASSWORD, write_certificates
from support.cli import get, listening
from support.udp import Command

pytestmark = pytest.mark.slow

HELLO = "cyasgi.examples:hello"

#: Notes its lifespan in the log, and answers what it is.
TOLD = """
import asyncio, logging

async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        logging.warning("%s", (await receive())["type"])
        scope["state"]["number"] = 7
        await send({"type": "lifespan.startup.complete"})
        logging.warning("%s", (await receive())["type"])
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["type"] == "http":
        body = repr((scope["scheme"], scope["path"], scope["state"])).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
    else:
        await receive()
        await send({"type": "datagram.send", "data": b"datagram"})
"""


def application(path, name, code):
    (path / f"{name}.py").write_text(code, encoding="utf-8")


def test_several_listeners(tmp_path):
    """One process serves HTTP, a Unix socket and UDP; the application has one lifespan; each has its counters."""
    application(tmp_path, "told", TOLD)
    arguments = ["--http", "127.0.0.1:0", "--port", "0", "--udp", "127.0.0.1:0", "--unix", "app.sock"]
    with Command("serve", *arguments, "--root-path", "/api", "told:application", cwd=tmp_path) as command:
        command.until(r"lifespan\.startup$")
        first, second = listening(command), listening(command)
        expected = (200, repr(("http", "/api/x", {"number": 7})))
        assert get(first, "/x") == get(second, "/x") == expected
        command.until(r"listening on unix:app\.sock$")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(30)
            client.connect(str(tmp_path / "app.sock"))
            client.sendall(b"GET /x HTTP/1.0\r\n\r\n")
            assert client.recv(10_000).startswith(b"HTTP/1.1 200")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(30)
            client.connect(command.listening())
            client.send(b"")
            assert client.recv(100) == b"datagram"
        assert command.stop(signal.SIGTERM) == 0
        assert len([line for line in command.lines if line.endswith("lifespan.startup")]) == 1
        assert len([line for line in command.lines if line.endswith("lifespan.shutdown")]) == 1
        http_line, udp_line = command.lines[-2:]
        assert re.search(r"stopped after \d+\.\d s: http: .*requests=3 websockets=0$", http_line)
        assert re.search(r"stopped after \d+\.\d s: udp: .*datagrams_received=1 datagrams_sent=1$", udp_line)


#: Begins to start, and does not come to an end.
STARTING = """
import asyncio, logging

async def application(scope, receive, send):
    logging.warning("starting")
    try:
        await asyncio.sleep(100)
    finally:
        logging.warning("gives up")
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_interrupted_while_the_application_starts(tmp_path, number, code):
    """Nothing was served: exit code 130 for Ctrl-C, once the application has cleaned up; 0 where it was told to end."""
    application(tmp_path, "starting", STARTING)
    with Command("serve", "--http", "127.0.0.1:0", "starting:application", cwd=tmp_path) as command:
        command.until("starting$")
        assert command.stop(number) == code
        assert any(line.endswith("gives up") for line in command.lines)
        assert not any("listening" in line or "Traceback" in line for line in command.lines)


def test_interrupted_while_it_serves(tmp_path):
    with Command("serve", "--http", "127.0.0.1:0", HELLO, cwd=tmp_path) as command:
        listening(command)
        assert command.stop(signal.SIGINT) == 0


def test_interrupted_while_the_application_starts_again(tmp_path):
    """So for a process that is started anew when files change."""
    application(tmp_path, "starting", STARTING)
    with Command("serve", "--reload", "--http", "127.0.0.1:0", "starting:application", cwd=tmp_path) as command:
        command.until("starting$")
        assert command.stop(signal.SIGINT) == 130


def test_permissions_of_a_unix_socket(tmp_path):
    arguments = ["--unix", "app.sock", "--unix-permissions", "600"]
    with Command("serve", *arguments, HELLO, cwd=tmp_path) as command:
        command.until(r"listening on unix:app\.sock$")
        assert stat.S_IMODE((tmp_path / "app.sock").stat().st_mode) == 0o600
        assert command.stop(signal.SIGTERM) == 0


def test_tls(tmp_path):
    """With a certificate HTTP has TLS, but where http:// says otherwise; the key's password is in the environment."""
    write_certificates(tmp_path)
    application(tmp_path, "told", TOLD)
    arguments = ["--http", "127.0.0.1:0", "--http", "http://127.0.0.1:0", "--ssl-certfile", "cert.pem"]
    arguments += ["--ssl-keyfile", "locked.pem", "--ssl-ciphers", "ECDHE+AESGCM"]
    with Command(
        "serve", *arguments, "told:application", cwd=tmp_path, CYASGI_SERVE_SSL_KEYFILE_PASSWORD=PASSWORD
    ) as command:
        context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
        status, body = get(listening(command, r"https://127\.0\.0\.1:(\d+)"), context=context)
        assert (status, "https" in body) == (200, True)
        status, body = get(listening(command))
        assert (status, "https" in body) == (200, False)
        assert command.stop(signal.SIGTERM) == 0


def test_sigterm_with_a_request_in_hand(tmp_path):
    """A signal that finds a request at work: its answer arrives whole, on a connection that is then closed."""
    application(
        tmp_path,
        "slow",
        """
import asyncio

async def application(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"begun", "more_body": True})
    # Until the signal has arrived and listening has ended.
    while True:
        try:
            _, writer = await asyncio.open_connection(*scope["server"])
        except OSError:
            break
        writer.close()
        await asyncio.sleep(0.01)
    await send({"type": "http.response.body", "body": b" and ended"})
""",
    )
    with Command("serve", "--http", "127.0.0.1:0", "slow:application", cwd=tmp_path) as command:
        port = listening(command)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        with closing(connection):
            connection.request("GET", "/")
            response = connection.getresponse()
            assert response.read(5) == b"begun"
            command.process.send_signal(signal.SIGTERM)
            assert response.read() == b" and ended"
        assert command.wait() == 0
        assert "finished=1" in command.lines[-1]


def test_several_applications(tmp_path):
    """Several applications share the work, by a strategy and weights, and each is told about at the end."""
    for name in ("blue", "green"):
        application(tmp_path, name, TOLD.replace('scope["scheme"]', repr(name)))
    arguments = ["--http", "127.0.0.1:0", "--balance", "weighted", "--weight", "3", "--weight", "1"]
    with Command("serve", *arguments, "blue:application", "green:application", cwd=tmp_path) as command:
        port = listening(command)
        answers = [get(port)[1] for _ in range(4)]
        assert [sum(name in answer for answer in answers) for name in ("blue", "green")] == [3, 1]
        assert command.stop(signal.SIGTERM) == 0
        told = [line.partition("balanced: ")[2] for line in command.lines if "balanced: " in line]
        assert told[0] == "retried=0 refused=0"
        assert [line.partition(": ")[0] for line in told[1:]] == ["blue:application", "green:application"]
        assert len([line for line in command.lines if line.endswith("lifespan.shutdown")]) == 2


FAILS = """
import asyncio, traceback

async def says(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})

async def tells(scope, receive, send):
    await receive()
    try:
        1 / 0
    except ZeroDivisionError:
        await send({"type": "lifespan.startup.failed", "message": traceback.format_exc()})
        raise

async def refuses(scope, receive, send):
    assert scope["type"] == "http"

async def hangs(scope, receive, send):
    try:
        print("starting", flush=True)
        await asyncio.get_running_loop().create_future()
    finally:
        print("cancelled", flush=True)
"""


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("says", "the application failed to start: no database"),
        ("tells", "the application failed to start: ZeroDivisionError: division by zero"),
        ("refuses", "the application takes no part in the lifespan protocol: it raised AssertionError()"),
    ],
)
def test_an_application_that_does_not_start(name, says, tmp_path):
    """An application that fails to start, or must take part and does not, ends the command with exit code 1."""
    application(tmp_path, "fails", FAILS)
    arguments = ["--http", "127.0.0.1:0", "--lifespan", "on" if name == "refuses" else "auto"]
    with Command("serve", *arguments, f"fails:{name}", cwd=tmp_path) as command:
        assert command.wait() == 1
        assert command.lines[-1] == f"cyasgi: {says}"
        assert ("    1 / 0" in command.lines) is (name == "tells")
        assert not [line for line in command.lines if "listening" in line]


def test_a_signal_while_the_application_starts(tmp_path):
    """A signal ends the command although the application has not started."""
    application(tmp_path, "fails", FAILS)
    with Command("serve", "--http", "127.0.0.1:0", "fails:hangs", cwd=tmp_path) as command:
        assert command.process.stdout.readline() == "starting\n"
        assert command.stop(signal.SIGTERM) == 0
        assert command.process.stdout.read() == "cancelled\n"


def test_lifespan_off(tmp_path):
    """With --lifespan off the application is not asked, and requests have no state."""
    application(tmp_path, "told", TOLD.replace('scope["state"]', 'scope.get("state")'))
    with Command("serve", "--http", "127.0.0.1:0", "--lifespan", "off", "told:application", cwd=tmp_path) as command:
        assert get(listening(command)) == (200, repr(("http", "/", None)))
        assert command.stop(signal.SIGTERM) == 0
        assert not [line for line in command.lines if "lifespan." in line]


def test_limits_for_each_client(tmp_path):
    """A client that asks too often is refused."""
    arguments = ["--http", "127.0.0.1:0", "--max-messages-per-second", "0.001", "--message-burst", "2"]
    with Command("serve", *arguments, HELLO, cwd=tmp_path) as command:
        port = listening(command)
        assert [get(port)[0] for _ in range(3)] == [200, 200, 429]
        assert command.stop(signal.SIGTERM) == 0


@pytest.mark.parametrize("option", ["--http", "--unix"])
def test_an_address_that_is_taken(option, tmp_path):
    """An address that is taken ends the command with one line and exit code 1."""
    family = socket.AF_INET if option == "--http" else socket.AF_UNIX
    with socket.socket(family, socket.SOCK_STREAM) as taken:
        taken.bind(("127.0.0.1", 0) if option == "--http" else str(tmp_path / "taken.sock"))
        taken.listen()
        where = "taken.sock" if option == "--unix" else f"127.0.0.1:{taken.getsockname()[1]}"
        with Command("serve", option, where, HELLO, cwd=tmp_path) as command:
            assert command.wait() == 1
            kind = "unix:" if option == "--unix" else "tcp "
            assert command.lines == [f"cyasgi: cannot listen on {kind}{where}: Address already in use"]


def test_hello(tmp_path):
    """The bundled application answers GET with a page, HEAD without, refuses other methods, and echoes messages."""
    arguments = ["--host", "127.0.0.1", "--port", "0", "--websocket", "127.0.0.1:0"]
    with Command("serve", *arguments, "--access-log", HELLO, cwd=tmp_path) as command:
        port, sockets_alone = listening(command), listening(command)
        status, page = get(port)
        assert (status, "Hello from cyasgi" in page) == (200, True)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        with closing(connection):
            for method, status in (("HEAD", 200), ("POST", 405), ("GET", 200)):
                connection.request(method, "/")
                response = connection.getresponse()
                assert (response.status, bool(response.read())) == (status, method != "HEAD")
        assert get(sockets_alone)[0] == 426
        for number in (port, sockets_alone):
            with connect(f"ws://127.0.0.1:{number}/", open_timeout=30) as client:
                for message in ("text", "", b"bytes"):
                    client.send(message)
                    assert client.recv(30) == message
        assert command.stop(signal.SIGINT) == 0
        assert '"POST / HTTP/1.1" 405 ' in command.process.stdout.read()
        assert re.search(r"stopped after .* s: http: .*requests=4 websockets=1$", command.lines[-2])
        assert re.search(r"stopped after .* s: websocket: .*requests=\d websockets=1", command.lines[-1])


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot ask a process to end in order")
def test_reload(tmp_path):
    """--reload begins an HTTP server anew, on the same address."""
    application(tmp_path, "told", TOLD)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with Command("serve", "--reload", "--port", str(port), "told:application", cwd=tmp_path) as command:
        assert listening(command) == port
        assert "'number': 7" in get(port)[1]
        # Of another size: bytecode of the same second and size would be taken for the new one's.
        application(tmp_path, "new", TOLD.replace("= 7", "= 80"))
        (tmp_path / "new.py").rename(tmp_path / "told.py")
        assert listening(command) == port
        assert "'number': 80" in get(port)[1]
        assert command.stop(signal.SIGTERM) == 0
