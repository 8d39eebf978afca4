"""Requests on the wire: each three ways, as a whole, byte by byte, and with something behind it."""

from __future__ import annotations

import pytest

from cyasgi.wire.http import HTTPError
from cyasgi.wire.http.body import MAX_TRAILERS, ChunkedBody, LengthBody
from cyasgi.wire.http.request import HeadLimits, split_list
from support.head_twins import TWINS

NEXT = b"GET /next HTTP/1.1\r\nHost: y\r\n\r\n"


@pytest.fixture(autouse=True, params=TWINS)
def _twin(request, monkeypatch):
    """Each test reads with either twin."""
    monkeypatch.setitem(globals(), "HeadParser", TWINS[request.param])


class HeadParser:
    """The twin of the test."""


def read(pieces, *, strict=True, limits=HeadLimits()):  # noqa: B008
    """One request out of these pieces: the parser, the body, and what is left; or the status that refuses it."""
    parser = HeadParser(limits, strict)
    buffer = bytearray()
    seen = 0
    pieces = iter(pieces)
    try:
        head = None
        while head is None:
            seen = len(buffer)
            piece = next(pieces, None)
            if piece is None:
                return "incomplete"
            buffer += piece
            head = parser.take(buffer, seen)
        parser.parse(head)
        body = ChunkedBody() if parser.chunked else LengthBody(parser.length)
        data = b""
        rest = bytes(buffer)
        while not body.done:
            if rest:
                data += body.feed(rest)
                rest = b""
            else:
                piece = next(pieces, None)
                if piece is None:
                    return "incomplete"
                rest = piece
        return parser, data, body.rest + rest + b"".join(pieces)
    except HTTPError as error:
        return error.status


def ways(data):
    """The pieces of each of the three ways."""
    return [data], [bytes([byte]) for byte in data], [data + NEXT]


def refused(data, **options):
    """The status that refuses it, the same in all three ways; None if it is served."""
    found = {result if isinstance(result := read(way, **options), int) else None for way in ways(data)}
    assert len(found) == 1, found
    return found.pop()


def accepted(data, **options):
    """What is read of it, the same in all three ways."""
    results = []
    for way in ways(data):
        result = read(way, **options)
        assert isinstance(result, tuple), result
        parser, body, rest = result
        assert rest == (NEXT if way[0].endswith(NEXT) else b"")
        fields = ("method", "target", "path", "query", "version", "headers", "keep_alive", "length", "chunked")
        fields += ("upgrade", "expects_continue", "takes_trailers")
        results.append([*(getattr(parser, field) for field in fields), body])
    assert results[0] == results[1] == results[2]
    return parser, body


HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"

