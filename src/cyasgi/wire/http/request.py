"""The head of a request: where it ends, what it says, and whether that is allowed (RFC 9112 sections 2 to 6).

The parser is the compiled twin where the core is compiled, else the pure one, which needs httptools.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_to_bytes

from ...core.backend import backend
from .head import (
    END as END,
    HeadLimits as HeadLimits,
    Request as Request,
)

if TYPE_CHECKING or backend == "python":
    from ._head_py import HeadParser as HeadParser
else:
    from ._head import HeadParser as HeadParser


def decode_path(path: bytes) -> str:
    """Return the path as ASGI has it: percent-decoded, then UTF-8-decoded, with U+FFFD for what is not UTF-8."""
    return unquote_to_bytes(path).decode("utf-8", "replace")


@functools.lru_cache(maxsize=64)
def encode_path(path: str) -> bytes:
    """Return the path as it stands in a request: UTF-8, percent-encoded except for what RFC 3986 section 3.3 allows."""
    return quote(path, safe="/!$&'()*+,;=:@", errors="surrogatepass").encode("ascii")


def split_list(headers: list[tuple[bytes, bytes]], name: bytes) -> list[str]:
    """Return the items of a header that is a comma-separated list, over all its lines."""
    values = [value for key, value in headers if key == name]
    items = b",".join(values).split(b",")
    return [text for item in items if (text := item.strip(b" \t").decode("latin-1"))]
