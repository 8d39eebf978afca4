"""WebSockets without any network: messages in and out, the end, and frames that are refused."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given, settings, strategies as st

from cyasgi.wire import websocket as wire
from cyasgi.wire.websocket import OPEN
from cyasgi.wire.websocket.frames import FRAMES_A_CALL, MAX_FRAGMENTS
from support.websocket_violations import LIMIT, VIOLATIONS
from support.websockets_raw import (
    BINARY,
    CLOSE,
    CONT,
    DEFLATE,
    HEADERS,
    PING,
    PONG,
    TEXT,
    Deflater,
    binary,
    close,
    closed,
    frame,
    parse,
    text,
)
from support.wire_websocket import START, _twin as _twin

WebSocket, WebSocketClosed = wire.WebSocket, wire.WebSocketClosed


def receive(string):
    return {"type": "websocket.receive", "text" if isinstance(string, str) else "bytes": string}


def opened(*headers, limit=LIMIT, compression=True):
    """A WebSocket whose application has accepted it."""
    socket = WebSocket((*HEADERS, *headers), max_message_size=limit, compression=compression)
    socket.send({"type": "websocket.accept"})
    return socket


def messages(socket):
    """All that it gives now."""
    found = []
    while True:
        message = socket.next_message()
        if message is not None:
            found.append(message)
        elif not socket.unfinished:
            return found


def feed(socket, *data):
    """The messages that these chunks make, and the frames that are answered."""
    found, answers = [], []
    for chunk in data:
        socket.receive_data(chunk)
        found += messages(socket)
        answers += parse(socket.data_to_send())
    return found, answers


def three_ways(data):
    """Whole, byte by byte, and with more behind it: the chunks, and whether there is more."""
    return [data], [data[i : i + 1] for i in range(len(data))], [data + frame(PING, b"trailing")]


def both_ends(*headers, **options):
    return [opened(*headers, **options) for _ in range(3)]


def check(data, found, answers, *headers, ended=None, **options):
    """The frames give these messages and answers in each of the three ways."""
    for index, (socket, chunks) in enumerate(zip(both_ends(*headers, **options), three_ways(data), strict=True)):
        expected = answers if index < 2 or socket_ends(answers) else [*answers, (0x80 | PONG, b"trailing")]
        assert feed(socket, *chunks) == (found, expected), index
        assert socket.ended == socket_ends(answers)
        if ended is not None:
            assert socket.disconnect() == {"type": "websocket.disconnect", "code": ended[0], "reason": ended[1]}


def socket_ends(answers):
    return any(not isinstance(answer, tuple) or answer[0] == 0x80 | CLOSE for answer in answers)


# ---- messages out --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65_535, 65_536])
def test_send(length):
    """Text and bytes of each form of length come out as one frame."""
    socket = opened(limit=None)
    assert parse(socket.send({"type": "websocket.send", "text": "é" * length})) == [(0x81, "é".encode() * length)]
    assert parse(socket.send({"type": "websocket.send", "bytes": bytes(length)})) == [(0x82, bytes(length))]
    both = {"type": "websocket.send", "bytes": None, "text": "x"}
    assert parse(socket.send(both)) == [(0x81, b"x")]
    assert parse(socket.send({"type": "websocket.send", "bytes": bytearray(b"x"), "text": None})) == [(0x82, b"x")]


def test_send_compressed():
    """Where compression was negotiated, messages go out compressed."""
    socket = opened(DEFLATE)
    inflate = zlib.decompressobj(-12)
    for string in ("hello" * 50, "", "hello" * 50):
        [(first, payload)] = parse(socket.send({"type": "websocket.send", "text": string}))
        assert first == 0xC1
        assert inflate.decompress(payload + b"\0\0\xff\xff") == string.encode()


@pytest.mark.parametrize(
    ("message", "error", "says"),
    [
        (None, TypeError, "a message must be a dict, got None"),
        ({}, ValueError, "unknown type of message None: a WebSocket scope accepts websocket.accept, websocket.send"),
        ({"type": "http.response.start"}, ValueError, "unknown type of message 'http.response.start'"),
        ({"type": ["x"]}, ValueError, "unknown type of message ['x']"),
        ({"type": "websocket.accept"}, RuntimeError, "'websocket.accept' was sent when the WebSocket was open"),
        (START, RuntimeError, "was sent when the WebSocket was open"),
        (
            {"type": "websocket.send"},
            TypeError,
            "must have either 'text', a str, or 'bytes', got NoneType and NoneType",
        ),
        ({"type": "websocket.send", "text": "x", "bytes": b"x"}, TypeError, "got str and bytes"),
        ({"type": "websocket.send", "text": b"x"}, TypeError, "got bytes and NoneType"),
        ({"type": "websocket.send", "bytes": "x"}, TypeError, "got NoneType and str"),
        ({"type": "websocket.send", "text": "\ud800"}, ValueError, "surrogates not allowed"),
        ({"type": "websocket.close", "code": "1000"}, TypeError, "a close code must be an int, got '1000'"),
        (
            {"type": "websocket.close", "code": 1006},
            ValueError,
            "the close code 1006 may not be sent: accepted are 1000 to",
        ),
        ({"type": "websocket.close", "code": 999}, ValueError, "the close code 999 may not be sent"),
        ({"type": "websocket.close", "code": 5000}, ValueError, "the close code 5000 may not be sent"),
        ({"type": "websocket.close", "reason": b"x"}, TypeError, "the reason of a close must be a str, got b'x'"),
        ({"type": "websocket.close", "reason": "é" * 62}, ValueError, "may have 123 bytes, got 124"),
    ],
)
@pytest.mark.parametrize("compression", [False, True])
def test_bad_messages(message, error, says, compression):
    """A message that is malformed or out of order raises, writes nothing, and changes nothing."""
    socket = opened(DEFLATE, compression=compression)
    with pytest.raises(error) as raised:
        socket.send(message)
    assert says in str(raised.value)
    assert socket.data_to_send() == b"" and socket.phase == OPEN
    assert parse(socket.send({"type": "websocket.close"})) == [closed(1000, "")]


@pytest.mark.parametrize("kind", ["websocket.send", "websocket.http.response.body"])
def test_messages_before_accept(kind):
    with pytest.raises(RuntimeError, match="not accepted yet"):
        WebSocket(HEADERS).send({"type": kind, "text": "x"})


# ---- messages in ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [(), (DEFLATE,)])
@pytest.mark.parametrize(
    ("data", "found"),
    [
        (text("hello"), ["hello"]),
        (text(""), [""]),
        (binary(b""), [b""]),
        (binary(b"\x00\xff") + text("é"), [b"\x00\xff", "é"]),
        (text("a" * 125) + text("a" * 126) + text("a" * LIMIT), ["a" * 125, "a" * 126, "a" * LIMIT]),
        (text("hel", fin=False) + frame(CONT, b"lo"), ["hello"]),
        (text("", fin=False) + frame(CONT, b"", fin=False) + frame(CONT, b""), [""]),
        (binary(b"a", fin=False) + frame(CONT, b"b", fin=False) + frame(CONT, b"c") + binary(b"d"), [b"abc", b"d"]),
        # A character across fragments.
        (frame(TEXT, b"\xf0\x9f", fin=False) + frame(CONT, b"\x98", fin=False) + frame(CONT, b"\x80"), ["😀"]),
        (frame(PONG, b"unsolicited") + text("x"), ["x"]),
        (text("x", mask=bytes(4)), ["x"]),
    ],
)
def test_receive(headers, data, found):
    """Messages whole and in fragments, three ways."""
    check(data, list(map(receive, found)), [], *headers)


def test_large_messages():
    """A message of each length form, and of exactly the limit, in chunks of the size that a socket gives."""
    data = b"".join(binary(bytes(length)) for length in (65_535, 65_536, 200_000))
    socket = opened(limit=200_000)
    chunks = [data[start : start + 65_536] for start in range(0, len(data), 65_536)]
    found, _ = feed(socket, *chunks)
    assert [len(message["bytes"]) for message in found] == [65_535, 65_536, 200_000]
    assert socket.buffered == 0


def test_pings():
    """Each ping is answered by its payload, also between fragments, also in the closing handshake."""
    data = text("a", fin=False) + frame(PING, b"1") + frame(CONT, b"b") + frame(PING) + frame(PING, bytes(125))
    answers = [(0x8A, b"1"), (0x8A, b""), (0x8A, bytes(125))]
    check(data, [receive("ab")], answers)
    socket = opened()
    socket.send({"type": "websocket.close"})
    assert feed(socket, frame(PING, b"1") + close()) == ([], [(0x8A, b"1")])
    assert socket.ended


def test_held_pongs():
    """Of the pings that come while the client takes nothing, the latest is answered."""
    socket = opened()
    socket.hold_pongs()
    assert feed(socket, *(frame(PING, b"%d" % i) for i in range(1000))) == ([], [])
    socket.release_pongs()
    assert parse(socket.data_to_send()) == [(0x8A, b"999")]
    socket.release_pongs()
    assert socket.data_to_send() == b""
    assert feed(socket, frame(PING, b"x")) == ([], [(0x8A, b"x")])


def test_compressed():
    """Compressed messages, whole and in fragments, share one context; plain ones may come between."""
    deflate = Deflater()
    data = deflate(TEXT, b"hello" * 50) + text("plain") + deflate(TEXT, b"hel", fin=False) + deflate(CONT, b"lo")
    data += deflate(BINARY, b"hello" * 50) + deflate(TEXT, b"")
    found = ["hello" * 50, "plain", "hello", b"hello" * 50, ""]
    check(data, list(map(receive, found)), [], DEFLATE)


# ---- the end -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "answer", "code", "reason"),
    [
        (close(1000), closed(1000, ""), 1000, ""),
        (close(1001, "bye é"), closed(1001, "bye é"), 1001, "bye é"),
        (close(4999, "x" * 123), closed(4999, "x" * 123), 4999, "x" * 123),
        (frame(CLOSE), (0x88, b""), 1005, ""),
    ],
)
def test_closed_by_the_client(data, answer, code, reason):
    """The close frame is echoed; the application hears code and reason; nothing after it is looked at."""
    check(text("x") + data, [receive("x")], [answer], ended=(code, reason))
    socket = opened()
    feed(socket, data)
    for kind in ("websocket.send", "websocket.close", "websocket.accept"):
        with pytest.raises(WebSocketClosed, match="was closed"):
            socket.send({"type": kind, "text": "x"})
    assert feed(socket, text("late"), b"\xff" * 50) == ([], [])


def test_closed_by_the_application():
    """Our close frame goes out; what still comes is dropped, until the client's answer."""
    socket = opened()
    sent = socket.send({"type": "websocket.close", "code": 3000, "reason": "done"})
    assert parse(sent) == [closed(3000, "done")]
    with pytest.raises(WebSocketClosed, match="closing"):
        socket.send({"type": "websocket.send", "text": "x"})
    assert feed(socket, text("late"), text("la", fin=False) + frame(CONT, b"te")) == ([], [])
    assert not socket.ended
    assert feed(socket, close(3001, "ok")) == ([], [])
    assert socket.ended
    assert socket.disconnect() == {"type": "websocket.disconnect", "code": 3001, "reason": "ok"}