REFUSED = {
    "CL and TE": HEAD + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX",
    "TE and CL": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "CL twice": HEAD + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "CL twice, different": HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "CL list": HEAD + b"Content-Length: 5, 5\r\n\r\nhello",
    "CL -1": HEAD + b"Content-Length: -1\r\n\r\n",
    "CL +5": HEAD + b"Content-Length: +5\r\n\r\nhello",
    "CL 5_0": HEAD + b"Content-Length: 5_0\r\n\r\nhello",
    "CL 0x5": HEAD + b"Content-Length: 0x5\r\n\r\nhello",
    "CL overflow": HEAD + b"Content-Length: 18446744073709551621\r\n\r\nhello",
    "CL empty": HEAD + b"Content-Length: \r\n\r\n",
    "space before colon": HEAD + b"Content-Length : 5\r\n\r\nhello",
    "obs-fold first": b"POST / HTTP/1.1\r\nHost: x\r\n Content-Length: 5\r\n\r\nhello",
    "obs-fold in TE": HEAD + b"Transfer-Encoding: chunked\r\n , identity\r\n\r\n0\r\n\r\n",
    "TE xchunked": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "TE identity": HEAD + b"Transfer-Encoding: identity\r\n\r\n",
    "TE empty": HEAD + b"Transfer-Encoding:\r\n\r\n",
    "TE gzip, chunked": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "TE gzip and chunked": HEAD + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE gzip": HEAD + b"Transfer-Encoding: gzip\r\n\r\n",
    "TE chunked, gzip": HEAD + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "TE chunked and empty": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding:\r\n\r\n0\r\n\r\n",
    "TE empty member": HEAD + b"Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n",
    "TE no token": HEAD + b"Transfer-Encoding: g\x80zip, chunked\r\n\r\n0\r\n\r\n",
    "TE chunked, chunked": HEAD + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "TE twice": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE with VT": HEAD + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "TE on 1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bare LF": b"GET / HTTP/1.1\nHost: x\n\n",
    "bare LF at the end": b"GET / HTTP/1.1\r\nHost: x\r\n\n",
    "bare LF in between": b"GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n",
    "bare CR": b"GET / HTTP/1.1\r\nHost: x\r\nX-A: b\rZ: c\r\n\r\n",
    "CR CR LF": b"GET / HTTP/1.1\r\nHost: x\r\nX-A: b\r\r\n\r\n",
    "NUL in value": b"GET / HTTP/1.1\r\nHost: x\r\nX-A: a\x00b\r\n\r\n",
    "BEL in value": b"GET / HTTP/1.1\r\nHost: x\r\nX-A: a\x07b\r\n\r\n",
    "VT in value": b"GET / HTTP/1.1\r\nHost: x\r\nX-A: a\x0bX-B: c\r\n\r\n",
    "NUL in name": b"GET / HTTP/1.1\r\nHost: x\r\nX\x00A: b\r\n\r\n",
    "name not ASCII": b"GET / HTTP/1.1\r\nHost: x\r\nX\xe9: b\r\n\r\n",
    "no name": b"GET / HTTP/1.1\r\nHost: x\r\n: b\r\n\r\n",
    "no colon": b"GET / HTTP/1.1\r\nHost: x\r\nabc\r\n\r\n",
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
    "Host with a path": b"GET / HTTP/1.1\r\nHost: a/?x=\r\n\r\n",
    "Host with a user": b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n",
    "Host with a space": b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
    "Host not ASCII": b"GET / HTTP/1.1\r\nHost: \xe9\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\nHost: x\r\n\r\n",
    "HTTP/2.0": b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
    "HTTP/0.9": b"GET / HTTP/0.9\r\nHost: x\r\n\r\n",
    "preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "version in lower case": b"GET / http/1.1\r\nHost: x\r\n\r\n",
    "version and space": b"GET / HTTP/1.1 \r\nHost: x\r\n\r\n",
    "tabs": b"GET\t/\tHTTP/1.1\r\nHost: x\r\n\r\n",
    "two spaces": b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
    "two spaces behind": b"GET /  HTTP/1.1\r\nHost: x\r\n\r\n",
    "space before": b" GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "no slash": b"GET @google.com HTTP/1.1\r\nHost: x\r\n\r\n",
    "target not ASCII": b"GET /\xe9 HTTP/1.1\r\nHost: x\r\n\r\n",
    "control character in the target": b"GET /\x01 HTTP/1.1\r\nHost: x\r\n\r\n",
    "fragment": b"GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET *": b"GET * HTTP/1.1\r\nHost: x\r\n\r\n",
    "URL of another scheme": b"GET ftp://x/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "URL with a user": b"GET http://a@b/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "CONNECT": b"CONNECT victim:443 HTTP/1.1\r\nHost: victim:443\r\n\r\n",
    "CONNECT to a path": b"CONNECT /x HTTP/1.1\r\nHost: x\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}
#: Those of them that have an answer of their own.
STATUSES = {
    "TE gzip, chunked": 501,
    "TE gzip and chunked": 501,
    "HTTP/2.0": 505,
    "HTTP/0.9": 505,
    "preface of HTTP/2": 505,
    "CONNECT": 501,
    "CONNECT to a path": 501,
}
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
BAD_CHUNKS = {
    "+5": b"+5\r\nhello\r\n0\r\n\r\n",
    "-5": b"-5\r\nhello\r\n0\r\n\r\n",
    "0x5": b"0x5\r\nhello\r\n0\r\n\r\n",
    "5_": b"5_\r\nhello\r\n0\r\n\r\n",
    "space before": b" 5\r\nhello\r\n0\r\n\r\n",
    "space behind": b"5 \r\nhello\r\n0\r\n\r\n",
    "overflow": b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "empty": b"\r\nhello\r\n0\r\n\r\n",
    "LF": b"5\nhello\n0\n\n",
    "LF behind the data": b"5\r\nhello\n0\r\n\r\n",
    "LF at the end": b"5\r\nhello\r\n0\r\n\n",
    "CR and something": b"5\r\nhello\rX0\r\n\r\n",
    "data too long": b"5\r\nhelloXX0\r\n\r\n",
    "bare CR in an extension": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "NUL in an extension": b"5;a\0b\r\nhello\r\n0\r\n\r\n",
    "long extension": b"5;" + b"a" * 300 + b"\r\nhello\r\n0\r\n\r\n",
    "trailer CL": b"0\r\nContent-Length: 5\r\n\r\n",
    "trailer TE": b"0\r\ntransfer-encoding: chunked\r\n\r\n",
    "trailer with bare CR": b"0\r\nA: b\rc\r\n\r\n",
    "trailer without a name": b"0\r\n: b\r\n\r\n",
    "trailer folded": b"0\r\nA: b\r\n c\r\n\r\n",
    "trailer without colon": b"0\r\nabc\r\n\r\n",
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    """What two recipients could read in two ways, or none should read at all, is answered 400; what is well-formed and
    unknown, 501 (RFC 9110 section 9.1, RFC 9112 section 6.1) or 505 (RFC 9110 section 15.6.6)."""
    assert refused(REFUSED[name]) == STATUSES.get(name, 400)


@pytest.mark.parametrize("name", BAD_CHUNKS)
def test_bad_chunks(name):
    """So is a body whose end is in doubt."""
    assert refused(CHUNKED + BAD_CHUNKS[name]) == 400


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % (b"a" * 8190), 414),
        (b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % (b"a" * 100_000), 414),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX-A: %s\r\n\r\n" % (b"a" * 65_536), 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\n%s\r\n" % (b"A: b\r\n" * 100), 431),
        (HEAD + b"Expect: 200-ok\r\nContent-Length: 1\r\n\r\nx", 417),
        (HEAD + b"Expect: 100-continue, 200-ok\r\nContent-Length: 1\r\n\r\nx", 417),
        (HEAD + b"Expect: 100-continue\r\nExpect: 200-ok\r\nContent-Length: 1\r\n\r\nx", 417),
        (b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n", 501),
        (CHUNKED + b"0\r\n" + b"A: b\r\n" * (MAX_TRAILERS // 4), 431),
        (CHUNKED + b"1;a\r\nx\r\n" * 20_000, 400),
    ],
    ids=[
        "target",
        "long target",
        "header",
        "headers",
        "expect",
        "expect too",
        "expect twice",
        "method",
        "trailers",
        "extensions",
    ],
)
def test_limits_have_their_own_answers(data, status):
    """What is too much, or unknown, is told apart from what is wrong."""
    found = {read(way) for way in ways(data)[:2]}
    assert found == {status}


def test_a_head_that_never_ends_is_refused_before_it_is_long():
    """Neither a request line nor headers without an end are kept beyond their limits."""
    limits = HeadLimits(100, 200, 10)
    for start, status in ((b"GET /", 414), (b"GET / HTTP/1.1\r\nHost: x\r\nA: ", 431)):
        parser, buffer = HeadParser(limits), bytearray(start)
        caught = None
        while caught is None and len(buffer) < 300:
            try:
                assert parser.take(buffer, len(buffer) - 1) is None
            except HTTPError as error:
                caught = error.status
            buffer += b"a"
        assert caught == status


def test_at_the_limits():
    """What just fits is served."""
    limits = HeadLimits(10, 40, 2)
    accepted(b"GET /23456789 HTTP/1.1\r\nHost: x\r\nA: b\r\n\r\n", limits=limits)
    # 9 and 31 bytes, the ends of the lines among them
    accepted(b"GET / HTTP/1.1\r\nHost: x\r\nA: %s\r\n\r\n" % (b"a" * 26), limits=limits)
    assert refused(b"GET /2345678901 HTTP/1.1\r\nHost: x\r\n\r\n", limits=limits) == 414
    assert refused(b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\nC: d\r\n\r\n", limits=limits) == 431


def test_plain():
    """Method, target, version and headers, names in lower case, values without white space around them."""
    parser, body = accepted(b"GET /a%20b?c=d%20e HTTP/1.1\r\nHost: x:80\r\nX-Any:\t v w \t\r\nempty:\r\n\r\n")
    assert (parser.method, parser.target, parser.version) == ("GET", b"/a%20b?c=d%20e", "1.1")
    assert (parser.path, parser.query) == (b"/a%20b", b"c=d%20e")
    assert parser.headers == [(b"host", b"x:80"), (b"x-any", b"v w"), (b"empty", b"")]
    assert parser.keep_alive and not parser.chunked and parser.length == 0
    assert body == b""
    assert parser.request() == ("GET", b"/a%20b?c=d%20e", parser.headers)


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", b"/", b""),
        (b"/?", b"/", b""),
        (b"//a", b"//a", b""),
        (b"/a?b?c", b"/a", b"b?c"),
        (b"http://x/abs?q", b"/abs", b"q"),
        (b"http://x", b"/", b""),
        (b"HTTPS://[::1]:8/a", b"/a", b""),
        (b"http://x?q", b"/", b"q"),
    ],
)
def test_targets(target, path, query):
    """A path, or a whole URL, whose authority is the host then."""
    parser, _ = accepted(b"GET %s HTTP/1.1\r\nHost: y\r\n\r\n" % target)
    assert (parser.target, parser.path, parser.query) == (target, path, query)
    host = target.split(b"/")[2].partition(b"?")[0] if b"//" in target[:8] and target[:1] != b"/" else b"y"
    assert parser.headers == [(b"host", host)]


