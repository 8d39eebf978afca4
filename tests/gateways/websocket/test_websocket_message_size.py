"""`max_websocket_message_size` counts the bytes of a message after decompression, however the message comes."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from cyasgi.wire.websocket import frames as wire
from cyasgi.wire.websocket.frames import CLOSED, OPEN

LIMIT = 1000

Frames = wire.Frames


@pytest.fixture(autouse=True)
def _twin(cy, monkeypatch):
    """Each test runs on both twins."""
    monkeypatch.setitem(globals(), "Frames", cy.wire.websocket.frames.Frames)


def deflate():
    """The extension of one side, as both negotiate it by default."""
    return PerMessageDeflate(False, False, 15, 15)


def cut(payload, splits):
    """The parts of a payload, cut at these places."""
    edges = [0, *splits, len(payload)]
    return [payload[begin:end] for begin, end in pairwise(edges)]


def frames_of(kind, parts, extensions):
    """The frames of a message in these fragments, each compressed by itself, as a client sends them."""
    for number, part in enumerate(parts):
        opcode = (Opcode.TEXT if kind == "text" else Opcode.BINARY) if number == 0 else Opcode.CONT
        yield Frame(opcode, part, fin=number == len(parts) - 1).serialize(mask=True, extensions=extensions)


def refragmented(kind, payload, splits, extension):
    """The frames of a message that is compressed first and cut into fragments then (RFC 7692 section 6.1)."""
    opcode = Opcode.TEXT if kind == "text" else Opcode.BINARY
    compressed = bytes(extension.encode(Frame(opcode, payload)).data)
    parts = cut(compressed, [place for place in splits if place < len(compressed)])
    for number, part in enumerate(parts):
        frame = Frame(opcode if number == 0 else Opcode.CONT, part, fin=number == len(parts) - 1)
        yield marked(frame) if number == 0 else frame.serialize(mask=True)


def marked(frame):
    """The frame with the bit that says that its message is compressed."""
    data = bytearray(frame.serialize(mask=True))
    data[0] |= 0x40
    return bytes(data)


def payload_of(kind, content, size):
    """So many bytes of text or of anything, that can be compressed well or not at all."""
    source = random.Random(size)
    if content == "same":
        return b"a" * size
    if kind == "binary":
        return source.randbytes(size)
    return bytes(source.choices(range(32, 127), k=size))


def received(frames, data, at_once=True):
    """What comes of these bytes: the message, or None if there is none."""
    for chunk in [data] if at_once else [data[i : i + 1] for i in range(len(data))]:
        frames.receive_data(chunk)
        message = frames.next_message()
        while message is None and frames.unfinished:
            message = frames.next_message()
        if message is not None or frames.state == CLOSED:
            return message
    return None


SPLITS = {
    "whole": [],
    "empty first": [0],
    "after the first byte": [1],
    "in the middle": [LIMIT // 2],
    "at limit - 1": [LIMIT - 1],
    "in hundreds": list(range(100, LIMIT, 100)),
    "in bytes": list(range(1, LIMIT - 1)),
    "empty last": [LIMIT - 2, None],
}


@pytest.mark.parametrize("size", [0, 1, LIMIT - 5, LIMIT - 1, LIMIT, LIMIT + 1, LIMIT + 30])
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("content", ["same", "random"])
@pytest.mark.parametrize("kind", ["text", "binary"])
@pytest.mark.parametrize("how", ["plain", "compressed", "compressed as a whole"])
def test_sizes(how, kind, content, split, size):
    """A message of exactly the limit comes, one of a byte more is closed with 1009."""
    payload = payload_of(kind, content, size)
    splits = [len(payload) if place is None else min(place, size) for place in SPLITS[split]]
    if how == "plain":
        data = b"".join(frames_of(kind, cut(payload, splits), []))
        frames = Frames([], LIMIT)
    else:
        make = (
            refragmented(kind, payload, splits, deflate())
            if how == "compressed as a whole"
            else frames_of(kind, cut(payload, splits), [deflate()])
        )
        data = b"".join(make)
        frames = Frames([deflate()], LIMIT)
    message = received(frames, data)
    if size <= LIMIT:
        assert message == (payload.decode() if kind == "text" else payload)
        assert frames.state == OPEN
    else:
        assert message is None
        assert (frames.state, frames.close_code) == (CLOSED, 1009)
        assert frames.close_reason == f"message over {LIMIT} bytes"


@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1])
def test_messages_in_a_row(size):
    """The room of a message is not what the one before has left, and compression goes on from one to the next."""
    client, frames = deflate(), Frames([deflate()], LIMIT)
    for number in range(3):
        payload = payload_of("binary", "random", LIMIT - number)
        data = b"".join(frames_of("binary", cut(payload, [400, 800]), [client]))
        assert received(frames, data) == payload
    last = payload_of("binary", "random", size)
    message = received(frames, b"".join(frames_of("binary", cut(last, [999]), [client])))
    assert message == (last if size <= LIMIT else None)


@pytest.mark.parametrize("fragments", [1, 2, 1000])
def test_a_bomb_costs_no_more_than_the_limit(fragments):
    """A thousand to one: it is refused when one byte more than the limit is there, however it is cut."""
    payload = b"\0" * 1_000_000
    compressed = bytes(deflate().encode(Frame(Opcode.BINARY, payload)).data)
    assert len(compressed) < LIMIT
    splits = [len(compressed) * number // fragments for number in range(1, fragments)]
    frames = Frames([deflate()], LIMIT)
    assert received(frames, b"".join(refragmented("binary", payload, splits, deflate()))) is None
    assert (frames.state, frames.close_code) == (CLOSED, 1009)


def test_a_frame_that_cannot_fit_is_refused_at_its_head():
    """What is longer compressed than any message of the limit can be is not waited for."""
    frames = Frames([deflate()], LIMIT)
    head = marked(Frame(Opcode.BINARY, bytes(LIMIT * 3)))[:8]
    assert received(frames, head) is None
    assert (frames.state, frames.close_code) == (CLOSED, 1009)


@pytest.mark.parametrize("extensions", [[], [deflate()]], ids=["plain", "deflate"])
@pytest.mark.parametrize(
    ("opcodes", "reason"),
    [
        ([Opcode.CONT], "unexpected continuation frame"),
        ([Opcode.TEXT, Opcode.TEXT], "expected a continuation frame"),
        ([Opcode.BINARY, Opcode.CONT, Opcode.BINARY], "expected a continuation frame"),
    ],
)
def test_frames_out_of_turn(extensions, opcodes, reason):
    """RFC 6455 section 5.4."""
    frames = Frames(extensions, LIMIT)
    data = b"".join(Frame(opcode, b"x", fin=False).serialize(mask=True) for opcode in opcodes)
    assert received(frames, data, at_once=False) is None
    assert (frames.state, frames.close_code, frames.close_reason) == (CLOSED, 1002, reason)