def test_closed_within_a_fragmented_message():
    """The rest of it is dropped, compressed or not, and the client's close frame still counts."""
    deflate = Deflater()
    socket = opened(DEFLATE)
    feed(socket, deflate(TEXT, b"hel", fin=False))
    socket.send({"type": "websocket.close"})
    deflate(TEXT, b"lost")
    rest = frame(CONT, b"\xff", fin=False) + frame(CONT, b"\xff") + deflate(TEXT, b"hel", fin=False) + close(1000)
    assert feed(socket, rest) == ([], [])
    assert socket.disconnect()["code"] == 1000


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("payload", [b"", b"\x03\xe8bye"])
def test_closed_by_the_client_within_a_fragmented_message(opcode, payload):
    """Control frames may stand between fragments (RFC 6455 section 5.4); the message is dropped."""
    data = frame(opcode, b"hel", fin=False) + frame(PING, b"?") + frame(CLOSE, payload) + frame(CONT, b"lo")
    end = (1000, "bye") if payload else (1005, "")
    deflated = Deflater()(opcode, b"hel", fin=False) + data[9:]
    for form in (data, deflated):
        check(form, [], [(0x80 | PONG, b"?"), (0x80 | CLOSE, payload)], DEFLATE, ended=end)


@pytest.mark.parametrize("prefix", [b"", text("x", fin=False), text("whole frame")[:7]])
def test_lost(prefix):
    """The end of the stream without a close frame is 1006."""
    socket = opened()
    feed(socket, prefix)
    socket.receive_eof()
    assert socket.ended and socket.data_to_send() == b""
    assert socket.disconnect() == {"type": "websocket.disconnect", "code": 1006, "reason": ""}
    with pytest.raises(WebSocketClosed):
        socket.send({"type": "websocket.send", "text": "x"})