def test_odd_but_right():
    """An asterisk for OPTIONS, empty lines before a request, any token for a name, bytes beyond ASCII in a value."""
    assert accepted(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n")[0].path == b"*"
    assert accepted(b"\r\n\r\nGET / HTTP/1.1\r\nHost:\r\n\r\n")[0].headers == [(b"host", b"")]
    parser, _ = accepted(b"QUERY / HTTP/1.1\r\nHost: [::1]\r\nX_!#$%&'*+-.^`|~9: \xe9\r\n\r\n")
    assert parser.headers[1] == (b"x_!#$%&'*+-.^`|~9", b"\xe9")
    assert accepted(b"M-SEARCH / HTTP/1.1\r\nHost: x\r\n\r\n")[0].method == "M-SEARCH"


@pytest.mark.parametrize(
    ("version", "connection", "keep_alive"),
    [
        (b"1.1", None, True),
        (b"1.1", b"close", False),
        (b"1.1", b"Keep-Alive, CLOSE", False),
        (b"1.0", None, False),
        (b"1.0", b"keep-alive", True),
        (b"1.0", b"keep-alive, close", False),
        (b"1.1", b"closed", True),
        (b"1.1", b"x-hop\t,\tCLOSE,", False),
        (b"1.1", b"x-hop\r\nConnection: close", False),
        (b"1.0", b"x-hop\r\nConnection: Keep-Alive", True),
    ],
)
def test_keep_alive(version, connection, keep_alive):
    """Whether the connection can be used again (RFC 9112 section 9.3)."""
    line = b"" if connection is None else b"Connection: %s\r\n" % connection
    assert accepted(b"GET / HTTP/%s\r\nHost: x\r\n%s\r\n" % (version, line))[0].keep_alive is keep_alive


def test_the_same_parser_reads_on():
    """Requests of all kinds follow each other on one parser."""
    requests = [
        b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /2 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n",
        b"POST /3 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n",
        b"GET /4 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"GET /5 HTTP/1.0\r\n\r\n",
        b"GET /6 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /7 HTTP/1.1\r\nHost: y\r\nProxy-Connection: close\r\n\r\n",
        b"GET /8 HTTP/1.1\r\nHost: y\r\n\r\n",
    ]
    parser = HeadParser()
    for number, head in enumerate(requests, 1):
        parser.parse(head)
        assert parser.path == b"/%d" % number
        assert (parser.length, parser.chunked) == ({2: 3}.get(number, 0), number == 3)


@pytest.mark.parametrize("head", [b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"])
def test_a_refused_request_leaves_nothing_behind(head):
    """The next one is read as if it were the first."""
    parser = HeadParser()
    with pytest.raises(HTTPError):
        parser.parse(head)
    parser.parse(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert parser.headers == [(b"host", b"x")]


def test_bodies():
    """By length or in chunks, with extensions and trailers, which are ignored."""
    assert accepted(HEAD + b"Content-Length: 5\r\n\r\nhello")[1] == b"hello"
    assert accepted(HEAD + b"Content-Length: 0\r\n\r\n")[1] == b""
    assert accepted(b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")[1] == b"hello"
    assert accepted(CHUNKED + b"5\r\nhello\r\n0\r\n\r\n")[1] == b"hello"
    assert accepted(CHUNKED + b'0005;a=b;c="d"\r\nhello\r\nA\r\n0123456789\r\n000\r\n\r\n')[1] == b"hello0123456789"
    assert accepted(CHUNKED + b'5 ; a\r\nhello\r\n0;z\r\nETag: "x"\r\nX-Any: y\r\n\r\n')[1] == b"hello"
    assert accepted(HEAD + b"Connection: upgrade\r\nUpgrade: foo\r\nContent-Length: 2\r\n\r\nab")[1] == b"ab"


def test_expectations():
    """A client that waits is known; one without a body, or of HTTP/1.0, does not wait."""
    assert accepted(HEAD + b"Expect: 100-Continue\r\nContent-Length: 1\r\n\r\nx")[0].expects_continue
    assert not accepted(HEAD + b"Expect: 100-continue\r\nContent-Length: 0\r\n\r\n")[0].expects_continue
    for value in (b"100-continue, ", b"100-continue\r\nExpect: 100-Continue"):
        assert accepted(HEAD + b"Expect: %s\r\nContent-Length: 1\r\n\r\nx" % value)[0].expects_continue
    assert not accepted(HEAD + b"Expect:\r\nContent-Length: 1\r\n\r\nx")[0].expects_continue
    assert not accepted(b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx")[0].expects_continue


def test_upgrades():
    """Upgrade counts where Connection names it, and not in HTTP/1.0."""
    line = b"GET / HTTP/1.%d\r\nHost: x\r\n%sUpgrade: WebSocket\r\n\r\n"
    assert accepted(line % (1, b"Connection: keep-alive, Upgrade\r\n"))[0].upgrade == b"websocket"
    assert accepted(line % (1, b""))[0].upgrade == b""
    assert accepted(line % (0, b"Connection: Upgrade\r\n"))[0].upgrade == b""
    head = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: x\r\nConnection: upgrade\r\nUpgrade: %s\r\n\r\n"
    for value, upgrade in (
        (b"h2c, WebSocket", b"websocket"),
        (b"websocket\r\nUpgrade: h2c", b"websocket"),
        (b"H2C , foo/1", b"h2c, foo/1"),
        (b"websocket/13", b"websocket/13"),
        (b"", b""),
    ):
        assert accepted(head % value)[0].upgrade == upgrade


@pytest.mark.parametrize(
    ("lines", "takes"),
    [
        (b"", False),
        (b"TE: trailers\r\n", True),
        (b"te: deflate;q=0.5,\tTrailers\r\n", True),
        (b"TE: gzip\r\nTE: trailers\r\n", True),
        (b"TE: gzip\r\n", False),
        (b"TE: trailersx\r\n", False),
    ],
)
def test_trailers(lines, takes):
    """Whether a client takes trailers, of the list that TE is."""
    assert accepted(b"GET / HTTP/1.1\r\nHost: x\r\n%s\r\n" % lines)[0].takes_trailers is takes
    parser = HeadParser()
    parser.parse(b"GET / HTTP/1.1\r\nHost: x\r\nTE: trailers\r\n\r\n")
    parser.parse(b"GET / HTTP/1.1\r\nHost: x\r\n%s\r\n" % lines)
    assert parser.takes_trailers is takes


@pytest.mark.parametrize("name", ["no Host", "Host with a path", "HTTP/1.2", "two spaces", "fragment"])
def test_lenient(name):
    """Without strictness what is unambiguous is served."""
    data = REFUSED[name]
    assert refused(data, strict=False) is None
    assert refused(data) == 400


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in REFUSED
        if name.startswith(("CL", "TE", "obs", "bare", "CR", "HTTP", "NUL", "CONNECT", "name")) and name != "HTTP/1.2"
    ],
)
def test_lenient_is_not_ambiguous(name):
    """What decides where a request ends is checked in any case."""
    assert refused(REFUSED[name], strict=False) == STATUSES.get(name, 400)


@pytest.mark.parametrize("version", [b"1.2", b"1.9"])
def test_lenient_versions(version):
    """A higher minor version is read as the highest that there is (RFC 9110 section 2.5)."""
    parser, body = accepted(b"POST /a HTTP/%s\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi" % version, strict=False)
    assert (parser.version, parser.keep_alive, parser.path, body) == ("1.1", True, b"/a", b"hi")


@pytest.mark.parametrize("method", [b"BREW", b"get", b"M!#$%&'*+-.^_`|~9", b"DESCRIBE", b"A" * 32])
def test_lenient_methods(method):
    """Any token is a method then, and changes nothing else: neither the body, nor what the parser reads next."""
    head = method + b" /a HTTP/1.1\r\nHost: x\r\n"
    parser, _ = accepted(head + b"\r\n", strict=False)
    assert (parser.method, parser.target) == (method.decode(), b"/a")
    parser, body = accepted(head + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", strict=False)
    assert (parser.method, body) == (method.decode(), b"hi")
    parser = HeadParser(strict=False)
    for one in (method, b"POST", method, b"GET"):
        parser.parse(one + b" / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert parser.method == one.decode()


@pytest.mark.parametrize(
    ("data", "text", "strict"),
    [
        (b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n", "the method BREW is not known", True),
        (b"A" * 33 + b" / HTTP/1.1\r\nHost: x\r\n\r\n", "the method is longer than 32 bytes", False),
        (REFUSED["CONNECT"], "the method CONNECT is not implemented", True),
        (REFUSED["TE gzip, chunked"], "the transfer coding gzip is not known: accepted is chunked", True),
        (REFUSED["HTTP/2.0"], "the version of HTTP is neither 1.1 nor 1.0: HTTP/2.0", True),
        (REFUSED["URL with a user"], "there is user information in the request target", True),
    ],
)
def test_reasons(data, text, strict):
    """A refusal says what there is to change."""
    parser = HeadParser(strict=strict)
    with pytest.raises(HTTPError) as caught:
        parser.parse(parser.take(bytearray(data)))
    assert str(caught.value) == text


def test_split_list():
    """The items of all lines of a header, in order."""
    headers = [(b"a", b"x, y"), (b"b", b"no"), (b"a", b" ,z ")]
    assert split_list(headers, b"a") == ["x", "y", "z"]
    assert split_list(headers, b"c") == []
