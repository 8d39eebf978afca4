"""Streams of request heads for both twins of the head parser, and what each makes of them."""

from __future__ import annotations

import random
import re
from typing import Any

import cyasgi
from cyasgi.wire.http import HTTPError
from cyasgi.wire.http._head_py import HeadParser as PureHeadParser
from cyasgi.wire.http.request import HeadLimits, HeadParser, decode_path
from support import http_corpus_bodies, http_corpus_heads

#: The twins of the head parser that are here, by name.
TWINS: dict[str, Any] = {"pure": PureHeadParser}
if cyasgi.backend == "cython":
    TWINS["compiled"] = HeadParser

FIELDS = (
    *("method", "target", "path", "query", "version", "headers", "length", "chunked", "keep_alive"),
    *("expects_continue", "upgrade", "takes_trailers"),
)

BROWSER = (
    b"Host: www.example.com",
    b"Connection: keep-alive",
    b'sec-ch-ua: "Chromium";v="130", "Google Chrome";v="130", "Not?A_Brand";v="99"',
    b"sec-ch-ua-mobile: ?0",
    b'sec-ch-ua-platform: "Linux"',
    b"Upgrade-Insecure-Requests: 1",
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537",
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8",
    b"Referer: https://www.example.com/catalogue?page=3",
    b"Accept-Encoding: gzip, deflate, br, zstd",
    b"Accept-Language: en-GB,en;q=0.9,de;q=0.8",
    b"Cookie: session=3f2a9c1b7e5d4f60a1b2c3d4e5f60718; theme=dark",
)


def _corpus() -> list[bytes]:
    cases = [
        case
        for module in (http_corpus_heads, http_corpus_bodies)
        for found in vars(module).values()
        if isinstance(found, list) and found and isinstance(found[0], http_corpus_heads.Case)
        for case in found
    ]
    return list(dict.fromkeys(case.data for case in cases if len(case.data) < 2000))


