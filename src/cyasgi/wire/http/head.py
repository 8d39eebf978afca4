"""What the twins of the head parser have in common: limits, what a request is, and what is rare in one.

The pure one is `_head_py.py`, the compiled one `_head.pyx`; `request.py` has the one that was chosen.
"""

from __future__ import annotations

import re
from typing import NamedTuple, NoReturn

from .errors import HTTPError

END = b"\r\n\r\n"
#: As a number: searching bytes for a number is several times faster than for bytes of length one.
HASH = ord("#")

#: Bytes of a method, at most.
METHOD_SIZE = 32
#: Bytes of a request line beside its target: the method, two spaces and the version.
LINE_SLACK = METHOD_SIZE + 10

VERSIONS = (b"HTTP/1.1", b"HTTP/1.0")
WRONG_VERSION = "the version of HTTP is neither 1.1 nor 1.0"
#: A version that is well-formed (RFC 9112 section 2.3).
VERSION = re.compile(rb"HTTP/([0-9])\.[0-9]")

#: uri-host [ ":" port ] of RFC 9110 section 7.2; an empty one stands for a target without an authority.
HOST = re.compile(rb"(?:(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~!$&'()*+,;=%]+)(?::[0-9]*)?)?")
TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
ABSOLUTE = re.compile(rb"https?://([^/?#@]+)(/[^?#]*)?(\?.*)?", re.IGNORECASE)
#: Empty lines that are ignored before a request.
EMPTY_LINES = 8

USER_INFORMATION = re.compile(rb"https?://[^/?#]*@", re.IGNORECASE)


class HeadLimits(NamedTuple):
    """The largest head: bytes of the target, bytes of all header lines together, number of headers."""

    target_size: int = 8190
    header_size: int = 65_536
    header_count: int = 100


class Request(NamedTuple):
    """A request's head, for the protocol that the connection is handed to."""

    method: str
    target: bytes
    headers: list[tuple[bytes, bytes]]


def too_many_empty_lines() -> HTTPError:
    """Return the refusal of more empty lines before a request than are ignored."""
    return HTTPError(400, f"there are more than {EMPTY_LINES} empty lines before the request")


def check_sizes(head: bytes | bytearray, line_end: int, limits: HeadLimits) -> None:
    """Refuse a head, or what there is of it, that is larger than the limits; its request line ends at `line_end`."""
    if line_end > limits.target_size:
        target = [part for part in bytes(head[:line_end]).split(b" ") if part][1:2]
        if not target or len(target[0]) > limits.target_size:
            raise target_too_long(limits)
    if len(head) - line_end - 4 > limits.header_size:
        raise HTTPError(431, f"the headers are longer than {limits.header_size} bytes")


def target_too_long(limits: HeadLimits) -> HTTPError:
    """Return the refusal of a target above the limit."""
    return HTTPError(414, f"the request target is longer than {limits.target_size} bytes")


def split_leniently(line: bytes, strict: bool) -> list[bytes]:
    """Return method, target and version of a request line that is not these three with a space between them."""
    parts = [part for part in line.split(b" ") if part]
    if strict or len(parts) != 3:
        raise HTTPError(400, "the request line is not: method, one space, target, one space, version")
    return parts


def newer_version(version: bytes, strict: bool) -> str:
    """Return the version by which to read a request of an unknown one: 1.1 if only the minor number is higher."""
    match = VERSION.fullmatch(version)
    if match is None:
        raise HTTPError(400, WRONG_VERSION)
    if match[1] != b"1":
        # RFC 9110 section 15.6.6.
        raise HTTPError(505, f"{WRONG_VERSION}: {version.decode()}")
    if strict:
        raise HTTPError(400, WRONG_VERSION)
    return "1.1"


def check_method(method: bytes) -> None:
    """Refuse a method that is none, or never served."""
    if not TOKEN.fullmatch(method):
        # httptools skips CR and LF before it.
        raise HTTPError(400, "the method is not a token")
    if method in (b"CONNECT", b"PRI"):
        # RFC 9110 section 9.1.
        raise HTTPError(501, f"the method {method.decode()} is not implemented")
    if len(method) > METHOD_SIZE:
        raise HTTPError(501, f"the method is longer than {METHOD_SIZE} bytes")


def unknown_method(method: bytes) -> HTTPError:
    """Return the refusal of a method that is well-formed."""
    return HTTPError(501, f"the method {method.decode('ascii')} is not known")


def refuse_coding(codings: list[bytes]) -> NoReturn:
    """Reject transfer codings: 501 if it is known where they end, though not what they mean; otherwise 400."""
    others = codings[:-1]
    if codings[-1] == b"chunked" and b"chunked" not in others and all(map(TOKEN.fullmatch, others)):
        # RFC 9112 section 6.1.
        raise HTTPError(501, f"the transfer coding {others[0].decode()} is not known: accepted is chunked")
    # Section 6.3, item 4.
    raise HTTPError(400, "the only Transfer-Encoding accepted is chunked")


def interpret_target(method: str, target: bytes, strict: bool) -> tuple[bytes, bytes, bytes | None]:
    """Interpret a target in another form than /path?query (RFC 9112 section 3.2).

    Returns:
        The path, the query, and the authority that counts in place of the Host header, if there is one.
    """
    if HASH in target:
        if strict:
            raise HTTPError(400, "there is a fragment in the request target")
        target = target.partition(b"#")[0]
    if target[:1] == b"/":
        path, _, query = target.partition(b"?")
        return path, query, None
    if target == b"*" and method == "OPTIONS":
        return target, b"", None
    if (match := ABSOLUTE.fullmatch(target)) and HOST.fullmatch(match[1]):
        # Section 3.2.2: the authority in the target counts, and a Host header that differs is ignored.
        return match[2] or b"/", (match[3] or b"?")[1:], match[1]
    if USER_INFORMATION.match(target):
        # RFC 9110 section 4.2.4.
        raise HTTPError(400, "there is user information in the request target")
    raise HTTPError(400, "the request target is neither a path nor a URL of http or https")
