"""Ids of requests, by which the logs of proxies, servers and applications are brought together."""

from __future__ import annotations

import re
from uuid import uuid4

from ..headers import FRAMING, OWN_NAMES, TOKEN

#: What an id may look like that the client, or a proxy, gives: it is written into logs and sent back.
VALUE = re.compile(rb"[A-Za-z0-9_.:~+/=@-]{1,128}")

Headers = list[tuple[bytes, bytes]]


def is_name(name: str) -> bool:
    """Return whether ids can have this header: it is a token, and no header that decides how messages are read."""
    if not name.isascii():
        return False
    lower = name.lower().encode()
    return TOKEN.fullmatch(lower) is not None and lower not in FRAMING | OWN_NAMES


def identify(headers: Headers, name: bytes) -> bytes:
    """Return the id of a request, and make sure that its headers, which are changed in place, have it exactly once.

    An id that came with the request is kept if it is a single one of 1 to 128 letters, digits and ``_.:~+/=@-``;
    otherwise a new one is made, a UUID of version 4 in hexadecimal digits (RFC 9562).

    Args:
        headers: those of the request, with names in lower case.
        name: the header of the id, in lower case.
    """
    found = [value for key, value in headers if key == name]
    if len(found) == 1 and VALUE.fullmatch(found[0]):
        return found[0]
    if found:
        headers[:] = [header for header in headers if header[0] != name]
    made = uuid4().hex.encode()
    headers.append((name, made))
    return made


def id_line(headers: Headers, name: bytes) -> bytes:
    """Return the header line that tells the client the id of a request, with CRLF before it; empty if it has none."""
    return b"".join(b"\r\n%b: %b" % header for header in headers if header[0] == name)
