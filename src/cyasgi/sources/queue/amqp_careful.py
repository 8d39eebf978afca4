"""Frames that the library cannot read: they are made readable, so that a message that nobody can read ends no worker.

AMQP lets publishers put bytes of any encoding into routing keys and properties, and any 64-bit number into a timestamp.
The library ends the connection when it comes upon one that it cannot decode; the message would be delivered again, and
end the next one. So once that has happened, what arrives is tried here first.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import pamqp.frame
from aiormq import spec
from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
from pamqp.header import ContentHeader

from .amqp_letters import MALFORMED

METHOD, HEADER = 1, 2
#: Class and method of Basic.Deliver.
DELIVER = b"\x00\x3c\x00\x3c"
#: Type, channel and size of a frame; class, weight and body size of a content header.
FRAME, CONTENT = struct.Struct(">BHI"), struct.Struct(">HHQ")


def readable(frame: bytes) -> bytes:
    """Return a frame that the library can read: the same, if it can."""
    kind, channel, _ = FRAME.unpack_from(frame)
    if kind not in (METHOD, HEADER):
        return frame
    try:
        pamqp.frame.unmarshal(frame)
    except Exception as error:
        payload = frame[FRAME.size : -1]
        if kind == METHOD and payload.startswith(DELIVER):
            # Names are short strings: nothing else of this method can be wrong. Of the same length, byte by byte.
            payload = DELIVER + _ascii_names(payload[len(DELIVER) :])
            return FRAME.pack(kind, channel, len(payload)) + payload + frame[-1:]
        if kind == HEADER:
            _, _, size = CONTENT.unpack_from(payload)
            properties = spec.Basic.Properties(headers={MALFORMED: f"{type(error).__name__}: {error}"[:200]})
            return bytes(pamqp.frame.marshal(ContentHeader(body_size=size, properties=properties), channel))
    return frame


def _ascii_names(arguments: bytes) -> bytes:
    """Return the arguments of Basic.Deliver with question marks in place of what is not ASCII in its names."""
    tag_end = 1 + arguments[0]
    fixed_end = tag_end + 9  # the delivery tag, and whether it is redelivered
    names = bytes(byte if byte < 0x80 else 0x3F for byte in arguments[fixed_end:])
    # The lengths of the two names are no text.
    exchange = arguments[fixed_end]
    position = 1 + exchange
    names = bytes([exchange]) + names[1:position] + arguments[fixed_end + position :][:1] + names[position + 1 :]
    return arguments[:fixed_end] + names


class CarefulReader:
    """The part of a StreamReader that the library uses, over one: it gives readable frames."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._frame = b""

    def at_eof(self) -> bool:
        return not self._frame and self._reader.at_eof()

    async def read(self, count: int = -1) -> bytes:
        return await self._reader.read(count)

    async def readexactly(self, count: int) -> bytes:
        if not self._frame:
            head = await self._reader.readexactly(FRAME.size)
            if head.startswith(b"AMQP"):
                # Another version of the protocol, with which the library deals.
                self._frame = head
            else:
                self._frame = readable(head + await self._reader.readexactly(FRAME.unpack(head)[2] + 1))
        taken, self._frame = self._frame[:count], self._frame[count:]
        return taken


class CarefulTransport(TransportFactory):
    """Connects as the library does, and reads with care.

    Args:
        encrypted: whether by TLS.
    """

    def __init__(self, encrypted: bool) -> None:
        self._factory: TransportFactory = TLSTransportFactory() if encrypted else TCPTransportFactory()

    async def create(self, url: Any, **options: Any) -> Any:
        reader, writer = await self._factory.create(url, **options)
        return CarefulReader(reader), writer
