"""The twins of the head parser, side by side: on every input the same request, or the same refusal.

What both have in common is told in `test_http_request`; `tests/fuzz/fuzz_heads.py` does the same as here for longer.
"""

from __future__ import annotations

import gc
import itertools
import random
import sys

import pytest
from hypothesis import given, settings, strategies as st

import cyasgi
from cyasgi.wire.http import HTTPError
from cyasgi.wire.http._head_py import METHODS
from cyasgi.wire.http.request import HeadLimits, decode_path
from support.head_twins import (
    BROWSER,
    LIMITS,
    SEEDS,
    TWINS,
    alike,
    check_alike,
    cut,
    described,
    scanned,
    stream,
    taken,
)

pytestmark = pytest.mark.skipif(cyasgi.backend == "python", reason="there is no compiled twin")
PureHeadParser, HeadParser = TWINS["pure"], TWINS.get("compiled")


def compare(pieces, limits=HeadLimits(), strict=True):  # noqa: B008
    """Read with both, with the compiled twin in both ways; return what was found."""
    pure = taken(PureHeadParser(limits, strict), pieces)
    check_alike(pure, taken(HeadParser(limits, strict), pieces))
    check_alike(pure, scanned(HeadParser(limits, strict), pieces))
    return pure


chances = st.integers(0, 2**32).map(random.Random)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(chances, st.sampled_from(LIMITS), st.booleans())
@pytest.mark.parametrize("make", [stream, alike], ids=["changed", "alike"])
def test_streams(make, chance, limits, strict):
    """Requests of the corpora with changes, and heads that differ in few lines, however they are cut."""
    compare(cut(chance, make(chance)), limits, strict)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: "]), chances)
def test_bytes(data, start, chance):
    """Any bytes."""
    compare(cut(chance, start + data + b"\r\n\r\n"))


@pytest.mark.slow
def test_every_cut():
    """Every case of the corpora, cut in two at every byte."""
    for data in SEEDS:
        for at in range(1, len(data)):
            compare([data[:at], data[at:]])


@pytest.mark.slow
def test_pairs():
    """Many pairs of cases, one behind the other."""
    for one, other in itertools.islice(itertools.product(SEEDS, repeat=2), 0, None, 31):
        compare([one + other])


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "lenient"])
@pytest.mark.parametrize(
    "head",
    [
        b"GET /%s HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /a?%sb HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /a#%sb HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n",
        b"OPTIONS *%s HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET h%sttp://a HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://%sa HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://a%s@b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"G%sET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET%s / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /%sHTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1%s\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\n%sHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX%sY: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX-A%s: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX-A:%sb\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX-A: b12345678901234567%sb\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a%s\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: [%s:1]\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a:8%s\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close%s\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: %skeep-alive, x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1%s\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: %schunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked%s\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip,%schunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: 100-continue%s\r\n\r\n",
    ],
)
def test_every_byte(head, strict):
    """Every byte, and every byte twice, where it could matter."""
    for byte in range(256):
        for count in (1, 2):
            compare([head % (bytes([byte]) * count)], strict=strict)


KNOWN_METHODS = """
    DELETE GET HEAD POST PUT CONNECT OPTIONS TRACE COPY LOCK MKCOL MOVE PROPFIND PROPPATCH SEARCH UNLOCK BIND REBIND
    UNBIND ACL REPORT MKACTIVITY CHECKOUT MERGE M-SEARCH NOTIFY SUBSCRIBE UNSUBSCRIBE PATCH PURGE MKCALENDAR LINK UNLINK
    SOURCE PRI DESCRIBE ANNOUNCE SETUP PLAY PAUSE TEARDOWN GET_PARAMETER SET_PARAMETER REDIRECT RECORD FLUSH QUERY
"""


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "lenient"])
def test_methods(strict):
    """Every method that httptools knows, and some that it does not; usual ones share their strings."""
    for name in (*KNOWN_METHODS.split(), "BREW", "get", "G", "GE", "GETX", "PUTT", "POS"):
        compare([f"{name} / HTTP/1.1\r\nHost: a\r\n\r\n".encode()], strict=strict)
    parser = HeadParser()
    for name in METHODS:
        parser.parse(name + b" / HTTP/1.1\r\nHost: a\r\n\r\n")
        first = parser.method
        parser.parse(name + b" /b HTTP/1.1\r\nHost: a\r\n\r\n")
        assert first is parser.method


