"""The wire module of HTTP under anything: accept, or raise its documented error; and never depend on how bytes are cut.

What is accepted is read a second time here, by rules written down independently, and must be the same.
"""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import example, given, settings, strategies as st

from cyasgi.wire.http import HTTPError
from cyasgi.wire.http.body import ChunkedBody, LengthBody
from cyasgi.wire.http.request import HeadLimits
from cyasgi.wire.http.response import chunk, encode_fields
from support.head_twins import TWINS
from support.http_request_reader import SEEDS, USUAL, check_accepted, read, same

pytestmark = pytest.mark.slow
either_twin = pytest.mark.parametrize("twin", TWINS.values(), ids=TWINS)

#: What is worth inserting.
TOKENS = [
    *(b"\r\n", b"\n", b"\r", b"\r\n\r\n", b" ", b"\t", b":", b": ", b",", b";", b"\0", b"\x0b", b"\x7f", b"\xe9", b'"'),
    *(b"0", b"5", b"5\r\n", b"0\r\n\r\n", b"ffffffffffffffff", b"+", b"-", b"_", b"#", b"?", b"@", b"%", b"//"),
    *(b"GET", b"POST / HTTP/1.1", b"HTTP/1.0", b"HTTP/1.1", b"Host: x\r\n", b"chunked", b"close", b"keep-alive"),
    *(b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n"),
    *(
        b"Upgrade: websocket\r\nConnection: upgrade\r\n",
        b"Expect: 100-continue\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    ),
]

edits = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 3), st.sampled_from(TOKENS) | st.binary(max_size=3)), max_size=4
)


@st.composite
def streams(draw):
    """Requests of the corpus, one after another, with a few bytes cut out, put in or replaced."""
    data = b"".join(draw(st.lists(st.sampled_from(SEEDS), min_size=1, max_size=3)))
    for position, removed, inserted in draw(edits):
        at = position % (len(data) + 1)
        data = data[:at] + inserted + data[at + removed :]
    return data


SMALL = HeadLimits(target_size=200, header_size=600, header_count=8)


def pieces_at(data, cuts):
    ends = sorted({cut % (len(data) + 1) for cut in cuts} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


# ---- a second reading ----------------------------------------------------------------------------------------------


@settings(max_examples=400, deadline=None)
@given(streams() | st.binary(max_size=300))
@pytest.mark.parametrize("limits", [USUAL, SMALL], ids=["usual limits", "small limits"])
@either_twin
def test_accept_or_refuse(twin, limits, data):
    """Whatever comes in is read in the one way that the RFC knows, or refused by an HTTPError."""
    check_accepted(read([data], limits=limits, twin=twin))


@settings(max_examples=300, deadline=None)
@given(streams() | st.binary(max_size=300))
@either_twin
def test_not_strict(twin, data):
    """Lenient or not, nothing but an HTTPError comes out, and what decides where a request ends is checked."""
    reader = read([data], strict=False, twin=twin)
    for event in reader.events:
        if isinstance(event, dict):
            names = [name for name, _ in event["headers"]]
            assert names.count(b"content-length") + names.count(b"transfer-encoding") <= 1
            for name, value in event["headers"]:
                assert not re.search(rb"[\x00\r\n]", name + value)


@settings(max_examples=400, deadline=None)
@given(streams(), st.lists(st.integers(0, 3000), max_size=8))
@pytest.mark.parametrize("limits", [USUAL, SMALL], ids=["usual limits", "small limits"])
@pytest.mark.parametrize("strict", [True, False], ids=["strict", "lenient"])
@either_twin
def test_cuts_change_nothing(twin, limits, strict, data, cuts):
    """However a stream is cut into pieces, the same comes of it."""
    settings = {"limits": limits, "strict": strict, "twin": twin}
    same(read([data], **settings), read(pieces_at(data, cuts), **settings))


@either_twin
def test_every_cut(twin):
    """Every case of the corpus, cut in two anywhere, and byte by byte, gives the same as whole."""
    for data in SEEDS:
        whole = read([data], twin=twin)
        check_accepted(whole)
        ways = [[data[:cut], data[cut:]] for cut in range(1, len(data))]
        for pieces in (*ways, [data[index : index + 1] for index in range(len(data))]):
            other = read(pieces, twin=twin)
            same(whole, other)
            assert other.error == whole.error, pieces


# ---- bodies --------------------------------------------------------------------------------------------------------

extensions = st.sampled_from([b"", b";a", b";a=b", b';a="b c"'])


@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=40), extensions, st.integers(0, 3)), max_size=6),
    st.lists(st.sampled_from([b"X-A: b\r\n", b"Etag:\r\n"]), max_size=3),
    st.binary(max_size=20),
    st.lists(st.integers(0, 500), max_size=6),
)
def test_chunks_come_back(parts, trailers, after, cuts):
    """What was sent in chunks comes out joined, and what follows the last is left alone."""
    data = b"".join(
        b"%b%x%b\r\n%b\r\n" % (b"0" * zeros, len(part), extension, part) for part, extension, zeros in parts
    )
    data += b"0\r\n" + b"".join(trailers) + b"\r\n"
    body = ChunkedBody()
    got = rest = b""
    for piece in pieces_at(data + after, cuts):
        if body.done:
            rest += piece
        else:
            got += body.feed(piece)
            rest += body.rest
    assert body.done
    assert got == b"".join(part for part, _, _ in parts)
    assert rest == after


