"""What an application's messages of HTTP may hold."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from ...wire.headers import encode_lines
from ...wire.http.response import STATUS_LINES

#: The messages of an application.
KINDS = (
    "http.response.start",
    "http.response.body",
    "http.response.trailers",
    "http.response.pathsend",
    "http.response.early_hint",
)

#: Their extensions, by the names that scopes advertise them under.
EXTENSIONS = ("http.response.trailers", "http.response.pathsend", "http.response.early_hint")


def checked_status(status: Any) -> int:
    """Return a status; raise TypeError or ValueError if it is none."""
    if not isinstance(status, int) or isinstance(status, bool):
        raise TypeError(f"'status' of an 'http.response.start' message must be an int, got {status!r}")
    if status not in STATUS_LINES:
        raise ValueError(f"'status' of an 'http.response.start' message must be from 200 to 599, got {status!r}")
    return int(status)


def checked_path(path: Any) -> Any:
    """Return a path; raise TypeError if it is none."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"'path' of an 'http.response.pathsend' message must be a str, got {path!r}")
    return path


def encoded_links(links: Any) -> bytes:
    """Return the Link header lines of an early hint; raise TypeError or ValueError if they are none."""
    if not isinstance(links, Iterable) or isinstance(links, (str, bytes, bytearray, memoryview, Mapping)):
        raise TypeError(f"'links' of an 'http.response.early_hint' message must be an iterable of bytes, got {links!r}")
    return encode_lines([(b"link", link) for link in links])[0]


def as_bytes(body: Any) -> bytes:
    """Return the bytes of a body; raise TypeError if it has none."""
    if not isinstance(body, (bytes, bytearray, memoryview)):
        raise TypeError(f"'body' of an 'http.response.body' message must be bytes, got {type(body).__name__}")
    return bytes(body)
