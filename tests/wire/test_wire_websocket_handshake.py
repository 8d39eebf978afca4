"""The handshake of a WebSocket, without any network: accepted, refused, or answered by another response."""

from __future__ import annotations

import pytest

from cyasgi.wire import websocket as wire
from cyasgi.wire.websocket import CLOSED, CONNECTING, OPEN
from support.websockets_raw import (
    ACCEPT,
    HEADERS,
    text,
)
from support.wire_websocket import START, _twin as _twin

WebSocket, WebSocketClosed = wire.WebSocket, wire.WebSocketClosed


@pytest.mark.slow
def test_accept():
    """The answer to a handshake is RFC 6455's, with the application's headers and the chosen subprotocol."""
    socket = WebSocket((*HEADERS, (b"sec-websocket-protocol", b"chat, superchat"), (b"sec-websocket-protocol", b"x")))
    assert socket.phase == CONNECTING
    assert socket.subprotocols == ["chat", "superchat", "x"]
    answer = socket.send(
        {"type": "websocket.accept", "subprotocol": "superchat", "headers": [(b"x-a", b"1"), [b"x-a", b"\xe9"]]}
    )
    head, *lines = answer.split(b"\r\n")
    assert head == b"HTTP/1.1 101 Switching Protocols"
    assert lines[-2:] == [b"", b""]
    assert sorted(lines[:-2]) == [
        b"connection: Upgrade",
        b"sec-websocket-accept: " + ACCEPT,
        b"sec-websocket-protocol: superchat",
        b"upgrade: websocket",
        b"x-a: 1",
        b"x-a: \xe9",
    ]
    assert socket.phase == OPEN and not socket.ended


