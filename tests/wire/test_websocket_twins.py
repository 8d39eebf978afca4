"""The twins of the usual course of frames, side by side and beside the library `websockets`, the authority for both."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings, strategies as st
from websockets.client import ClientProtocol
from websockets.protocol import State
from websockets.uri import parse_uri

from support.websocket_twins import (
    REFUSED,
    SEEDS,
    SOUND,
    STRICTER,
    by_the_library,
    codes,
    opened,
    summary,
    taken,
    told,
)
from support.websockets_raw import BINARY, CLOSE, CONT, PING, TEXT, Deflater, binary, close, frame, text


def compare(twins, pieces, **options):
    """Read with both; return what was found."""
    pure, compiled = (taken(opened(package, **options), pieces) for package in twins)
    assert pure == compiled
    return pure


def cut(chance, data):
    """The data in some pieces."""
    edges = sorted({0, len(data), *(chance.randrange(len(data) + 1) for _ in range(chance.choice((0, 1, 2, 9))))})
    return [data[begin:end] for begin, end in itertools.pairwise(edges)] or [b""]


def corrupted(chance, data):
    """The data with some bytes changed, most of them where frames begin."""
    changed = bytearray(data)
    for _ in range(chance.choice((0, 1, 1, 2, 5))):
        if changed:
            at = chance.randrange(len(changed)) if chance.random() < 0.5 else chance.randrange(min(4, len(changed)))
            changed[at] = chance.choice((chance.randrange(256), changed[at] ^ 1 << chance.randrange(8)))
    return bytes(changed)


def test_every_cut(twins):
    """Every case, cut in two at every byte near its ends."""
    for data in SEEDS:
        whole = summary(compare(twins, [data]))
        for at in range(1, len(data)):
            if at < 20 or at > len(data) - 5 or not at % 97:
                assert summary(compare(twins, [data[:at], data[at:]])) == whole


@pytest.mark.slow
class _Bytes(bytes):
    """Bytes of a class of their own."""


@pytest.mark.parametrize("kind", [bytearray, memoryview, _Bytes])
def test_other_kinds_of_bytes(twins, kind):
    """They are read as bytes are, alone and behind a piece that is incomplete."""
    for data in SEEDS:
        for at in (0, 1, len(data) // 2):
            pieces = [piece for piece in (data[:at], data[at:]) if piece]
            assert compare(twins, [kind(piece) for piece in pieces]) == compare(twins, pieces)


def test_byte_by_byte(twins):
    for data in SEEDS:
        if len(data) < 300:
            compare(twins, [data[at : at + 1] for at in range(len(data))])


@pytest.mark.slow
def test_pairs(twins):
    """One case behind the other, in one piece and in two."""
    for one, other in itertools.product(SEEDS, repeat=2):
        assert summary(compare(twins, [one + other])) == summary(compare(twins, [one, other]))


@pytest.mark.slow
@pytest.mark.parametrize("deflate", [False, True], ids=["plain", "deflate"])
@pytest.mark.parametrize("limit", [1000, 64, None])
def test_corrupted_streams(twins, deflate, limit):
    """Streams of frames with changes, however they are cut."""
    compress = Deflater()
    more = [compress(TEXT, b"some text") + compress(BINARY, b"data" * 9)] if deflate else []

    @settings(max_examples=300, deadline=None)
    @given(st.integers(0, 2**32).map(random.Random))
    def check(chance):
        stream = b"".join(corrupted(chance, chance.choice(SEEDS + more)) for _ in range(chance.randrange(1, 9)))
        compare(twins, cut(chance, stream), deflate=deflate, limit=limit)

    check()


def by_twin(steps):
    messages, sent, code = summary(steps)
    return messages, codes(sent), code


def by_library(pieces):
    messages, sent, code = by_the_library(pieces)
    return messages, codes(sent), code


@pytest.mark.slow
def test_library(cy):
    """The same messages, answers and close code as the library has, on every pair of cases."""
    alike = [data for data in SEEDS if data not in STRICTER]
    for one, other in itertools.product(alike, repeat=2):
        if one not in REFUSED or other == alike[0]:
            assert by_twin(taken(opened(cy), [one + other])) == by_library([one + other])


@pytest.mark.parametrize("data", STRICTER, ids=range(len(STRICTER)))
def test_stricter_than_the_library(cy, data):
    """What the library waits with, or lets pass, is refused at its head."""
    messages, sent, code = by_twin(taken(opened(cy), [data]))
    assert not messages
    assert code in (1002, 1007)
    assert [first for first, _ in sent] == [0x88]


@pytest.mark.slow
def test_library_at_random(cy):
    """On corrupted streams nothing is received that the library does not give, and nothing is missed silently."""

    @settings(max_examples=400, deadline=None)
    @given(st.integers(0, 2**32).map(random.Random))
    def check(chance):
        stream = b"".join(corrupted(chance, chance.choice(SOUND)) for _ in range(chance.randrange(1, 9)))
        found, expected = by_twin(taken(opened(cy), cut(chance, stream))), by_library([stream])
        if found != expected:
            # The library answers a close frame within a message, which RFC 6455 section 5.4 allows, with 1002.
            refused = expected[1][-1:] == [(0x80 | CLOSE, b"\x03\xea")]
            assert found[2] in (1002, 1007, 1008, 1009) or refused
            assert found[0] == expected[0][: len(found[0])]

    check()


class Text(str):
    __slots__ = ()


class Data(bytes):
    __slots__ = ()


class Message(dict):
    pass


PAYLOADS = [
    *(
        "",
        "a",
        "x" * 125,
        "x" * 126,
        "\u20ac" * 42,
        "x" * 65_535,
        "x" * 65_536,
        "gr\u00fc\u00df",
        "\U0001f600",
        "\ud800",
    ),
    *(b"", b"a", bytes(125), bytes(126), bytes(65_535), bytes(65_536)),
    *(Text("a"), Data(b"a"), bytearray(b"a"), memoryview(b"ab")[::2], None, 1, ["a"]),
]
MESSAGES = [
    *({"type": "websocket.send", key: payload} for key in ("text", "bytes") for payload in PAYLOADS),
    *({"type": "websocket.send", "text": one, "bytes": other} for one in ("a", None) for other in (b"b", None)),
    *(
        Message(type="websocket.send", text="a"),
        {"type": Text("websocket.send"), "text": "a"},
        {},
        {"type": 1},
        None,
        1,
    ),
    *(
        {"type": "websocket.sen"},
        {"type": "websocket.send"},
        {"type": "websocket.accept"},
        {"type": "http.response.body"},
    ),
]


def sent(socket, message):
    """What is sent for a message, or the error."""
    try:
        return socket.send(message)
    except Exception as error:
        return type(error).__name__, str(error)


@pytest.mark.parametrize("deflate", [False, True], ids=["plain", "deflate"])
def test_sending(twins, deflate):
    """The same bytes or the same error, before, while and after the WebSocket is open."""
    pure, compiled = (opened(package, deflate=deflate) for package in twins)
    for message in MESSAGES:
        assert sent(pure, message) == sent(compiled, message), message
        assert told(pure) == told(compiled)
    for socket in (pure, compiled):
        socket.receive_data(close())
        assert socket.next_message() is None
    for message in MESSAGES:
        assert sent(pure, message) == sent(compiled, message), message


def test_library_reads_what_is_sent(cy):
    """The frames of messages, as a client has them."""
    client = ClientProtocol(parse_uri("ws://localhost/"), state=State.OPEN, max_size=None)
    socket = opened(cy)
    for payload in PAYLOADS:
        if type(payload) in (str, bytes) and payload != "\ud800":
            client.receive_data(
                socket.send({"type": "websocket.send", "text" if isinstance(payload, str) else "bytes": payload})
            )
            (event,) = client.events_received()
            assert event.fin
            assert event.opcode == (TEXT if isinstance(payload, str) else BINARY)
            assert bytes(event.data) == (payload.encode() if isinstance(payload, str) else payload)


def test_many_pings(twins):
    """A call reads so many frames that complete no message, and no more: with one that is unusual among them, too."""
    for stream in (frame(PING) * 300, frame(PING) * 200 + text("a", fin=False) + frame(PING) * 300 + frame(CONT, b"b")):
        compare(twins, [stream + text("x")])


def test_held_pongs(twins):
    """While pongs are held back, the latest ping is answered later."""
    found = []
    for package in twins:
        socket = opened(package)
        socket.hold_pongs()
        steps = taken(socket, [frame(PING, b"one") + text("a") + frame(PING, bytes(range(20)))])
        socket.release_pongs()
        found.append((steps, socket.data_to_send(), told(socket)))
    assert found[0] == found[1]


def test_everything_of_a_large_message(twins):
    """Masks and lengths of all kinds, of any alignment, are taken off alike."""
    chance = random.Random(1)
    for size in (*range(40), 125, 126, 127, 1000, 65_535, 65_536, 70_001):
        data = chance.randbytes(size)
        mask = chance.randbytes(4)
        steps = compare(twins, [binary(data, mask=mask)], limit=None)
        assert summary(steps)[0] == [data]
        ascii_ = bytes(byte & 0x7F for byte in data)
        assert summary(compare(twins, [frame(TEXT, ascii_, mask=mask)], limit=None))[0] == [ascii_.decode()]
