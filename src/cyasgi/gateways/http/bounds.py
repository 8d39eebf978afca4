"""What settings of an HTTP server accept, beside numbers and words."""

from __future__ import annotations

from typing import Any

from ..._settings import Boolean, Bound
from ...wire.headers import OWN_NAMES, encode_lines
from ...wire.http.request_id import is_name


class AccessLogBound(Boolean):
    """True, False, or an object to write to, which cannot be given as text."""

    def __init__(self) -> None:
        Bound.__init__(self, "True (standard output), False, or an object with write(str)")

    def wrong(self, value: Any) -> type[Exception] | None:
        return None if callable(getattr(value, "write", None)) else super().wrong(value)


class ServerHeader(Bound):
    """The value of the Server header."""

    def __init__(self) -> None:
        super().__init__("a str of printable ASCII characters", none="no such header")

    def wrong(self, value: Any) -> type[Exception] | None:
        if not isinstance(value, str):
            return TypeError
        return None if value and value.isascii() and value.isprintable() else ValueError


class RequestIdHeader(Bound):
    """The header that has the id of a request."""

    def __init__(self) -> None:
        accepted = "the name of a header, as in x-request-id, but none that frames or routes requests, as Host does"
        super().__init__(accepted, accepted, "no ids")

    def wrong(self, value: Any) -> type[Exception] | None:
        if not isinstance(value, str):
            return TypeError
        return None if is_name(value) else ValueError

    def read(self, text: str) -> str:
        return text


class ResponseHeaders(Bound):
    """Headers of every response."""

    def __init__(self) -> None:
        super().__init__(
            "a tuple of pairs of bytes, names and values, as in ((b'x-frame-options', b'DENY'),), without Connection, "
            "Content-Length and Transfer-Encoding"
        )

    def wrong(self, value: Any) -> type[Exception] | None:
        if not isinstance(value, tuple):
            return TypeError
        try:
            encode_lines(value)
        except (TypeError, ValueError) as error:
            return type(error)
        return ValueError if any(bytes(name).lower() in OWN_NAMES for name, _ in value) else None
