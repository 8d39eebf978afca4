"""Frames that the library cannot read are made readable, and all others stay as they are."""

from __future__ import annotations

import struct

import pamqp.frame
import pytest
from aiormq import spec
from hypothesis import given, strategies as st
from pamqp.header import ContentHeader

from cyasgi.sources.queue.amqp_careful import readable
from support.property_model import effort

NAMES = st.binary(max_size=255)


def frame_of(kind: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, 7, len(payload)) + payload + b"\xce"


def short(text: bytes) -> bytes:
    return bytes([len(text)]) + text


@pytest.mark.slow
@effort(200)
@given(st.integers(0, 2**63 - 1), st.booleans(), NAMES, NAMES)
def test_deliveries(tag: int, redelivered: bool, exchange: bytes, key: bytes) -> None:
    """Whatever bytes their names are, what else they say stays."""
    arguments = short(b"ctag") + struct.pack(">QB", tag, redelivered) + short(exchange) + short(key)
    frame = frame_of(1, b"\x00\x3c\x00\x3c" + arguments)
    made = readable(frame)
    assert len(made) == len(frame)
    _, channel, deliver = pamqp.frame.unmarshal(made)
    assert (channel, deliver.consumer_tag, deliver.delivery_tag) == (7, "ctag", tag)
    assert deliver.redelivered == redelivered
    assert (len(deliver.exchange.encode()), len(deliver.routing_key.encode())) == (len(exchange), len(key))
    try:
        exchange.decode()
        key.decode()
    except UnicodeDecodeError:
        return
    assert made == frame


@pytest.mark.slow
@effort(200)
@given(st.integers(0, 2**40), st.integers(0, 0xFFFF), st.binary(max_size=60))
def test_properties(size: int, flags: int, rest: bytes) -> None:
    """Any bytes in their place give properties that can be read, and the size of the body as it was."""
    made = readable(frame_of(2, struct.pack(">HHQH", 60, 0, size, flags & ~1) + rest))
    _, channel, header = pamqp.frame.unmarshal(made)
    assert (channel, header.body_size) == (7, size)


def test_others_stay_as_they_are() -> None:
    body = frame_of(3, b"\xff\xfe")
    assert readable(body) is body
    header = pamqp.frame.marshal(ContentHeader(body_size=3, properties=spec.Basic.Properties(message_id="é")), 7)
    assert readable(header) is header
    heartbeat = frame_of(8, b"")
    assert readable(heartbeat) is heartbeat