@pytest.mark.parametrize(
    ("before", "answer"),
    [([{"type": "websocket.accept"}], [closed(1012, "restart")]), ([], b"HTTP/1.1 503 "), ([START], b"HTTP/1.1 503 ")],
)
def test_stopped_by_the_server(before, answer):
    """The server ends an open WebSocket by a close frame, and refuses one that waits."""
    socket = WebSocket(HEADERS)
    for message in before:
        socket.send(message)
    assert socket.stop(1012, "restart", status=503)
    data = socket.data_to_send()
    assert data.startswith(answer) if isinstance(answer, bytes) else parse(data) == answer
    assert not socket.stop(1012) and socket.data_to_send() == b""
    with pytest.raises(WebSocketClosed):
        socket.send({"type": "websocket.send", "text": "x"})
    socket.ping()
    assert socket.data_to_send() == b""


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VIOLATIONS)
def test_violations(name):
    """Each is answered with a close frame and the end of the connection, as soon as it can be told."""
    data, code = VIOLATIONS[name]
    check(text("before") + data, [receive("before")], [closed(code)])
    if name != "reserved bit 1":  # which says compressed, where compression was negotiated
        check(text("before") + data, [receive("before")], [closed(code)], DEFLATE)
    socket = opened()
    feed(socket, data, text("after"))
    message = socket.disconnect()
    assert message["code"] == code and isinstance(message["reason"], str)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(TEXT, b"\xff\xff\xff\xff", rsv=4), 1002),
        (Deflater()(TEXT, b"a" * (LIMIT + 1)), 1009),
        (Deflater()(TEXT, bytes(10_000_000)), 1009),
        (Deflater()(TEXT, b"\xff" * 500), 1007),
        (frame(CONT, b"x", rsv=4), 1002),
    ],
)
def test_compressed_violations(data, code):
    check(data, [], [closed(code)], DEFLATE)


