"""Streams of frames for both twins of the usual course and for the library `websockets`; what each makes of them."""

from __future__ import annotations

from typing import Any

from websockets.frames import Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from support.websocket_violations import VIOLATIONS
from support.websockets_raw import CLOSE, CONT, DEFLATE, HEADERS, PING, PONG, TEXT, binary, close, frame, text

LIMIT = 1000

#: What is allowed.
SOUND = [
    text(""),
    text("a"),
    text("a text of 64 bytes, as they are sent most, or so we believe here!"),
    text("seven b"),
    text("eight by"),
    text("nine byte"),
    text("gr\u00fc\u00df dich"),
    text("\u20ac" * 41 + "\U0001f600"),
    text("x" * 126),
    text("\u0000\u007f\u0080\u07ff\u0800\uffff\U00010000\U0010ffff"),
    text("mask of zeros", mask=bytes(4)),
    text("mask of ones", mask=b"\xff" * 4),
    binary(b""),
    binary(bytes(range(256))),
    binary(b"\x80" * 125),
    binary(b"x" * LIMIT),
    frame(PING),
    frame(PING, b"ping"),
    frame(PING, bytes(range(125, 250))),
    frame(PONG),
    frame(PONG, b"pong"),
    text("be", fin=False) + frame(CONT, b"gun"),
    text("be", fin=False) + frame(PING, b"between") + frame(CONT, b"", fin=False) + frame(CONT, b"gun"),
    binary(b"be", fin=False) + frame(CONT, b"gun" * 40),
    frame(TEXT, b"\xe2\x82", fin=False) + frame(CONT, b"\xac"),
    close(),
    close(1001, "gone"),
    frame(CLOSE),
]
#: What is not.
NOT_UTF_8 = [
    frame(TEXT, data)
    for data in (b"\xff", b"12345678\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"1234567\xe2\x82", b"\x80")
]
REFUSED = [data for data, _ in VIOLATIONS.values()] + NOT_UTF_8 + [binary(b"x" * (LIMIT + 1)), text("x" * (LIMIT + 1))]
SEEDS = SOUND + REFUSED
#: What the library accepts, or waits for the rest of, and we refuse as soon as it shows.
STRICTER = [
    VIOLATIONS[name][0]
    for name in (
        "ping of 126 bytes",
        "ping of 2**40 bytes",
        "fragmented ping",
        "length 125 in two bytes",
        "length 125 in eight bytes",
        "length 65,535 in eight bytes",
        "length over 2**63",
        "not UTF-8 in the first fragment",
        "not UTF-8 across fragments",
    )
]


def opened(package: Any, *, deflate: bool = False, limit: int | None = LIMIT) -> Any:
    """A WebSocket of this twin whose application has accepted it."""
    headers = (*HEADERS, DEFLATE) if deflate else HEADERS
    socket = package.wire.websocket.WebSocket(headers, max_message_size=limit)
    socket.send({"type": "websocket.accept"})
    return socket


def told(socket: Any) -> tuple[Any, ...]:
    """All that it says of itself."""
    return (
        socket.phase,
        socket.ended,
        socket.clean,
        socket.buffered,
        socket.unfinished,
        socket.sent,
        socket.disconnect(),
    )


def taken(socket: Any, pieces: list[bytes]) -> list[Any]:
    """What a WebSocket makes of a stream in these pieces, step by step."""
    steps: list[Any] = []
    for piece in pieces:
        socket.receive_data(piece)
        while (message := socket.next_message()) is not None or socket.unfinished:
            steps.append((message, told(socket)))
        steps.append((socket.data_to_send(), told(socket)))
    return steps


def summary(steps: list[Any]) -> tuple[list[Any], bytes, tuple[int, str]]:
    """The messages, all that was sent, and the close code and reason that the application is told."""
    messages = [step[0] for step in steps if isinstance(step[0], dict)]
    sent = b"".join(step[0] for step in steps if isinstance(step[0], bytes))
    end = steps[-1][1][-1]
    return (
        [next(iter(set(one.values()) - {"websocket.receive"}), "websocket.receive") for one in messages],
        sent,
        end["code"],
    )


def by_the_library(pieces: list[bytes]) -> tuple[list[Any], bytes, int]:
    """The same as the library `websockets` has it, which leaves it to its callers to decode text."""
    protocol = ServerProtocol(state=State.OPEN, max_size=LIMIT)
    messages: list[Any] = []
    sent = b""
    parts: list[bytes] = []
    kind = Opcode.BINARY
    for piece in pieces:
        if protocol.parser_exc is None and protocol.close_rcvd is None:
            protocol.receive_data(piece)
        for event in protocol.events_received():
            if event.opcode in (Opcode.TEXT, Opcode.BINARY):
                kind, parts = event.opcode, []
            if event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                parts.append(bytes(event.data))
                if event.fin:
                    data = b"".join(parts)
                    try:
                        messages.append(data.decode() if kind is Opcode.TEXT else data)
                    except UnicodeDecodeError:
                        protocol.fail(1007, "")
                        break
        sent += b"".join(protocol.data_to_send())
        if protocol.close_sent is not None:
            break
    closing = protocol.close_rcvd or protocol.close_sent
    return messages, sent, 1006 if closing is None else closing.code


def codes(sent: bytes) -> list[tuple[int, bytes]]:
    """The frames that were sent, without the words that a close frame has for people."""
    found = []
    while sent:
        size = sent[1]
        found.append((sent[0], sent[2 : 2 + size][: 2 if sent[0] == 0x80 | CLOSE else None]))
        sent = sent[2 + size :]
    return found