def test_names_of_all_lengths():
    """Names around the size up to which they are looked up, known ones and their neighbours."""
    names = [b"N" * size for size in (*range(1, 20), 62, 63, 64, 65, 66, 200)]
    names += [b"content-length"[:size] for size in range(1, 14)] + [
        b"Content-Lengthy",
        b"xhost",
        b"Hos",
        b"hostt",
        b"t",
        b"E",
    ]
    for name in names:
        found = compare([b"GET / HTTP/1.1\r\nHost: a\r\n%s: b\r\n\r\n" % name])
        assert found[0][5] == [(b"host", b"a"), (name.lower(), b"b")]


def test_lengths():
    """Content-Length around the bounds of 18 digits and 64 bits."""
    for number in (0, 1, 10**17, 10**18 - 1, 10**18, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 2**64 + 5, 10**30):
        for zeros in (0, 1, 5, 17, 18, 40):
            data = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %s%d\r\n\r\n" % (b"0" * zeros, number)
            compare([data])
            compare([data], HeadLimits(header_count=1))


@given(st.binary(max_size=30) | st.text(max_size=10).map(str.encode))
def test_paths(data):
    """What becomes of a path is what `decode_path` makes of it."""
    path = b"/" + b"".join(
        b"%%%02x" % byte if byte < 33 or byte > 126 or byte in b"?#" else bytes([byte]) for byte in data
    )
    parser = HeadParser()
    _, _, _, text = parser._scanned(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % path)
    assert text == decode_path(path)


# Connections


HEAD = b"\r\n".join([b"GET /items/1?page=2 HTTP/1.1", *BROWSER, b"", b""])


def test_what_is_the_same_is_kept():
    """Of a head like the last one, what is alike is not made again; the list of headers is, since it may be changed."""
    parser = HeadParser()
    assert parser._scanned(HEAD) == (len(HEAD), False, False, "/items/1")
    first, headers = described(parser), list(parser.headers)
    given = parser.headers
    assert parser._scanned(HEAD) == (len(HEAD), True, True, "/items/1")
    assert described(parser) == first and parser.headers is not given
    other = HEAD.replace(b"page=2", b"page=3")
    assert parser._scanned(other) == (len(other), False, False, "/items/1")
    assert parser.query == b"page=3" and parser.target == b"/items/1?page=3"
    assert parser.headers == headers
    kept = dict(parser.headers)
    longer = other.replace(b"Accept-Encoding", b"X-New: 1\r\nAccept-Encoding")
    assert parser._scanned(longer) == (len(longer), False, True, "/items/1")
    shared = [name for name, value in parser.headers if kept.get(name) is value]
    assert shared == [name.split(b":")[0].lower() for name in BROWSER[:9]]


def test_a_changed_list_is_not_the_next_ones():
    """An application may change its headers: the next request has what was sent."""
    parser = HeadParser()
    for _ in range(3):
        parser.parse(HEAD)
        assert len(parser.headers) == len(BROWSER)
        parser.headers[:] = [None]


def test_an_incomplete_head_changes_nothing():
    """What the last head says holds until the next one is complete."""
    parser = HeadParser()
    parser._scanned(HEAD)
    before = described(parser)
    other = HEAD.replace(b"items", b"other").replace(b"Cookie", b"Cookies")
    for size in range(len(other)):
        assert parser._scanned(other[:size])[0] == 0
        assert described(parser) == before
    assert parser._scanned(HEAD)[0] == len(HEAD)
    assert described(parser) == before
    assert parser._scanned(other + HEAD)[0] == len(other)
    assert parser.path == b"/other/1" and parser.headers[-1][0] == b"cookies"


