"""Raw requests that servers have got wrong, continued: chunks, trailers, sizes, and what becomes of the connection."""

from __future__ import annotations

from support.http_corpus_heads import (
    CHUNKED,
    CLOSE,
    EMPTY,
    END,
    GET,
    GET_CLOSE,
    HELLO,
    REFUSED,
    Case,
    Outcome,
    get,
    post,
    refused,
    served,
)


def _chunks(name: str, body: bytes, outcomes: tuple[Outcome, ...] = REFUSED) -> Case:
    return Case(name, post(CHUNKED, body=body), outcomes, in_body=True)


#: The chunked coding: RFC 9112 section 7.1.
CHUNKS = [
    _chunks("size with a plus", b"+5\r\nhello\r\n" + END),
    _chunks("size with a minus", b"-5\r\nhello\r\n" + END),
    _chunks("size with 0x", b"0x5\r\nhello\r\n" + END),
    _chunks("size over 2^64", b"10000000000000005\r\nhello\r\n" + END, refused(400, 413)),
    _chunks("size of a thousand digits", b"f" * 1000 + b"\r\nhello\r\n" + END, refused(400, 413)),
    _chunks("size empty", b"\r\nhello\r\n" + END),
    _chunks("size missing before an extension", b";a=b\r\nhello\r\n" + END),
    _chunks("size not hexadecimal", b"g\r\nhello\r\n" + END),
    _chunks("size with a letter behind", b"5g\r\nhello\r\n" + END),
    _chunks("size with an underscore", b"0_5\r\nhello\r\n" + END),
    _chunks("size with a comma", b"5,5\r\nhello\r\n" + END),
    _chunks("two sizes", b"5 5\r\nhello\r\n" + END),
    _chunks("space before the size", b" 5\r\nhello\r\n" + END),
    _chunks("tab before the size", b"\t5\r\nhello\r\n" + END),
    _chunks("space after the size", b"5 \r\nhello\r\n" + END, REFUSED + HELLO),
    _chunks("tab after the size", b"5\t\r\nhello\r\n" + END, REFUSED + HELLO),
    _chunks("VT after the size", b"5\x0b\r\nhello\r\n" + END),
    _chunks("NUL after the size", b"5\x00\r\nhello\r\n" + END),
    _chunks("leading zeros", b"00005\r\nhello\r\n" + END, REFUSED + HELLO),
    _chunks("many leading zeros", b"0" * 64 + b"5\r\nhello\r\n" + END, REFUSED + HELLO),
    _chunks("several zeros at the end", b"5\r\nhello\r\n000\r\n\r\n", REFUSED + HELLO),
    _chunks("ten thousand zeros", b"0" * 10_000 + b"5\r\nhello\r\n" + END, REFUSED + HELLO),
    _chunks(
        "upper and lower case", b"A\r\n0123456789\r\na\r\n0123456789\r\n" + END, served("POST", body=b"0123456789" * 2)
    ),
    _chunks("LF alone everywhere", b"5\nhello\n0\n\n"),
    _chunks("LF alone after the size", b"5\nhello\r\n" + END),
    _chunks("LF alone after the data", b"5\r\nhello\n" + END),
    _chunks("LF alone after the last size", b"5\r\nhello\r\n0\n\r\n"),
    _chunks("LF alone at the end", b"5\r\nhello\r\n0\r\n\n"),
    _chunks("CR alone after the size", b"5\rhello\r\n" + END),
    _chunks("CR alone after the data", b"5\r\nhello\r" + END),
    _chunks("CR CR LF after the size", b"5\r\r\nhello\r\n" + END),
    _chunks("CR CR LF after the data", b"5\r\nhello\r\r\n" + END),
    _chunks("CR and a letter at the end", b"5\r\nhello\r\n0\r\n\rX"),
    _chunks("other bytes after the data", b"5\r\nhelloXX0\r\n\r\n"),
    _chunks("data too long", b"4\r\nhello\r\n" + END),
    _chunks("data too short", b"6\r\nhello\r\n" + END),
    _chunks("nothing after the data", b"5\r\nhello" + END),
    _chunks("a request in place of a size", b"5\r\nhello\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"),
    _chunks("empty", END, EMPTY),
    _chunks("hello in one", b"5\r\nhello\r\n" + END, HELLO),
    _chunks("hello in five", b"1\r\nh\r\n1\r\ne\r\n1\r\nl\r\n1\r\nl\r\n1\r\no\r\n" + END, HELLO),
    # Extensions
    Case(
        "extension",
        post(CHUNKED, CLOSE, body=b"5;a=b\r\nhello\r\n0\r\n\r\n"),
        served("POST", b"/", b"hello", more=False),
    ),
    _chunks("extension, open", b"5;a=b\r\nhello\r\n" + END, HELLO),
    _chunks("extension without a value", b"5;a\r\nhello\r\n0;b\r\n\r\n", HELLO),
    _chunks("extension quoted", b'5;a="b c"\r\nhello\r\n' + END, HELLO),
    _chunks("extension with spaces", b"5 ; a = b\r\nhello\r\n" + END, REFUSED + HELLO),
    _chunks("extension empty", b"5;\r\nhello\r\n" + END, REFUSED + HELLO),
    _chunks("extension with CR", b"5;a\rb\r\nhello\r\n" + END),
    _chunks("extension ends in LF", b"5;a\nhello\r\n" + END),
    _chunks("extension is an LF", b"5;\nhello\r\n" + END),
    _chunks("extension with LF in quotes", b'5;a="b\nc"\r\nhello\r\n' + END),
    _chunks("extension with CRLF in quotes", b'5;a="b\r\nc"\r\nhello\r\n' + END),
    _chunks("extension with NUL", b"5;a\x00b\r\nhello\r\n" + END),
    _chunks("extension with NUL in quotes", b'5;a="\x00"\r\nhello\r\n' + END),
    _chunks("extension of the last chunk with LF", b"5\r\nhello\r\n0;a\n\r\n"),
    _chunks("extension of a megabyte", b"5;a=" + b"b" * 1_000_000 + b"\r\nhello\r\n" + END, refused(400, 413, 431)),
    _chunks(
        "extensions on each of many chunks", (b"1;" + b"a" * 2000 + b"\r\nx\r\n") * 500 + END, refused(400, 413, 431)
    ),
    # Trailers: read and ignored (RFC 9110 section 6.5.1).
    _chunks("trailer", b"5\r\nhello\r\n0\r\nX-A: b\r\n\r\n", HELLO),
    Case(
        "trailer Content-Length",
        post(CHUNKED, CLOSE, body=b"0\r\nContent-Length: 5\r\n\r\n"),
        REFUSED + served("POST", more=False),
        in_body=True,
    ),
    _chunks("trailer Content-Length, open", b"0\r\nContent-Length: 5\r\n\r\n", REFUSED + EMPTY),
    _chunks("trailer Transfer-Encoding", b"0\r\nTransfer-Encoding: chunked\r\n\r\n", REFUSED + EMPTY),
    _chunks("trailer Host", b"0\r\nHost: y\r\n\r\n", REFUSED + EMPTY),
    _chunks("trailer Connection: close", b"0\r\nConnection: close\r\n\r\n", REFUSED + EMPTY),
    _chunks("trailer Upgrade", b"0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", REFUSED + EMPTY),
    Case(
        "trailer never among the headers",
        post(CHUNKED, b"Trailer: X-A", body=b"0\r\nX-A: b\r\n\r\n"),
        EMPTY,
        headers=((b"host", b"x"), (b"transfer-encoding", b"chunked"), (b"trailer", b"X-A")),
    ),
    _chunks("trailer ends in LF", b"0\r\nX-A: b\n\r\n"),
    _chunks("trailers end in LF", b"0\r\nX-A: b\r\n\n"),
    _chunks("trailer with CR", b"0\r\nX-A: b\rc\r\n\r\n"),
    _chunks("trailer with NUL", b"0\r\nX-A: b\x00\r\n\r\n"),
    _chunks("trailer folded", b"0\r\nX-A: b\r\n c\r\n\r\n"),
    _chunks("trailer without a colon", b"0\r\nX-A\r\n\r\n"),
    _chunks("trailer without a name", b"0\r\n: b\r\n\r\n"),
    _chunks("trailer with a space in its name", b"0\r\nX A: b\r\n\r\n"),
    _chunks("trailer with a space before the colon", b"0\r\nX-A : b\r\n\r\n"),
    _chunks("a request in place of a trailer", b"0\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"),
    _chunks("trailers too many", b"0\r\n" + b"X-A: b\r\n" * 500 + b"\r\n", refused(400, 431)),
    _chunks("trailer of 100 KB", b"0\r\nX-A: " + b"b" * 100_000 + b"\r\n\r\n", refused(400, 431)),
    _chunks("trailer name of 100 KB", b"0\r\n" + b"b" * 100_000 + b": b\r\n\r\n", refused(400, 431)),
]