@given(st.binary(max_size=60), st.integers(0, 60), st.lists(st.integers(0, 60), max_size=4))
def test_lengths_are_kept(data, length, cuts):
    """A body with a length ends there, neither before nor after."""
    body = LengthBody(length)
    got = rest = b""
    for piece in pieces_at(data, cuts):
        if body.done:
            rest += piece
        else:
            got += body.feed(piece)
            rest += body.rest
    assert (got, rest) == (data[:length], data[length:])
    assert body.done == (len(data) >= length)


@given(st.lists(st.binary(min_size=1, max_size=100), max_size=5))
def test_chunks_written_are_chunks_read(parts):
    """What the module writes in chunks it reads again."""
    body = ChunkedBody()
    assert body.feed(b"".join(map(chunk, parts)) + b"0\r\n\r\n") == b"".join(parts)
    assert body.done and body.rest == b""


@settings(max_examples=200)
@given(st.binary(max_size=3000))
@example(b"0" * 3000)
@example(b"1;" + b"a" * 3000)
@example(b"0\r\n" + b"a" * 3000)
def test_buffers_stay_small(data):
    """A chunked body keeps no more than the line it waits for, whatever comes in pieces without end."""
    body = ChunkedBody()
    with contextlib.suppress(HTTPError):
        for _ in range(50):
            body.feed(data)
            if body.done:
                break
            assert len(body._buffer) < 20_000


# ---- responses -----------------------------------------------------------------------------------------------------

anything = st.binary(max_size=12) | st.sampled_from([b"x-a", b"X-B", b"content-length", b"5", b"date", b"connection"])


@settings(max_examples=400)
@given(
    st.lists(
        st.tuples(anything, anything)
        | st.lists(anything, max_size=3)
        | st.none()
        | st.tuples(anything | st.text(max_size=3), anything | st.text(max_size=3) | st.integers()),
        max_size=4,
    )
)
def test_nothing_is_injected(headers):
    """Headers of a response are written as lines, one each, or refused by a TypeError or ValueError."""
    try:
        fields = encode_fields(headers)
    except (TypeError, ValueError):
        return
    lines = fields.lines.split(b"\r\n")
    assert lines[0] == b""
    for line in lines[1:]:
        assert re.fullmatch(rb"[!#$%&'*+\-.^_`|~0-9a-z]+: [^\r\n\0]*", line)
    names = [bytes(name).lower() for name, _ in headers]
    written = [line.partition(b":")[0] for line in lines[1:]]
    held_back = (b"content-length", b"transfer-encoding", b"connection")
    assert sorted(name for name in written if name not in held_back) == sorted(
        name for name in names if name not in held_back
    )