def test_after_a_refusal():
    """Nothing of a head is kept that follows a refused one; the parser can be used again."""
    parser = HeadParser()
    parser.parse(HEAD)
    expected = described(parser)
    for fault in (b"GET / HTTP/1.1\r\n\r\n", HEAD.replace(b"Cookie:", b"Cookie :"), HEAD.replace(b"?0", b"\x00")):
        with pytest.raises(HTTPError):
            parser.parse(fault)
        assert (parser.method, parser.target) == ("", b"")
        assert parser.parse(HEAD) is True
        assert described(parser) == expected


def test_empty_lines_are_counted_until_the_request():
    """Eight empty lines are ignored, in however many pieces they come."""
    parser = HeadParser()
    for _ in range(2):
        for _ in range(8):
            assert parser._scanned(b"\r\n")[0] == 0
            assert parser._skipped(b"\r\n") == 2
        assert parser._scanned(b"\r")[0] == 0
        assert parser._skipped(b"\r") == 0
        with pytest.raises(HTTPError, match="more than 8 empty lines"):
            parser._scanned(b"\r\n" + HEAD)
        assert parser._scanned(HEAD)[0] == len(HEAD)
    assert parser._scanned(b"\r\n" * 8 + HEAD)[0] == len(HEAD) + 16
    with pytest.raises(HTTPError, match="more than 8 empty lines"):
        parser._scanned(b"\r\n" * 9 + HEAD)


def test_what_is_not_one_head():
    """`parse` takes one head, whole and alone."""
    for data in (HEAD[:-1], HEAD + b"a", b""):
        with pytest.raises(ValueError, match="this is not one head"):
            HeadParser().parse(data)
    assert HeadParser().parse(bytearray(HEAD)) is True


@pytest.mark.slow
def test_large_heads_are_not_kept():
    """A head of more than 16 KiB is read as any other, and not remembered."""
    parser, pure = HeadParser(), PureHeadParser()
    big = HEAD.replace(b"dark", b"dark" * 8000)
    for head in (big, big, HEAD, HEAD, big, HEAD):
        parser.parse(head)
        pure.parse(head)
        assert described(parser) == described(pure)


@pytest.mark.slow
def test_many_headers():
    """More headers than usual, as many as the limit allows, and one more."""
    for count in (1, 7, 8, 9, 16, 17, 40, 99, 100, 101, 300):
        lines = b"".join(b"X-%d: %d\r\n" % (number, number) for number in range(count - 1))
        for limit in (100, 300):
            compare([b"GET / HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n"] * 2, HeadLimits(header_count=limit))


class Reentering:
    """Garbage that calls a parser where it is collected."""

    def __init__(self, parser, outcomes):
        self.parser = parser
        self.outcomes = outcomes
        self.cycle = self

    def __del__(self):
        try:
            self.parser.parse(b"GET /other HTTP/1.1\r\nHost: b\r\nX-A: b\r\n\r\n")
        except RuntimeError as error:
            self.outcomes.add(str(error))


@pytest.mark.slow
def test_called_from_within():
    """Where the collector runs code that calls a parser at work (up to 3.11), that code gets an error."""
    outcomes = set()
    thresholds = gc.get_threshold()
    try:
        for number in range(200):
            parser = HeadParser()
            Reentering(parser, outcomes)
            gc.set_threshold(1, 1, 1)
            parser.parse(HEAD.replace(b"page=2", b"page=%d" % number))
            gc.set_threshold(*thresholds)
            assert (parser.path, len(parser.headers)) in ((b"/items/1", len(BROWSER)), (b"/other", 2))
    finally:
        gc.set_threshold(*thresholds)
    assert outcomes == ({"this parser is at work"} if sys.version_info < (3, 12) else set())


@pytest.mark.slow
def test_nothing_leaks():
    """Blocks of memory are given back, whatever was read."""
    chance = random.Random(7)
    data = [cut(chance, make(chance)) for make in (stream, alike) for _ in range(300)]

    def work():
        for pieces in data:
            taken(HeadParser(), pieces)
            scanned(HeadParser(), pieces)
        gc.collect()

    work()
    before = sys.getallocatedblocks()
    for _ in range(3):
        work()
    assert sys.getallocatedblocks() - before < 200