def test_compression_bomb_in_fragments():
    """The limit is that of the message, whatever its fragments inflate to."""
    deflate = Deflater()
    socket = opened(DEFLATE)
    found, answers = feed(socket, deflate(TEXT, bytes(LIMIT), fin=False), deflate(CONT, bytes(LIMIT)))
    assert (found, answers) == ([], [closed(1009)])


@pytest.mark.parametrize("data", [text("x", mask=b""), frame(CLOSE, b"\3"), frame(CLOSE, b"\3\xe8\xff"), close(1005)])
def test_violation_in_the_closing_handshake(data):
    """It ends the wait for the client's close frame; no second one is sent."""
    socket = opened()
    socket.send({"type": "websocket.close"})
    assert feed(socket, data) == ([], [])
    assert socket.ended
    assert socket.disconnect()["code"] == 1006


@pytest.mark.slow
def test_fragments_are_counted():
    """A message may come in so many fragments, whatever is in them, and no more."""
    fragment = frame(CONT, b"", fin=False)
    socket = opened()
    assert feed(socket, text("a", fin=False) + fragment * (MAX_FRAGMENTS - 2) + frame(CONT, b"b")) == (
        [receive("ab")],
        [],
    )
    found, answers = feed(socket, text("a", fin=False) + fragment * MAX_FRAGMENTS)
    assert (found, answers) == ([], [closed(1008, "more than 16384 small fragments")])


