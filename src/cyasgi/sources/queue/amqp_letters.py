"""Letters as messages of AMQP 0-9-1, and back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from aiormq import spec

from ...wire.queue import Letter

#: The name of the header that says what was wrong with the properties that a message had.
MALFORMED = "x-malformed"
#: Messages that survive a restart of the broker.
PERSISTENT = 2


def properties_of(letter: Letter) -> spec.Basic.Properties:
    """Return the properties that a letter is published with."""
    return spec.Basic.Properties(
        content_type=letter.content_type,
        headers=_table(letter.headers) if letter.headers else None,
        delivery_mode=PERSISTENT,
        priority=letter.priority,
        correlation_id=letter.correlation_id,
        reply_to=letter.reply_to,
        expiration=None if letter.ttl is None else str(round(letter.ttl * 1000)),
        message_id=letter.message_id,
        timestamp=None if letter.timestamp is None else datetime.fromtimestamp(letter.timestamp, UTC),
    )


def _table(headers: Any) -> Any:
    """Return headers in types that the library can write."""
    if isinstance(headers, Mapping):
        return {name: _table(value) for name, value in headers.items()}
    if isinstance(headers, (list, tuple)):
        return [_table(value) for value in headers]
    return bytearray(headers) if isinstance(headers, bytes) else headers


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
    )


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value or None
    return bytes(value).decode("utf-8", "backslashreplace") or None


def _ttl(expiration: Any) -> float | None:
    text = _text(expiration)
    return int(text) / 1000 if text and text.isascii() and text.isdigit() else None
