"""Raw requests that servers have got wrong, each with the outcomes that are right: framing, heads and hosts.

Bodies, oversize and connection cases are in `http_corpus_bodies`; both are data for `test_http_strict`.
"""

from __future__ import annotations

from typing import NamedTuple


class Outcome(NamedTuple):
    """What may come of a case."""

    #: Final answers, in order.
    statuses: tuple[int, ...]
    #: What the application has received whole, in order: (method, raw target without its query, body).
    requests: tuple[tuple[str, bytes, bytes], ...] = ()
    #: The connection goes on, and what follows on it is served.
    open: bool = False


class Case(NamedTuple):
    name: str
    data: bytes
    outcomes: tuple[Outcome, ...]
    #: The fault is in the body, so that the application may have been called; it must not get the body's end.
    in_body: bool = False
    #: Headers that the application must have received with the first request, exactly these and in this order.
    headers: tuple[tuple[bytes, bytes], ...] | None = None


def refused(*statuses: int) -> tuple[Outcome, ...]:
    """One answer of any of these statuses, 400 if none is given; then the connection is closed."""
    return tuple(Outcome((status,)) for status in statuses or (400,))


def served(
    method: str = "GET", path: bytes = b"/", body: bytes = b"", *, status: int = 200, more: bool = True
) -> tuple[Outcome, ...]:
    """The one request is served; `more` says whether the connection goes on."""
    return (Outcome((status,), ((method, path, body),), more),)


#: The connection is ended without another word, which is the most that some input deserves.
SILENT = (Outcome(()),)
REFUSED = refused()
HELLO = served("POST", b"/", b"hello")
EMPTY = served("POST")
GET = served()
GET_CLOSE = served(more=False)


def get(*lines: bytes, start: bytes = b"GET / HTTP/1.1") -> bytes:
    """A request that is well-formed but for these header lines or its request line."""
    return b"\r\n".join([start, b"Host: x", *lines, b"", b""])


def post(*lines: bytes, body: bytes = b"") -> bytes:
    return get(*lines, start=b"POST / HTTP/1.1") + body


CHUNKED = b"Transfer-Encoding: chunked"
CLOSE = b"Connection: close"
END = b"0\r\n\r\n"