#: Every case of the corpora, and what common clients send.
SEEDS = [
    *_corpus(),
    b"\r\n".join([b"GET /items/1?page=2 HTTP/1.1", *BROWSER, b"", b""]),
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n\r\n",
    b"GET / HTTP/1.0\r\nHost: a\r\nConnection: Keep-Alive\r\n\r\n",
    b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\nAccept: */*\r\n\r\nhello",
    b"GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n",
]

#: What is worth inserting.
TOKENS = (
    *(b"\r\n", b"\n", b"\r", b"\r\n\r\n", b" ", b"\t", b":", b": ", b",", b";", b"\0", b"\x0b", b"\x7f", b"\xe9", b'"'),
    *(b"0", b"5", b"+", b"#", b"?", b"@", b"%", b"%C3%A9", b"//", b"*", b"[", b"]", b"http://a", b"HTTPS://[::1]:8/b"),
    *(b"GET", b"OPTIONS *", b"CONNECT", b"BREW", b"DESCRIBE", b"POST / HTTP/1.1", b"HTTP/1.0", b"HTTP/1.1"),
    *(
        b"HTTP/1.2",
        b"HTTP/2.0",
        b"Host: x\r\n",
        b"chunked",
        b"gzip",
        b"close",
        b"keep-alive",
        b"upgrade",
        b"18446744073709551616",
    ),
    *(b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n"),
    *(b"Transfer-Encoding: gzip, chunked\r\n", b"Upgrade: websocket\r\nConnection: upgrade\r\n", b"TE: trailers\r\n"),
    *(b"Expect: 100-continue\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"A: b\r\n" * 9),
    *(b"Proxy-Connection: upgrade\r\n", b"\r\n\r\n\r\n", b"18446744073709551616"),
)

LIMITS = (
    *(HeadLimits(), HeadLimits(), HeadLimits(200, 600, 8), HeadLimits(20, 100, 3), HeadLimits(5, 30, 2)),
    HeadLimits(0, 0, 0),
)


def mutated(chance: random.Random, data: bytes) -> bytes:
    """Return the bytes with a few changes."""
    for _ in range(chance.choice((0, 1, 1, 2, 3, 4))):
        at = chance.randrange(len(data) + 1)
        kind = chance.random()
        if kind < 0.4:
            data = data[:at] + chance.choice(TOKENS) + data[at + chance.choice((0, 0, 1, 2, 3)) :]
        elif kind < 0.6:
            data = data[:at] + data[at + chance.randrange(1, 6) :]
        elif kind < 0.8:
            data = data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
        else:
            data = data[:at] + chance.choice(SEEDS)[: chance.randrange(80)] + data[at:]
    return data


def stream(chance: random.Random) -> bytes:
    """Return cases of the corpora, one behind another, with a few changes."""
    return mutated(chance, b"".join(chance.choice(SEEDS) for _ in range(chance.choice((1, 1, 2, 3)))))


FIRST = (b"GET", b"POST", b"HEAD", b"OPTIONS", b"PURGE", b"BREW")
TARGETS = (b"/", b"/a", b"/a?b", b"/a?b=1", b"/a?b=2", b"/%C3%A9", b"/%", b"*", b"http://h:8/p?q", b"/a%zz%4", b"/a#b")
LINES = (
    *BROWSER,
    *(b"Host: a", b"Host: b", b"HOST:a", b"Host: a ", b"Host: a/b", b"Connection: close", b"Connection: x, Keep-Alive"),
    *(b"Connection: upgrade", b"Upgrade: websocket", b"Upgrade: h2c", b"Content-Length: 5", b"Content-Length: 05"),
    *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked", b"Expect: 100-continue", b"TE: trailers"),
    *(b"X-A: b", b"X-A:  b", b"x-a: b", b"X-A: b\t", b"X-A: c", b"X-A:", b"X-Request-ID: 1", b"X-Request-ID: 2"),
    *(b"N" * 63 + b": a", b"N" * 64 + b": a", b"N" * 65 + b": a", b"X-\xe9: a", b"X-A: \x01", b" folded", b"X-A : b"),
)


def alike(chance: random.Random) -> bytes:
    """Return the heads of a connection: each like the one before it but for a few lines."""
    method, target, version = b"GET", b"/", b"HTTP/1.1"
    lines = list(chance.choice((BROWSER, BROWSER[:4], (b"Host: a",))))
    heads = []
    for _ in range(chance.randrange(2, 7)):
        for _ in range(chance.choice((0, 0, 1, 1, 2))):
            kind = chance.random()
            at = chance.randrange(len(lines) + 1)
            if kind < 0.3:
                target = chance.choice(TARGETS[:7] if kind < 0.25 else TARGETS)
            elif kind < 0.35:
                method = chance.choice(FIRST)
            elif kind < 0.4:
                version = chance.choice((b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.2"))
            elif kind < 0.6:
                lines[at:at] = [chance.choice(LINES)]
            elif kind < 0.8:
                lines[at : at + 1] = [chance.choice(LINES)]
            elif kind < 0.95:
                lines[at : at + 1] = []
            else:
                chance.shuffle(lines)
        heads.append(b"\r\n".join((b" ".join((method, target, version)), *lines, b"", b"")))
    return b"".join(heads)


def cut(chance: random.Random, data: bytes) -> list[bytes]:
    """Return the bytes whole, in a few pieces, or one by one."""
    kind = chance.random()
    if kind < 0.5:
        return [data]
    if kind < 0.55 and len(data) < 500:
        return [data[at : at + 1] for at in range(len(data))]
    ends = sorted(chance.randrange(len(data) + 1) for _ in range(chance.choice((1, 2, 3))))
    return [data[start:end] for start, end in zip((0, *ends), (*ends, len(data)), strict=True)]


def described(parser: Any) -> tuple[Any, ...]:
    return tuple(getattr(parser, name) for name in FIELDS)


def taken(parser: Any, pieces: list[bytes]) -> list[Any]:
    """Return what `take` and `parse` make of a stream: each head, and the rest, or the status and text of a refusal."""
    found: list[Any] = []
    buffer = bytearray()
    try:
        for piece in pieces:
            seen = len(buffer)
            buffer += piece
            while (head := parser.take(buffer, seen)) is not None:
                seen = 0
                parser.parse(head)
                found.append(described(parser))
        found.append(bytes(buffer))
    except HTTPError as error:
        found.append((error.status, str(error)))
    return found


def scanned(parser: Any, pieces: list[bytes]) -> list[Any]:
    """Return the same of what other compiled code calls, and check what only that sees."""
    found: list[Any] = []
    buffer = b""
    try:
        for piece in pieces:
            seen = len(buffer)
            buffer += piece
            while True:
                size, unchanged, same_line, path = parser._scanned(buffer, seen)
                seen = 0
                if not size:
                    buffer = buffer[parser._skipped(buffer) :]
                    break
                buffer = buffer[size:]
                found.append(described(parser))
                assert path == decode_path(parser.path)
                before = found[-2] if len(found) > 1 else ()
                assert not unchanged or (found[-1] == before and same_line)
                assert not same_line or found[-1][:4] == before[:4]
        found.append(buffer)
    except HTTPError as error:
        found.append((error.status, str(error)))
    return found


#: How httptools begins what it says of a fault.
FROM_HTTPTOOLS = re.compile(
    r"Invalid |Expected |Unexpected |Missing |Duplicate |Empty |Double |Request has |Content-Length (can't|overflow)|"
    r"Transfer-Encoding can't"
)


def check_alike(pure: list[Any], compiled: list[Any]) -> None:
    """Check that both have found the same; a refusal may be worded otherwise if the words are httptools'."""
    if pure == compiled:
        return
    assert pure[:-1] == compiled[:-1]
    assert isinstance(pure[-1], tuple) and isinstance(compiled[-1], tuple)
    assert pure[-1][0] == compiled[-1][0]
    assert FROM_HTTPTOOLS.match(pure[-1][1]) and compiled[-1][1].isprintable()
