"""Framings: what they take off on the way in they put on on the way out; they are bounded, and any bytes are taken."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from cyasgi.wire.stream import NAMES, Framing, FramingError, framing_named

MAX = 300
BYTES = [name.replace("N", width) for name in NAMES if name != "resp" for width in ("1", "2", "4", "8")]
EACH = sorted(set(BYTES))


def split(data, cuts):
    """The data in pieces that end at these places."""
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[begin:end] for begin, end in zip([0, *places], [*places, len(data)], strict=True)]


def decoded(framing, pieces):
    """All messages in these pieces."""
    found = []
    for piece in pieces:
        if piece:
            framing.receive_data(piece)
        while (message := framing.next_message()) is not None:
            found.append(message)
    return found


@pytest.mark.parametrize("name", EACH)
@given(
    messages=st.lists(st.binary(max_size=MAX) | st.text("ab\0\n\r,:5").map(str.encode)), cuts=st.lists(st.integers(0))
)
def test_round_trip(name, messages, cuts):
    """What is sent is received, however it is cut; what cannot be framed is refused."""
    make = framing_named(name)
    sent, wire = [], b""
    for message in messages:
        try:
            wire += make(MAX).encode(message)
        except ValueError:
            assert name.startswith(("lines", "length:1"))
            continue
        sent.append(message)
    framing = make(MAX)
    found = decoded(framing, split(wire, cuts))
    if name == "raw":
        found, sent = [b"".join(found)], [b"".join(sent)]
    assert found == sent
    assert framing.buffered == 0


@pytest.mark.parametrize("name", [*EACH, "resp"])
@given(
    wire=st.binary(max_size=2000) | st.text("0123456789:,*$\r\n\0a", max_size=400).map(str.encode),
    cuts=st.lists(st.integers(0)),
)
def test_any_bytes(name, wire, cuts):
    """Any bytes are messages or a FramingError, the same however they are cut; no more is held than a message needs."""
    outcomes = []
    for pieces in (split(wire, cuts), [wire[at : at + 1] for at in range(len(wire))]):
        framing, found, end = framing_named(name)(MAX), [], ""
        try:
            for piece in pieces:
                if piece:
                    framing.receive_data(piece)
                while (message := framing.next_message()) is not None:
                    found.append(message)
                    size = len(message) if isinstance(message, bytes) else sum(map(len, message))
                    assert size <= MAX
                # A message, and its frame.
                assert framing.buffered <= MAX + 32
        except FramingError as error:
            end = str(error)
        outcomes.append((b"".join(found) if name == "raw" else found, bool(end)))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(
    ("name", "wire"),
    [
        ("lines", b"x" * (MAX + 2)),
        ("lines", b"x" * (MAX + 1) + b"\n"),
        ("length:2", b"\1\x2d"),
        ("length:4:little", b"\x2d\1\0\0"),
        ("netstring", b"301:"),
        ("netstring", b"9999"),
        ("netstring", b"00:,"),
        ("netstring", b"01:a,"),
        ("netstring", b":"),
        ("netstring", b"-1:"),
        ("netstring", b"1:ab"),
        ("cobs", b"\5abc\0"),
        ("cobs", b"\1" * 400),
        ("cobs", b"\1" * 302 + b"\0"),
        ("resp", b"*1\r\n$-1\r\n"),
        ("resp", b"*301\r\n"),
        ("resp", b"*1\r\n$301\r\n"),
        ("resp", b"*x\r\n"),
        ("resp", b"*" + b"1" * 40),
        ("resp", b"*1\r\n:1\r\n"),
        ("resp", b"*1\r\n$1\r\nabc"),
        ("resp", b"PING" * 100),
    ],
)
def test_refused(name, wire):
    framing = framing_named(name)(MAX)
    framing.receive_data(wire)
    with pytest.raises(FramingError):
        framing.next_message()


def test_longest_messages():
    """A message of exactly the longest size is one, with either line end."""
    data = b"x" * MAX
    for name in EACH:
        if name.startswith(("length:1", "raw")):
            continue
        framing = framing_named(name)(MAX)
        assert decoded(framing, [framing.encode(data)]) == [data], name
    assert decoded(framing_named("lines")(MAX), [data + b"\r\n" + data + b"\n"]) == [data, data]


def test_raw_is_cut_at_the_longest_message():
    assert decoded(framing_named("raw")(4), [b"abcdefghi"]) == [b"abcd", b"efgh", b"i"]


@pytest.mark.parametrize("data", [b"a\nb", b"a\r", b"\n", "text", 1, None, bytearray(b"a")])
def test_what_is_no_line(data):
    with pytest.raises((TypeError, ValueError), match=r"'data' of a 'stream\.send' message must be"):
        framing_named("lines")(MAX).encode(data)


@pytest.mark.parametrize(
    "name", ["", "line", "length", "length:", "length:0", "length:5", "length:4:", "length:4:x", "x:y"]
)
def test_unknown_names(name):
    assert framing_named(name) is None


def test_commands_of_redis():
    """Commands come as arrays or inline; replies are of every type."""
    framing = framing_named("resp")(MAX)
    wire = b"\r\n*2\r\n$4\r\nECHO\r\n$4\r\na\r\nb\r\nPING  x\r\n*0\r\n*-1\r\nQUIT\n*1\r\n$0\r\n\r\n"
    expected = [[b"ECHO", b"a\r\nb"], [b"PING", b"x"], [], [], [b"QUIT"], [b""]]
    assert decoded(framing, [wire]) == expected
    assert decoded(framing, [wire[at : at + 1] for at in range(len(wire))]) == expected
    reply = [b"a", "OK", 1, None, ValueError("ERR no\r\nway"), [], (b"", [2])]
    assert framing.encode(reply) == (
        b"*7\r\n$1\r\na\r\n+OK\r\n:1\r\n$-1\r\n-ERR no  way\r\n*0\r\n*2\r\n$0\r\n\r\n*1\r\n:2\r\n"
    )
    with pytest.raises(TypeError, match=r"must be a reply: .* got 1\.5"):
        framing.encode([1.5])


def test_what_is_forgotten():
    """A framing that is cleared gives back the beginning of a message."""
    framing = framing_named("lines")(MAX)
    framing.receive_data(b"one\ntwo")
    assert framing.next_message() == b"one"
    assert framing.next_message() is None
    assert framing.clear() == b"two"
    assert framing.buffered == 0


def test_a_command_that_is_forgotten():
    """Its beginning is given back with the arguments that were taken, up to the longest message."""
    wire = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$5\r\nhel"
    for size in range(1, len(wire)):
        framing = framing_named("resp")(MAX)
        framing.receive_data(wire[:size])
        assert framing.next_message() is None
        assert framing.clear() == wire[:size]
    framing = framing_named("resp")(20)
    framing.receive_data(b"*3\r\n$3\r\nSET\r\n$1\r\n")
    assert framing.next_message() is None
    assert framing.clear() == b"*3\r\n$3\r\nSET\r\n$1\r\n"[:20]


def test_one_of_ones_own():
    """The base class keeps what has come, also when much of it was taken."""

    class Fixed(Framing):
        def next_message(self):
            return self.take(3) if self.buffered >= 3 else None

    framing = Fixed(3)
    wire = bytes(range(256)) * 1000
    found = decoded(framing, [wire[at : at + 70_001] for at in range(0, len(wire), 70_001)])
    assert b"".join(found) == wire[: len(wire) // 3 * 3]
    with pytest.raises(NotImplementedError):
        framing.encode(b"")
    with pytest.raises(NotImplementedError):
        Framing(1).next_message()