TOO_LARGE = refused(431)
TOO_LONG = refused(414)

#: Sizes, against the limits that a server has by default.
SIZES = [
    Case("value of 64 KiB", get(b"X-A: " + b"a" * 65_536), TOO_LARGE),
    Case("value of 1 MiB", get(b"X-A: " + b"a" * 1_048_576), TOO_LARGE),
    Case("value of 1 MiB, never ended", b"GET / HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 1_048_576, TOO_LARGE),
    Case("name of 64 KiB", get(b"a" * 65_536 + b": b"), TOO_LARGE),
    Case("name of 1 MiB, never ended", b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a" * 1_048_576, TOO_LARGE),
    Case("blank of 64 KiB before a value", get(b"X-A:" + b" " * 65_536 + b"b"), TOO_LARGE),
    Case("blank of 64 KiB after a value", get(b"X-A: b" + b" " * 65_536), TOO_LARGE),
    Case("many headers, together 80 KB", get(*[b"X-A: " + b"a" * 1000] * 80), TOO_LARGE),
    Case("headers in number 100", get(*[b"X-A: b"] * 99), GET),
    Case("headers in number 101", get(*[b"X-A: b"] * 100), TOO_LARGE),
    Case("headers in number 10,000", get(*[b"X-A: b"] * 10_000), TOO_LARGE),
    Case("value of 32 KiB", get(b"X-A: " + b"a" * 32_768), GET),
    Case("target of 64 KiB", get(start=b"GET /" + b"a" * 65_535 + b" HTTP/1.1"), TOO_LONG),
    Case("target of 1 MiB", get(start=b"GET /" + b"a" * 1_048_575 + b" HTTP/1.1"), TOO_LONG),
    Case("target of 1 MiB, never ended", b"GET /" + b"a" * 1_048_576, TOO_LONG),
    Case("query of 64 KiB", get(start=b"GET /?" + b"a" * 65_536 + b" HTTP/1.1"), TOO_LONG),
    Case("target of 8,000 bytes", get(start=b"GET /?" + b"a" * 7_998 + b" HTTP/1.1"), GET),
    Case("host of 64 KiB", b"GET / HTTP/1.1\r\nHost: " + b"x" * 65_536 + b"\r\n\r\n", TOO_LARGE),
    Case("spaces before the target", b"GET" + b" " * 1_000_000, refused(400, 414)),
    Case("empty lines first", b"\r\n" * 500_000 + get(), REFUSED),
]

KEEP = b"Connection: keep-alive"


def _old(*lines: bytes) -> bytes:
    return get(*lines, start=b"GET / HTTP/1.0")


THREE = tuple(("GET", path, b"") for path in (b"/1", b"/2", b"/3"))
ONE = THREE[:1]


def _of(path: bytes, *lines: bytes) -> bytes:
    return get(*lines, start=b"GET " + path + b" HTTP/1.1")


#: What becomes of the connection: RFC 9112 section 9, RFC 9110 sections 7.8 and 10.1.1.
CONNECTIONS = [
    Case("plain", get(), GET),
    Case("close", get(CLOSE), GET_CLOSE),
    Case("close, keep-alive", get(b"Connection: close, keep-alive"), GET_CLOSE),
    Case("keep-alive, close", get(b"Connection: keep-alive, close"), GET_CLOSE),
    Case("close and keep-alive in two", get(CLOSE, KEEP), GET_CLOSE),
    Case("keep-alive and close in two", get(KEEP, CLOSE), GET_CLOSE),
    Case("close in capitals", get(b"CONNECTION: CLOSE"), GET_CLOSE),
    Case("close in a list with blanks", get(b"Connection: , x ,\tclose ,"), GET_CLOSE),
    Case("a name that only begins so", get(b"Connection: closed"), GET),
    Case("1.0", _old(), GET_CLOSE),
    Case("1.0 close", _old(CLOSE), GET_CLOSE),
    Case("1.0 keep-alive", _old(KEEP), GET + GET_CLOSE),
    Case("1.0 keep-alive, close", _old(b"Connection: keep-alive, close"), GET_CLOSE),
    Case("1.0 close, keep-alive", _old(b"Connection: close, keep-alive"), GET_CLOSE),
    Case(
        "1.0 POST",
        get(b"Content-Length: 5", start=b"POST / HTTP/1.0") + b"hello",
        served("POST", body=b"hello", more=False),
    ),
    Case(
        "three, pipelined",
        b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n"
        b"GET /3 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        (Outcome((200, 200, 200), THREE),),
    ),
    Case("three, pipelined, open", _of(b"/1") + _of(b"/2") + _of(b"/3"), (Outcome((200, 200, 200), THREE, True),)),
    Case("nothing after close", _of(b"/1", CLOSE) + _of(b"/2"), (Outcome((200,), ONE),)),
    Case("nonsense after close", _of(b"/1", CLOSE) + b"\x00\r\n\r\n", (Outcome((200,), ONE),)),
    Case("fault in the second", _of(b"/1") + _of(b"/2", b"X : y") + _of(b"/3"), (Outcome((200, 400), ONE),)),
    Case("nonsense second", _of(b"/1") + b"\x00\r\n\r\n" + _of(b"/3"), (Outcome((200, 400), ONE),)),
    Case(
        "fault behind a body",
        post(b"Content-Length: 5", body=b"helloX") + _of(b"/3"),
        # The method XGET is as well-formed as it is unknown.
        (Outcome((200, 400), (("POST", b"/", b"hello"),)), Outcome((200, 501), (("POST", b"/", b"hello"),))),
    ),
    Case(
        "CRLF behind a body",
        post(b"Content-Length: 5", body=b"hello\r\n") + _of(b"/1"),
        (Outcome((200, 200), (("POST", b"/", b"hello"), *ONE), True),),
    ),
    Case(
        "chunks and another request",
        post(CHUNKED, body=b"5\r\nhello\r\n" + END) + _of(b"/1"),
        (Outcome((200, 200), (("POST", b"/", b"hello"), *ONE), True),),
    ),
    Case(
        "h2c",
        get(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"),
        GET,
    ),
    Case(
        "h2c and another request",
        get(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk") + _of(b"/1"),
        (Outcome((200, 200), (("GET", b"/", b""), *ONE), True),),
    ),
    Case(
        "unknown upgrade with a body",
        b"POST / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: foo\r\nContent-Length: 5\r\n\r\nhello",
        served("POST", body=b"hello", more=False),
    ),
    Case(
        "unknown upgrade with a body, open",
        post(b"Connection: Upgrade", b"Upgrade: foo", b"Content-Length: 5", body=b"hello") + _of(b"/1"),
        (Outcome((200, 200), (("POST", b"/", b"hello"), *ONE), True),),
    ),
    Case(
        "unknown upgrade with chunks",
        post(b"Connection: Upgrade", b"Upgrade: foo", CHUNKED, body=b"5\r\nhello\r\n" + END) + _of(b"/1"),
        (Outcome((200, 200), (("POST", b"/", b"hello"), *ONE), True),),
    ),
    Case("upgrade without Connection", get(b"Upgrade: foo"), GET),
    Case("websocket without Connection", get(b"Upgrade: websocket"), GET + refused(400, 426)),
    Case("Connection: upgrade without Upgrade", get(b"Connection: Upgrade"), GET),
    Case("unknown upgrade in 1.0", _old(b"Connection: Upgrade", b"Upgrade: foo"), GET_CLOSE),
    Case(
        "unknown expectation",
        b"POST / HTTP/1.1\r\nHost: x\r\nExpect: foo\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        refused(417) + served("POST", more=False),
    ),
    Case("unknown expectation, open", post(b"Expect: foo", b"Content-Length: 0"), refused(417) + EMPTY),
    Case("expects 100", post(b"Expect: 100-continue", b"Content-Length: 5", body=b"hello"), HELLO),
    Case("expects 100 in capitals", post(b"Expect: 100-CONTINUE", b"Content-Length: 5", body=b"hello"), HELLO),
    Case("expects 100 for chunks", post(b"Expect: 100-continue", CHUNKED, body=b"5\r\nhello\r\n" + END), HELLO),
    Case("expects 100 for nothing", post(b"Expect: 100-continue", b"Content-Length: 0"), EMPTY),
    Case("expects 100 in 1.0", _old(b"Expect: 100-continue"), GET_CLOSE),
]