@pytest.mark.slow
@pytest.mark.parametrize("limit", [None, 4_194_304])
@pytest.mark.parametrize("first", [0, 64 * MAX_FRAGMENTS])
def test_fragments_that_are_not_small_are_not_counted(first, limit):
    """A long message may come in as many as have 64 bytes each, and then in so many that are empty."""
    beginning = text("a" * first, fin=False) + frame(CONT, b"a" * 64, fin=False) * (2 * MAX_FRAGMENTS)
    empty = frame(CONT, b"", fin=False) * (MAX_FRAGMENTS + first // 64 - 1)
    socket = opened(limit=limit)
    [found], answers = feed(socket, beginning + empty + frame(CONT, b"b" * 64))
    assert (found["text"], answers) == ("a" * (first + 128 * MAX_FRAGMENTS) + "b" * 64, [])
    found, answers = feed(socket, beginning + empty + frame(CONT, b"", fin=False))
    assert (found, answers) == ([], [closed(1008, "more than 16384 small fragments")])


def test_a_call_is_bounded():
    """However many frames came, one call looks at a few and says that there is more."""
    socket = opened()
    socket.receive_data(frame(PING) * (FRAMES_A_CALL + 1) + text("x"))
    assert socket.next_message() is None and socket.unfinished
    assert len(parse(socket.data_to_send())) == FRAMES_A_CALL
    assert socket.next_message() == receive("x")
    assert len(parse(socket.data_to_send())) == 1
    assert socket.next_message() is None and not socket.unfinished


@pytest.mark.slow
def test_messages_are_made_when_they_are_asked_for():
    """A chunk that holds a hundred compressed messages is inflated one message at a time."""
    deflate = Deflater()
    socket = opened(DEFLATE, limit=1_000_000)
    chunk = b"".join(deflate(BINARY, bytes(1_000_000)) for _ in range(100))
    socket.receive_data(chunk)
    assert socket.next_message() == receive(bytes(1_000_000))
    assert len(chunk) - 2000 < socket.buffered < len(chunk)


# ---- anything at all -----------------------------------------------------------------------------------------------


opcodes = st.sampled_from((CONT, TEXT, BINARY, CLOSE, PING, PONG))
frames = st.builds(
    frame,
    st.one_of(opcodes, opcodes, st.integers(0, 15)),
    st.binary(max_size=130),
    fin=st.booleans(),
    rsv=st.sampled_from((0, 0, 0, 0, 4, 4, 2, 1)),
    mask=st.sampled_from((b"\1\2\3\4", b"\0\0\0\0", b"\1\2\3\4", b"")),
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    data=st.lists(st.one_of(frames, frames, st.binary(max_size=20))).map(b"".join),
    cuts=st.data(),
    deflate=st.booleans(),
)
def test_anything(data, cuts, deflate):
    """Any bytes make messages or end the connection with a documented code, the same however they are cut."""
    headers = [DEFLATE] * deflate
    whole, cut = opened(*headers, limit=200), opened(*headers, limit=200)
    places = sorted(cuts.draw(st.sets(st.integers(0, len(data)), max_size=8)))
    chunks = [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]
    found = feed(whole, data)
    assert feed(cut, *chunks) == found
    assert whole.ended == cut.ended
    assert (whole.disconnect(), whole.buffered) == (cut.disconnect(), cut.buffered)
    if whole.ended:
        code = whole.disconnect()["code"]
        assert code in (1005, 1002, 1007, 1009) or 1000 <= code <= 1014 or 3000 <= code <= 4999
        assert found[1][-1][0] == 0x88
    else:
        assert whole.buffered <= 14 + 200
    for message in found[0]:
        assert message["type"] == "websocket.receive" and len(message) == 2
        assert len(message.get("text", "").encode() or message.get("bytes", b"")) <= 200
