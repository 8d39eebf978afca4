"""Letters as messages of AMQP 0-9-1, and back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from aiormq import spec

from ...wire.queue import Letter
from .amqp_table import table

#: The name of the header that says what was wrong with the properties that a message had.
MALFORMED = "x-malformed"
#: Messages that survive a restart of the broker.
PERSISTENT = 2
#: What a header frame has beside the properties: a frame's head and end, the content header's own fields, and the
#: message_id that the library adds where there is none.
AROUND = 8 + 12 + 33


class Properties(spec.Basic.Properties):
    """Properties whose headers are written by us."""

    def encode_property(self, name: str, value: Any) -> bytes:
        if name == "headers":
            return table(value)
        return bytes(super().encode_property(name, value))


def properties_of(letter: Letter) -> Properties:
    """Return the properties that a letter is published with; without its user, which would have to be our own."""
    return Properties(
        content_type=letter.content_type,
        content_encoding=letter.content_encoding,
        headers=dict(letter.headers) or None,
        delivery_mode=PERSISTENT,
        priority=letter.priority,
        correlation_id=letter.correlation_id,
        reply_to=letter.reply_to,
        expiration=None if letter.ttl is None else str(round(letter.ttl * 1000)),
        message_id=letter.message_id,
        timestamp=None if letter.timestamp is None else datetime.fromtimestamp(letter.timestamp, UTC),
        message_type=letter.message_type,
        app_id=letter.app_id,
    )


def header_size(letter: Letter) -> int:
    """Return the size in bytes of the frame that has the properties of a letter; no more than this will be sent."""
    return AROUND + len(properties_of(letter).marshal())


def letter_of(body: bytes, properties: Any, headers: Mapping[str, Any]) -> Letter:
    """Return the letter that has arrived with these properties."""
    timestamp = properties.timestamp
    return Letter(
        body,
        headers,
        _text(properties.message_id),
        _text(properties.correlation_id),
        _text(properties.reply_to),
        _text(properties.content_type),
        properties.priority,
        _ttl(properties.expiration),
        timestamp.timestamp() if isinstance(timestamp, datetime) else None,
        content_encoding=_text(properties.content_encoding),
        message_type=_text(properties.message_type),
        app_id=_text(properties.app_id),
        user_id=_text(properties.user_id),
    )


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value or None
    return bytes(value).decode("utf-8", "backslashreplace") or None


def _ttl(expiration: Any) -> float | None:
    text = _text(expiration)
    return int(text) / 1000 if text and text.isascii() and text.isdigit() else None
