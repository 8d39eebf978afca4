"""Instructions of a server for each request, counted by valgrind: on a busy machine nearly the same as on an idle one.

Each server is started under callgrind twice and answers N requests, then 2 N; the difference divided by N leaves out
start and stop. What the kernel does for it is not counted.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.applications import ANSWER, POSTED
from benchmarks.http_load import HEADERS, TARGETS
from benchmarks.question import Bar, Figure, Probed
from benchmarks.servers import CALLED, lacking, serving
from benchmarks.sides import FLOOR, SIDES

VALGRIND = ("valgrind", "--tool=callgrind", "--trace-children=yes", "--callgrind-out-file=/dev/null")
#: Seconds that a server may take to listen, to answer, or to end, under valgrind.
PATIENCE = 120.0
#: Connections, of which one after the other has a request under way.
CONNECTIONS = 8

HOST = "Host: 127.0.0.1\r\n"
#: Of a WebSocket; its floor knows the answer to this key alone.
HANDSHAKE = (
    f"GET / HTTP/1.1\r\n{HOST}Upgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
).encode()
TEXT = b"0123456789abcdef" * 4
MASK = b"\x37\xfa\x21\x3d"
PING, PONG = b"\x89", b"\x8a"


def masked(text: bytes, kind: bytes = b"\x81") -> bytes:
    """A short frame of a client (RFC 6455 section 5.2), by default a text message."""
    payload = bytes(byte ^ MASK[place % 4] for place, byte in enumerate(text))
    return kind + bytes((0x80 | len(text),)) + MASK + payload


def take_response(connection: socket.socket, expected: bytes) -> None:
    """Reads a response and compares its body."""
    received = connection.recv(1 << 18)
    while len(received.partition(b"\r\n\r\n")[2]) < len(expected):
        if not (data := connection.recv(1 << 18)):
            break
        received += data
    head, _, body = received.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 ") or body != expected:
        raise RuntimeError(f"answered {head[:100]!r} and {len(body)} bytes: {body[:100]!r}")


def take_message(connection: socket.socket, expected: bytes) -> None:
    """Reads a short text message and compares it; pings before it are answered, since under valgrind all takes long."""
    received = b""
    while len(received) < 2 + len(expected) and (data := connection.recv(1 << 10)):
        received += data
        if received[:1] == PING and len(received) > 1 and len(received) >= 2 + received[1]:
            end = 2 + received[1]
            connection.sendall(masked(received[2:end], PONG))
            received = received[end:]
    if received != bytes((0x81, len(expected))) + expected:
        raise RuntimeError(f"answered {received[:100]!r}")


def shake_hands(connection: socket.socket) -> None:
    connection.sendall(HANDSHAKE)
    received = b""
    while b"\r\n\r\n" not in received and (data := connection.recv(1 << 10)):
        received += data
    if not received.startswith(b"HTTP/1.1 101 ") or not received.endswith(b"\r\n\r\n"):
        raise RuntimeError(f"answered a handshake with {received[:100]!r}")


@dataclass(frozen=True)
class Traffic:
    """What a server is asked, request by request, and what it must answer."""

    application: str
    #: Sent in turn.
    requests: tuple[bytes, ...]
    expected: bytes
    #: How many requests are N.
    count: int
    log: bool = False
    open: Callable[[socket.socket], None] | None = None
    take: Callable[[socket.socket, bytes], None] = take_response


HELLO = f"GET / HTTP/1.1\r\n{HOST}\r\n".encode()
BROWSER = tuple(
    f"GET /items?page={page} HTTP/1.1\n{HOST.strip()}\n{HEADERS}\n".replace("\n", "\r\n").encode()
    for page in range(1, TARGETS + 1)
)
POST = f"POST / HTTP/1.1\r\n{HOST}Content-Length: {len(POSTED)}\r\n\r\n".encode() + POSTED

TRAFFIC = {
    "hello": Traffic("answer", (HELLO,), ANSWER, 2_000),
    "browser": Traffic("answer", BROWSER, ANSWER, 2 * TARGETS),
    "logged": Traffic("answer", (HELLO,), ANSWER, 2_000, log=True),
    "posted": Traffic("echo", (POST,), POSTED, 400),
    "echoed": Traffic("websocket", (masked(TEXT),), TEXT, 2_000, open=shake_hands, take=take_message),
}


def ask(port: int, traffic: Traffic, count: int) -> None:
    """Sends so many requests and compares each answer.

    Raises:
        RuntimeError: an answer was wrong.
        OSError: an answer did not come.
    """
    connections = [socket.create_connection(("127.0.0.1", port), PATIENCE) for _ in range(CONNECTIONS)]
    try:
        for connection in connections:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if traffic.open is not None:
                traffic.open(connection)
        for number in range(count):
            connection = connections[number % CONNECTIONS]
            connection.sendall(traffic.requests[number % len(traffic.requests)])
            traffic.take(connection, traffic.expected)
    finally:
        for connection in connections:
            connection.close()


def count(figure: str, side: str, loop: str, requests: int) -> int:
    """All instructions of a server, with its processes, that answers so many requests."""
    traffic = TRAFFIC[figure]
    with tempfile.TemporaryDirectory() as directory:
        under = (*VALGRIND, f"--log-file={directory}/%p")
        with serving(side, traffic.application, loop, log=traffic.log, under=under, patience=PATIENCE) as server:
            try:
                ask(server.port, traffic, requests)
            except (OSError, RuntimeError) as error:
                raise RuntimeError(f"{figure} by {side} under valgrind: {error!r}; {server.said()}") from error
        told = [path.read_text(errors="replace") for path in Path(directory).iterdir()]
    counted = [int(number) for text in told for number in re.findall(r"Collected\s*:\s*(\d+)", text)]
    if not counted or len(counted) < len(told):
        raise RuntimeError(f"{figure} by {side} under valgrind: {' '.join(told)[-2_000:] or 'nothing was counted'}")
    return sum(counted)


def per_request(figure: str, side: str, loop: str) -> float:
    """Instructions for each request, by the difference between N and 2 N."""
    requests = TRAFFIC[figure].count
    return (count(figure, side, loop, 2 * requests) - count(figure, side, loop, requests)) / requests


def probe(side: str, loop: str, size: int) -> Mapping[str, float]:
    # Counts, unlike times, do not mind company.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(TRAFFIC, pool.map(lambda figure: per_request(figure, side, loop), TRAFFIC), strict=True))


def hindrance() -> str:
    return "" if shutil.which("valgrind") else "valgrind is not installed"


QUESTION = Probed(
    name="server_instructions",
    title="HTTP and WebSockets: instructions of the server, by valgrind",
    size_of="run",
    sizes={"quick": (), "usual": (), "full": (1,)},
    probe=probe,
    figures={
        "hello": Figure("13 bytes answered", "instructions"),
        "browser": Figure("a browser's headers and varied targets", "instructions"),
        "logged": Figure("13 bytes answered and logged", "instructions"),
        "posted": Figure("100 KiB posted and sent back", "instructions"),
        "echoed": Figure("WebSocket echo, 64 bytes of text", "instructions"),
    },
    told=tuple(TRAFFIC),
    sides=(*SIDES, FLOOR, "granian"),
    loops=("uvloop",),
    rounds={"quick": 1, "usual": 1, "full": 1},
    called=CALLED,
    floor_is="as for `http`, `http_log`, `http_post` and `websocket`",
    bars=(
        Bar("cython", "reference", most=0.4, figure="hello"),
        Bar("cython", "reference", most=0.45, figure="browser"),
        *(Bar("pure", "reference", most=1.0, figure=figure) for figure in TRAFFIC),
    ),
    hindrance=hindrance,
    lacking=lacking,
    note="User mode only: the kernel's work is in the CPU time of the other questions alone. One request is under way "
    f"at a time, on {CONNECTIONS} kept connections in turn, so each costs a turn of the loop of its own. Each server "
    "as its own command starts it, with all its processes and threads. Without gunicorn, whose parser uses "
    "instructions that valgrind does not know.",
)


def test_server_instructions(benchmark: Any, case: Any) -> None:
    """Counts the instructions of servers."""
    case(benchmark)