@pytest.mark.parametrize(
    ("headers", "status", "more"),
    [
        ([(b"sec-websocket-key", None)], 400, b""),
        ([(b"sec-websocket-key", b"short")], 400, b""),
        ([(b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=!")], 400, b""),
        ([(b"sec-websocket-key", b"dGhlIHNhbXBsZQ==")], 400, b""),
        (
            [(b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="), (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ==")],
            400,
            b"",
        ),
        ([(b"sec-websocket-version", None)], 426, b"sec-websocket-version: 13\r\n"),
        ([(b"sec-websocket-version", b"8")], 426, b"sec-websocket-version: 13\r\n"),
        ([(b"sec-websocket-version", b"13"), (b"sec-websocket-version", b"13")], 426, b"sec-websocket-version: 13\r\n"),
        ([(b"upgrade", b"h2c")], 426, b""),
        ([(b"connection", b"keep-alive")], 426, b""),
        ([(b"sec-websocket-protocol", b"a b")], 400, b""),
        ([(b"sec-websocket-extensions", b";")], 400, b""),
    ],
)
def test_bad_handshakes(headers, status, more):
    """A request that is no handshake is answered at once, and nothing after it is read."""
    names = {name for name, _ in headers}
    request = [header for header in HEADERS if header[0] not in names]
    socket = WebSocket([*request, *(header for header in headers if header[1] is not None)])
    answer = socket.data_to_send()
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert more in answer and b"\r\nconnection: close\r\n" in answer
    assert socket.ended and socket.phase == CLOSED
    socket.receive_data(text("x"))
    assert socket.next_message() is None
    with pytest.raises(WebSocketClosed):
        socket.send({"type": "websocket.accept"})


@pytest.mark.parametrize(
    ("offer", "compression", "answer"),
    [
        (b"permessage-deflate", True, b"permessage-deflate; server_max_window_bits=12"),
        (
            b"permessage-deflate; client_max_window_bits",
            True,
            b"permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
        ),
        (
            b"permessage-deflate; server_no_context_takeover",
            True,
            b"permessage-deflate; server_no_context_takeover; server_max_window_bits=12",
        ),
        (b"permessage-deflate; unknown=1", True, None),
        (b"x-webkit-deflate-frame, permessage-deflate", True, b"permessage-deflate; server_max_window_bits=12"),
        (b"x-unknown", True, None),
        (b"permessage-deflate", False, None),
    ],
)
def test_negotiation_of_compression(offer, compression, answer):
    """permessage-deflate is accepted from who offers it, unless it is switched off; other extensions never."""
    socket = WebSocket((*HEADERS, (b"sec-websocket-extensions", offer)), compression=compression)
    head = socket.send({"type": "websocket.accept"})
    expected = [] if answer is None else [b"sec-websocket-extensions: " + answer]
    assert [line for line in head.split(b"\r\n") if line.startswith(b"sec-websocket-ext")] == expected


BAD_ACCEPTS = [
    ({"subprotocol": 7}, TypeError, "'subprotocol' of a 'websocket.accept' message must be a str or None, got 7"),
    ({"subprotocol": "chat"}, ValueError, "subprotocol='chat': accepted is None or what the client offered, []"),
    ({"headers": [("x", "y")]}, TypeError, "the name of a response header must be bytes, got 'x'"),
    ({"headers": [(b"x", "y")]}, TypeError, "the value of the response header b'x' must be bytes, got 'y'"),
    ({"headers": [(b"x", b"y", b"z")]}, ValueError, "too many values"),
    ({"headers": [(b"x y", b"")]}, ValueError, "b'x y' is not the name of a header"),
    ({"headers": [(b"", b"")]}, ValueError, "b'' is not the name of a header"),
    ({"headers": [(b"x\r\ny", b"")]}, ValueError, "is not the name of a header"),
    ({"headers": [(b"x", b"a\r\nset-cookie: b")]}, ValueError, "contains CR, LF or NUL"),
    ({"headers": [(b"x", b"a\n")]}, ValueError, "contains CR, LF or NUL"),
    ({"headers": [(b"x", b"a\0")]}, ValueError, "contains CR, LF or NUL"),
    (
        {"headers": [(b"Upgrade", b"h2c")]},
        ValueError,
        "the header b'Upgrade' of a 'websocket.accept' message is set by the server",
    ),
    ({"headers": [(b"sec-websocket-protocol", b"a")]}, ValueError, "is set by the server"),
    ({"headers": [(b"transfer-encoding", b"chunked")]}, ValueError, "is set by the server"),
    ({"headers": [(b"content-length", b"5")]}, ValueError, "is set by the server"),
]


@pytest.mark.parametrize(("fields", "error", "says"), BAD_ACCEPTS)
def test_bad_accepts(fields, error, says):
    """An accept that cannot be written as it is raises, writes nothing, and may be mended."""
    socket = WebSocket(HEADERS)
    with pytest.raises(error) as raised:
        socket.send({"type": "websocket.accept", **fields})
    assert says in str(raised.value)
    assert socket.data_to_send() == b"" and socket.phase == CONNECTING
    assert socket.send({"type": "websocket.accept"}).startswith(b"HTTP/1.1 101 ")


def test_the_servers_own_header_lines():
    """They are part of every response, unless the application gives its own."""
    fields = b"\r\ndate: today\r\nserver: cyasgi"
    for headers, lines in (
        ([], [b"date: today", b"server: cyasgi"]),
        ([(b"Date", b"now")], [b"server: cyasgi", b"date: now"]),
        ([(b"server", b"mine"), (b"x-date", b"x")], [b"date: today", b"x-date: x", b"server: mine"]),
    ):
        socket = WebSocket(HEADERS, fields=fields)
        answer = socket.send({"type": "websocket.accept", "headers": headers}).split(b"\r\n")
        assert [line for line in answer if line.split(b":")[0] in (b"date", b"server", b"x-date")] == lines
        socket = WebSocket(HEADERS, fields=fields)
        socket.send({**START, "headers": headers})
        assert socket.send(BODY).split(b"\r\n")[1:-4] == [*lines[: len(lines)]]
    for socket in (
        WebSocket((), fields=fields),
        WebSocket(HEADERS[:-2], fields=fields),
        WebSocket(HEADERS, fields=fields),
    ):
        socket.stop(1011)
        assert socket.data_to_send().split(b"\r\n")[1:3] == [b"date: today", b"server: cyasgi"]


def test_close_before_accept():
    """It refuses with 403."""
    socket = WebSocket(HEADERS)
    answer = socket.send({"type": "websocket.close", "code": 4000, "reason": "no"})
    assert answer.startswith(b"HTTP/1.1 403 Forbidden\r\n") and answer.endswith(b"\r\n\r\nthe WebSocket was refused\n")
    assert socket.ended
    assert socket.disconnect() == {"type": "websocket.disconnect", "code": 1006, "reason": ""}


BODY = {"type": "websocket.http.response.body"}


@pytest.mark.parametrize(
    ("bodies", "length", "body"),
    [
        ([{"body": b"go away"}], [b"content-length: 7"], b"go away"),
        ([{}], [b"content-length: 0"], b""),
        ([{"body": b"go ", "more_body": True}, {"body": b"away"}], [], b"go away"),
        ([{"more_body": True}, {"body": b"x", "more_body": True}, {}], [], b"x"),
    ],
)
def test_response_instead_of_accept(bodies, length, body):
    """The extension: any response may refuse; the connection is closed after it."""
    socket = WebSocket(HEADERS)
    assert socket.send(START) == b""
    written = b""
    for index, fields in enumerate(bodies):
        assert not socket.ended
        written += socket.send({**BODY, **fields})
        assert socket.ended == (index == len(bodies) - 1)
    head, _, rest = written.partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [b"HTTP/1.1 401 Unauthorized", b"x-a: b", *length, b"connection: close"]
    assert rest == body
    with pytest.raises(WebSocketClosed):
        socket.send(BODY)


@pytest.mark.parametrize(
    ("start", "body", "error"),
    [
        ({"status": "401"}, None, TypeError),
        ({"status": True}, None, TypeError),
        ({"status": None}, None, TypeError),
        ({"status": 101}, None, ValueError),
        ({"status": 600}, None, ValueError),
        ({"headers": [(b"x", b"\r\n")]}, None, ValueError),
        ({"headers": [(b"content-length", b"3")]}, {"body": b"four"}, ValueError),
        ({"headers": [(b"content-length", b"+3")]}, {"body": b"abc"}, ValueError),
        ({"headers": [(b"content-length", b"3"), (b"content-length", b"4")]}, {"body": b"abc"}, ValueError),
        ({"status": 204, "headers": []}, {"body": b"x"}, ValueError),
        ({}, {"body": "text"}, TypeError),
    ],
)
def test_bad_responses(start, body, error):
    """A response that cannot be written as it is raises and writes nothing."""
    socket = WebSocket(HEADERS)

    def respond():
        socket.send({**START, **start})
        socket.send({**BODY, **body})

    with pytest.raises(error):
        respond()
    assert socket.data_to_send() == b""
    assert socket.stop(1011) and socket.data_to_send().startswith(b"HTTP/1.1 500 ")


def test_a_response_without_body_and_one_of_given_length():
    socket = WebSocket(HEADERS)
    socket.send({**START, "status": 204, "headers": []})
    assert socket.send(BODY) == b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"
    socket = WebSocket(HEADERS)
    socket.send({**START, "status": 599, "headers": [(b"content-length", b"5")]})
    first = socket.send({**BODY, "body": b"abc", "more_body": True})
    assert first == b"HTTP/1.1 599 \r\ncontent-length: 5\r\nconnection: close\r\n\r\nabc"
    with pytest.raises(ValueError, match="longer than its content-length, by 1"):
        socket.send({**BODY, "body": b"def"})
    assert socket.send({**BODY, "body": b"de"}) == b"de"