#: The length of a body said twice, or not in digits: RFC 9112 section 6.3, and request smuggling since.
LENGTHS = [
    Case("both, length first", post(b"Content-Length: 6", CHUNKED, body=b"0\r\n\r\nX"), REFUSED),
    Case("both, length last", post(CHUNKED, b"Content-Length: 3", body=END), REFUSED),
    Case("both, length not a number", post(CHUNKED, b"Content-Length: x", body=END), REFUSED),
    Case("both, length 0", post(CHUNKED, b"Content-Length: 0", body=END), REFUSED),
    Case("both, on GET", get(b"Content-Length: 5", CHUNKED) + END, REFUSED),
    Case("both, in other cases", post(b"CONTENT-LENGTH: 5", b"transfer-encoding: chunked", body=END), REFUSED),
    Case("twice the same", post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"), REFUSED + HELLO),
    Case("twice, different", post(b"Content-Length: 5", b"Content-Length: 6", body=b"hello"), REFUSED),
    Case("twice, the first 0", post(b"Content-Length: 0", b"Content-Length: 5", body=b"hello"), REFUSED),
    Case("twice, the second 0", post(b"Content-Length: 5", b"Content-Length: 0", body=b"hello"), REFUSED),
    Case("twice, the second empty", post(b"Content-Length: 5", b"Content-Length:", body=b"hello"), REFUSED),
    Case("list of the same", post(b"Content-Length: 5, 5", body=b"hello"), REFUSED + HELLO),
    Case("list of two", post(b"Content-Length: 5, 6", body=b"hello"), REFUSED),
    Case("list, no space", post(b"Content-Length: 5,5", body=b"hello"), REFUSED + HELLO),
    Case("trailing comma", post(b"Content-Length: 5,", body=b"hello"), REFUSED),
    Case("minus 1", post(b"Content-Length: -1"), REFUSED),
    Case("minus 0", post(b"Content-Length: -0"), REFUSED),
    Case("plus 5", post(b"Content-Length: +5", body=b"hello"), REFUSED),
    Case("hexadecimal", post(b"Content-Length: 0x5", body=b"hello"), REFUSED),
    Case("binary", post(b"Content-Length: 0b1", body=b"h"), REFUSED),
    Case("over 2^64", post(b"Content-Length: 18446744073709551621", body=b"hello"), refused(400, 413)),
    Case("2^64", post(b"Content-Length: 18446744073709551616", body=b"hello"), refused(400, 413)),
    Case("a thousand digits", post(b"Content-Length: " + b"9" * 1000, body=b"hello"), refused(400, 413)),
    Case("empty", post(b"Content-Length: "), REFUSED),
    Case("blank", post(b"Content-Length: \t "), REFUSED),
    Case("fraction", post(b"Content-Length: 5.0", body=b"hello"), REFUSED),
    Case("exponent", post(b"Content-Length: 5e0", body=b"hello"), REFUSED),
    Case("underscore", post(b"Content-Length: 0_5", body=b"hello"), REFUSED),
    Case("two numbers", post(b"Content-Length: 5 5", body=b"hello"), REFUSED),
    Case("parameter", post(b"Content-Length: 5;a=b", body=b"hello"), REFUSED),
    Case("quoted", post(b'Content-Length: "5"', body=b"hello"), REFUSED),
    Case("other digits", post("Content-Length: \N{ARABIC-INDIC DIGIT FIVE}".encode(), body=b"hello"), REFUSED),
    Case("VT before", post(b"Content-Length: \x0b5", body=b"hello"), REFUSED),
    Case("FF after", post(b"Content-Length: 5\x0c", body=b"hello"), REFUSED),
    Case("NUL after", post(b"Content-Length: 5\x00", body=b"hello"), REFUSED),
    Case("spaces around", post(b"Content-Length:  5  ", body=b"hello"), HELLO),
    Case("tabs around", post(b"Content-Length:\t5\t", body=b"hello"), REFUSED + HELLO),
    Case("no space", post(b"Content-Length:5", body=b"hello"), HELLO),
    Case("leading zero", post(b"Content-Length: 05", body=b"hello"), REFUSED + HELLO),
    Case("forty leading zeros", post(b"Content-Length: " + b"0" * 40 + b"5", body=b"hello"), REFUSED + HELLO),
    Case(
        "GET with a body", get(b"Content-Length: 5", b"Connection: close") + b"hello", served(body=b"hello", more=False)
    ),
    Case("GET with a body, open", get(b"Content-Length: 5") + b"hello", served(body=b"hello")),
    Case(
        "HEAD with a body",
        get(b"Content-Length: 5", start=b"HEAD / HTTP/1.1") + b"hello",
        served("HEAD", body=b"hello"),
    ),
    Case("POST without a length", post(), EMPTY),
    Case("length in a name with _", post(b"Content_Length: 5"), EMPTY + REFUSED),
    Case("space before the colon", post(b"Content-Length : 5", body=b"hello"), REFUSED),
    Case("tab before the colon", post(b"Content-Length\t: 5", body=b"hello"), REFUSED),
    Case("NUL before the colon", post(b"Content-Length\x00: 5", body=b"hello"), REFUSED),
    Case("folded name", b"POST / HTTP/1.1\r\nHost: x\r\n Content-Length: 5\r\n\r\nhello", REFUSED),
    Case("folded name, tab", b"POST / HTTP/1.1\r\nHost: x\r\n\tContent-Length: 5\r\n\r\nhello", REFUSED),
    Case("folded value", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n 5\r\n\r\nhello", REFUSED),
    Case("behind a bare LF", post(b"X: y\nContent-Length: 5", body=b"hello"), REFUSED),
    Case("behind a bare CR", post(b"X: y\rContent-Length: 5", body=b"hello"), REFUSED),
]

#: Codings of the body: "chunked" alone is served (RFC 9112 section 6.1).
CODINGS = [
    Case(
        "folded", b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n , identity\r\n\r\n0\r\n\r\n", REFUSED
    ),
    Case("folded first", b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", REFUSED),
    *(
        Case(name, post(b"Transfer-Encoding: " + value, body=END), refused(400, 501))
        for name, value in [
            ("xchunked", b"xchunked"),
            ("chunkedx", b"chunkedx"),
            ("identity", b"identity"),
            ("gzip", b"gzip"),
            ("gzip, chunked", b"gzip, chunked"),
            ("chunked, gzip", b"chunked, gzip"),
            ("chunked, identity", b"chunked, identity"),
            ("identity, chunked", b"identity, chunked"),
            ("identity,chunked", b"identity,chunked"),
            ("chunked, chunked", b"chunked, chunked"),
            ("chunked chunked", b"chunked chunked"),
            ("chunked with a parameter", b"chunked;q=1"),
            ("quoted", b'"chunked"'),
            ("single quotes", b"'chunked'"),
            ("in a parameter", b"x; chunked"),
            ("nothing", b""),
            ("a comma", b","),
            ("VT before", b"\x0bchunked"),
            ("VT after", b"chunked\x0b"),
            ("FF before", b"\x0cchunked"),
            ("NUL after", b"chunked\x00"),
            ("no-break space", b"\xa0chunked"),
            ("backslash", b"chunke\\d"),
            ("Kelvin sign for k", "chun\N{KELVIN SIGN}ed".encode()),
            ("fullwidth c", "\N{FULLWIDTH LATIN SMALL LETTER C}hunked".encode()),
            ("cow", b"cow"),
        ]
    ),
    *(
        Case(name, post(b"Transfer-Encoding:" + value, body=b"5\r\nhello\r\n" + END), REFUSED + HELLO)
        for name, value in [
            ("trailing comma", b" chunked,"),
            ("trailing comma and space", b" chunked, "),
            ("leading comma", b" ,chunked"),
            ("tab before", b"\tchunked"),
            ("tab after", b" chunked\t"),
            ("spaces around", b"  chunked  "),
            ("upper case", b" CHUNKED"),
            ("mixed case", b" cHuNkEd"),
        ]
    ),
    Case("on GET", get(CHUNKED) + b"5\r\nhello\r\n" + END, served(body=b"hello")),
    Case("twice chunked", post(CHUNKED, CHUNKED, body=END), refused(400, 501)),
    Case("twice, identity first", post(b"Transfer-Encoding: identity", CHUNKED, body=END), refused(400, 501)),
    Case("twice, identity last", post(CHUNKED, b"Transfer-Encoding: identity", body=END), refused(400, 501)),
    Case("twice, empty first", post(b"Transfer-Encoding:", CHUNKED, body=END), refused(400, 501)),
    Case("HTTP/1.0", b"POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", REFUSED),
    Case(
        "HTTP/1.0 kept alive",
        b"POST / HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        REFUSED,
    ),
    Case(
        "HTTP/1.0 with a length",
        b"POST / HTTP/1.0\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        REFUSED,
    ),
    Case("space before the colon", post(b"Transfer-Encoding : chunked", body=END), REFUSED),
    Case("tab before the colon", post(b"Transfer-Encoding\t: chunked", body=END), REFUSED),
    Case("VT before the colon", post(b"Transfer-Encoding\x0b: chunked", body=END), REFUSED),
    Case("space before the name", post(b" Transfer-Encoding: chunked", body=END), REFUSED),
    Case("behind a bare LF", post(b"X: y\nTransfer-Encoding: chunked", body=END), REFUSED),
    Case("behind a bare CR", post(b"X: y\rTransfer-Encoding: chunked", body=END), REFUSED),
    Case("in a name with _", post(b"Transfer_Encoding: chunked", b"Content-Length: 5", body=b"hello"), HELLO + REFUSED),
]

#: Request lines: RFC 9112 section 3.
LINES = [
    Case("no version (0.9)", b"GET /\r\n\r\n", REFUSED),
    Case("no version, space", b"GET / \r\n\r\n", REFUSED),
    Case("no target", b"GET HTTP/1.1\r\nHost: x\r\n\r\n", REFUSED),
    Case("no method", b"/ HTTP/1.1\r\nHost: x\r\n\r\n", REFUSED),
    Case("1.2", b"GET / HTTP/1.2\r\nHost: x\r\n\r\n", refused(400, 505) + GET),
    *(
        Case(f"version {name}", get(start=b"GET / " + version), refused(400, 505))
        for name, version in [
            ("2.0", b"HTTP/2.0"),
            ("3.0", b"HTTP/3.0"),
            ("0.9", b"HTTP/0.9"),
            ("9.9", b"HTTP/9.9"),
            ("2", b"HTTP/2"),
            ("11", b"HTTP/11"),
            ("1.10", b"HTTP/1.10"),
            ("01.1", b"HTTP/01.1"),
            ("1.01", b"HTTP/1.01"),
            ("1,1", b"HTTP/1,1"),
            ("1.", b"HTTP/1."),
            (".1", b"HTTP/.1"),
            ("missing", b"HTTP/"),
            ("-1.1", b"HTTP/-1.1"),
            ("1.x", b"HTTP/1.x"),
            ("1.1x", b"HTTP/1.1x"),
            ("lower", b"http/1.1"),
            ("mixed", b"HtTP/1.1"),
            ("HTTPS", b"HTTPS/1.1"),
            ("HTT", b"HTT/1.1"),
            ("XHTTP", b"XHTTP/1.1"),
            ("RTSP", b"RTSP/1.0"),
            ("ICE", b"ICE/1.0"),
            ("of NUL", b"HTTP/1.1\x00"),
        ]
    ),
    Case("RTSP DESCRIBE", get(start=b"DESCRIBE / RTSP/1.0"), refused(400, 405, 501, 505)),
    Case("RTSP OPTIONS", get(start=b"OPTIONS / RTSP/1.0"), refused(400, 505)),
    Case("ICE SOURCE", get(start=b"SOURCE / ICE/1.0"), refused(400, 405, 501, 505)),
    Case("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", refused(400, 505)),
    Case("two spaces before the target", get(start=b"GET  / HTTP/1.1"), REFUSED),
    Case("two spaces after the target", get(start=b"GET /  HTTP/1.1"), REFUSED),
    Case("space at the start", get(start=b" GET / HTTP/1.1"), REFUSED),
    Case("space at the end", get(start=b"GET / HTTP/1.1 "), REFUSED),
    Case("tab at the end", get(start=b"GET / HTTP/1.1\t"), REFUSED),
    Case("tabs between", get(start=b"GET\t/\tHTTP/1.1"), REFUSED),
    Case("VT between", get(start=b"GET\x0b/\x0bHTTP/1.1"), REFUSED),
    Case("no-break space between", get(start=b"GET /\xa0HTTP/1.1"), REFUSED),
    Case("space in the target", get(start=b"GET /a b HTTP/1.1"), REFUSED),
    Case("two versions", get(start=b"GET / HTTP/1.1 HTTP/1.1"), REFUSED),
    Case("CR within", get(start=b"GET /\r HTTP/1.1"), REFUSED),
    Case("CR CR LF", get(start=b"GET / HTTP/1.1\r"), REFUSED),
    Case("LF alone", b"GET / HTTP/1.1\nHost: x\r\n\r\n", REFUSED),
    Case("LF in the target", b"GET /a\nX: b HTTP/1.1\r\nHost: x\r\n\r\n", REFUSED),
    Case("LF alone everywhere", b"GET / HTTP/1.1\nHost: x\n\n", REFUSED),
    Case("CR alone", b"GET / HTTP/1.1\rHost: x\r\r", REFUSED),
    Case("LF CR", b"GET / HTTP/1.1\n\rHost: x\n\r\n\r", REFUSED),
    Case("CRLF before", b"\r\nGET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", GET_CLOSE),
    Case("LF before", b"\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", REFUSED + GET),
    Case("CR before", b"\rGET / HTTP/1.1\r\nHost: x\r\n\r\n", REFUSED + GET),
    Case("NUL before", b"\x00GET / HTTP/1.1\r\nHost: x\r\n\r\n", REFUSED),
    Case("byte order mark before", b"\xef\xbb\xbfGET / HTTP/1.1\r\nHost: x\r\n\r\n", REFUSED),
    *(
        Case(f"method {name}", get(start=method + b" / HTTP/1.1"), refused(400, 405, 501))
        for name, method in [
            ("lower case", b"get"),
            ("mixed case", b"Get"),
            ("lower case post", b"post"),
            ("with a delimiter", b"GE(T"),
            ("quoted", b'"GET"'),
            ("with NUL", b"G\x00T"),
            ("non-ASCII", b"G\xc9T"),
            ("with DEL", b"GET\x7f"),
            ("empty", b""),
        ]
    ),
    Case("method unknown", get(start=b"FROBNICATE / HTTP/1.1"), refused(400, 405, 501) + served("FROBNICATE")),
    Case("method very long", get(start=b"A" * 20_000 + b" / HTTP/1.1"), refused(400, 405, 414, 431, 501)),
    *(
        Case(f"method {method}", get(start=method.encode() + b" / HTTP/1.1"), served(method))
        for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND")
    ),
    Case("method TRACE", get(start=b"TRACE / HTTP/1.1"), served("TRACE") + refused(405, 501)),
    Case("method HEAD", get(start=b"HEAD / HTTP/1.1"), served("HEAD")),
    Case("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)), REFUSED + SILENT),
    Case("SSH", b"SSH-2.0-OpenSSH_9.6\r\n", REFUSED),
    Case("SOCKS", b"\x05\x01\x00", REFUSED + SILENT),
    Case("PROXY", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + get(), REFUSED),
    Case("a response", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", REFUSED),
    Case("JSON", b'{"method": "GET"}\r\n\r\n', REFUSED),
]


def _target(name: str, target: bytes, outcomes: tuple[Outcome, ...]) -> Case:
    return Case(name, get(start=b"GET " + target + b" HTTP/1.1"), outcomes)


#: Targets: RFC 9112 section 3.2, RFC 3986.
TARGETS = [
    _target("no slash", b"@google.com", REFUSED),
    _target("relative", b"index.html", REFUSED),
    _target("query alone", b"?a", REFUSED),
    _target("asterisk", b"*", REFUSED),
    _target("asterisk and more", b"*/a", REFUSED),
    _target("authority", b"x:80", REFUSED),
    _target("fragment", b"/#a", REFUSED),
    _target("fragment before the query", b"/a#b?c", REFUSED),
    _target("fragment after the query", b"/a?b#c", REFUSED),
    _target("NUL", b"/\x00", REFUSED),
    _target("NUL within", b"/a\x00b", REFUSED),
    _target("SOH", b"/\x01", REFUSED),
    _target("ESC", b"/\x1b[2J", REFUSED),
    _target("DEL", b"/\x7f", REFUSED),
    _target("tab", b"/a\tb", REFUSED),
    _target("NUL in the query", b"/?a=\x00", REFUSED),
    _target("DEL in the query", b"/?a=\x7f", REFUSED),
    _target("non-ASCII", b"/\xe9", REFUSED + served(path=b"/\xe9")),
    _target("UTF-8", "/é".encode(), REFUSED + served(path="/é".encode())),
    _target("non-ASCII query", b"/?\xe9", REFUSED + GET),
    _target("two slashes", b"//evil.example/a", served(path=b"//evil.example/a")),
    _target("dots", b"/a/../../b", served(path=b"/a/../../b")),
    _target("escaped", b"/%41%2f%2e", served(path=b"/%41%2f%2e")),
    _target("escaped NUL", b"/%00", REFUSED + served(path=b"/%00")),
    _target("escaped CRLF", b"/%0d%0aX:%20y", REFUSED + served(path=b"/%0d%0aX:%20y")),
    _target("no hexadecimal digits", b"/%zz%", REFUSED + served(path=b"/%zz%")),
    _target("not UTF-8 when decoded", b"/%ff", REFUSED + served(path=b"/%ff")),
    _target("not of RFC 3986", b'/<>"{}|\\^`', REFUSED + served(path=b'/<>"{}|\\^`')),
    _target("two question marks", b"/a?b?c", served(path=b"/a")),
    _target("absolute", b"http://x/abs", served(path=b"/abs")),
    _target("absolute, query", b"http://x/abs?a=b", served(path=b"/abs")),
    _target("absolute, no path", b"http://x", GET),
    _target("absolute, query and no path", b"http://x?a", GET + REFUSED),
    _target("absolute, upper case", b"HTTP://X/abs", served(path=b"/abs") + REFUSED),
    _target("absolute, no host", b"http:///abs", REFUSED),
    _target("absolute, userinfo", b"http://user:pass@x/abs", REFUSED),
    _target("absolute, fragment", b"http://x/#a", REFUSED),
    _target("absolute, ftp", b"ftp://x/abs", REFUSED),
    _target("absolute, javascript", b"javascript:alert(1)", REFUSED),
    _target("absolute, bad port", b"http://x:a/abs", REFUSED),
    _target("absolute, space in the host", b"http://x y/abs", REFUSED),
    _target("absolute, unclosed bracket", b"http://[::1/abs", REFUSED),
    Case(
        "absolute, another Host",
        get(start=b"GET http://real.example/abs HTTP/1.1"),
        REFUSED + served(path=b"/abs"),
        headers=((b"host", b"real.example"),),  # RFC 9112 section 3.2.2: the target's replaces it
    ),
    Case("absolute, no Host", b"GET http://x/abs HTTP/1.1\r\n\r\n", REFUSED),
    Case(
        "OPTIONS *",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        served("OPTIONS", b"*", more=False),
    ),
    Case("POST *", get(start=b"POST * HTTP/1.1"), REFUSED),
    Case("CONNECT", b"CONNECT victim:443 HTTP/1.1\r\nHost: victim:443\r\n\r\n", refused(400, 405, 501)),
    Case("CONNECT, path", get(start=b"CONNECT / HTTP/1.1"), refused(400, 405, 501)),
    Case(
        "CONNECT, with a body",
        b"CONNECT victim:443 HTTP/1.1\r\nHost: victim:443\r\nContent-Length: 5\r\n\r\nhello",
        refused(400, 405, 501),
    ),
]


def _host(name: str, value: bytes, outcomes: tuple[Outcome, ...]) -> Case:
    return Case(name, b"GET / HTTP/1.1\r\nHost: " + value + b"\r\n\r\n", outcomes)


#: Hosts: one in each request of HTTP/1.1 (RFC 9112 section 3.2), uri-host and port (RFC 9110 section 7.2).
HOSTS = [
    Case("none", b"GET / HTTP/1.1\r\n\r\n", REFUSED),
    Case("none but other headers", b"GET / HTTP/1.1\r\nX-Host: x\r\n\r\n", REFUSED),
    Case("none in 1.0", b"GET / HTTP/1.0\r\n\r\n", GET_CLOSE),
    Case("two", get(b"Host: y"), REFUSED),
    Case("twice the same", get(b"Host: x"), REFUSED),
    Case("two, other case", get(b"HOST: y"), REFUSED),
    Case("two in 1.0", b"GET / HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n", REFUSED),
    Case("space before the colon", b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", REFUSED),
    Case("space before the name", b"GET / HTTP/1.1\r\n Host: x\r\n\r\n", REFUSED),
    Case("folded", b"GET / HTTP/1.1\r\nHost: x\r\n y\r\n\r\n", REFUSED),
    _host("empty", b"", REFUSED + GET),
    _host("path and query", b"a/?x=", REFUSED),
    _host("list", b"x, y", REFUSED),
    _host("list, no space", b"x,y", REFUSED + GET),
    _host("space", b"x y", REFUSED),
    _host("tab", b"x\ty", REFUSED),
    _host("userinfo", b"user@x", REFUSED),
    _host("fragment", b"x#y", REFUSED),
    _host("backslash", b"x\\y", REFUSED),
    _host("quotes", b'"x"', REFUSED),
    _host("angle brackets", b"<script>", REFUSED),
    _host("scheme", b"http://x", REFUSED),
    _host("two ports", b"x:80:80", REFUSED),
    _host("port in letters", b"x:http", REFUSED),
    _host("negative port", b"x:-1", REFUSED),
    _host("port out of range", b"x:99999", REFUSED + GET),
    _host("port alone", b":80", REFUSED),
    _host("non-ASCII", b"\xe9", REFUSED),
    _host("NUL", b"x\x00y", REFUSED),
    _host("unclosed bracket", b"[::1", REFUSED),
    _host("no bracket", b"::1", REFUSED),
    _host("words after the bracket", b"[::1]x", REFUSED),
    _host("not an address in brackets", b"[x y]", REFUSED),
    _host("port", b"x:8080", GET),
    _host("empty port", b"x:", GET),
    _host("IPv6", b"[::1]:80", GET),
    _host("IPv4", b"127.0.0.1:80", GET),
    _host("underscore", b"a_b.example", GET),
    _host("spaces around", b"  x  ", GET),
]

#: Header lines: RFC 9112 section 5, RFC 9110 section 5.
HEADERS = [
    Case("bare CR", get(b"X-A: b\rZ: c"), REFUSED),
    Case("CR CR LF", get(b"X-A: b\r"), REFUSED),
    Case("bare LF ends a line", get(b"X-A: b\nZ: c"), REFUSED),
    Case("bare LF ends the head", b"GET / HTTP/1.1\r\nHost: x\r\n\n", REFUSED),
    Case("LF CRLF ends the head", b"GET / HTTP/1.1\r\nHost: x\n\r\n", REFUSED),
    Case("CR CR LF ends the head", b"GET / HTTP/1.1\r\nHost: x\r\n\r\r\n", REFUSED),
    *(
        Case(f"value with {name}", get(b"X-A: a" + value + b"b"), REFUSED)
        for name, value in [
            ("NUL", b"\x00"),
            ("SOH", b"\x01"),
            ("BEL", b"\x07"),
            ("BS", b"\x08"),
            ("VT and a line", b"\x0bX-B: c"),
            ("FF", b"\x0c"),
            ("ESC", b"\x1b"),
            ("US", b"\x1f"),
            ("DEL", b"\x7f"),
        ]
    ),
    *(
        Case(f"name with {name}", get(b"X" + value + b"A: b"), REFUSED)
        for name, value in [
            ("NUL", b"\x00"),
            ("SOH", b"\x01"),
            ("tab", b"\t"),
            ("VT", b"\x0b"),
            ("ESC", b"\x1b"),
            ("space", b" "),
            ("DEL", b"\x7f"),
            ("non-ASCII", b"\xe9"),
            ("UTF-8", "é".encode()),
            ("CR", b"\r"),
            *((f"delimiter {chr(one)}", bytes([one])) for one in b'"(),/;<=>?@[\\]{}'),
        ]
    ),
    Case("name non-ASCII at its end", get(b"X\xe9: b"), REFUSED),
    Case("empty name", get(b": b"), REFUSED),
    Case("empty name, space", get(b" : b"), REFUSED),
    Case("no colon", get(b"X-A"), REFUSED),
    Case("no colon, space", get(b"X-A b"), REFUSED),
    Case("folded", get(b"X-A: b", b" c"), REFUSED),
    Case("folded, tab", get(b"X-A: b", b"\tc"), REFUSED),
    Case("folded, empty", get(b"X-A: b", b" "), REFUSED),
    Case("space before the first", b"GET / HTTP/1.1\r\n X: y\r\nHost: x\r\n\r\n", REFUSED),
    Case("blank before the first", b"GET / HTTP/1.1\r\n \r\nHost: x\r\n\r\n", REFUSED),
    Case("space before the colon", get(b"X-A : b"), REFUSED),
    Case("pseudo-header", get(b":path: /smuggled"), REFUSED),
    Case("tab within", get(b"X-A: b\tc"), GET, headers=((b"host", b"x"), (b"x-a", b"b\tc"))),
    Case("obs-text", get(b"X-A: \xe9\xff"), GET + REFUSED, headers=((b"host", b"x"), (b"x-a", b"\xe9\xff"))),
    Case("empty value", get(b"X-A:", b"X-B: "), GET, headers=((b"host", b"x"), (b"x-a", b""), (b"x-b", b""))),
    Case("space around", get(b"X-A: \t b c \t "), GET, headers=((b"host", b"x"), (b"x-a", b"b c"))),
    Case(
        "several of a name, in order",
        get(b"X-A: 1", b"X-B: 2", b"x-a: 3"),
        GET,
        headers=((b"host", b"x"), (b"x-a", b"1"), (b"x-b", b"2"), (b"x-a", b"3")),
    ),
    Case("all of a token", get(b"!#$%&'*+-.^_`|~09azAZ: b"), GET + REFUSED),
]
