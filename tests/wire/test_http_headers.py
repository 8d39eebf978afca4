"""Header lines, in and out, on either twin: the pure one says what is right, and here are its own cases."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, strategies as st

NAMES = (
    b"Host",
    b"host",
    b"HOST",
    b"Connection",
    b"TE",
    b"x-a",
    b"X-Request-ID",
    b"Content-Length",
    b"transfer-encoding",
)
VALUES = (b"", b"a", b" ", b"a \t ", b"\t", b"a b", b"\xe9", b"keep-alive", b"x-hop, Close", b"close\r\n")


def load(cy: ModuleType, name: str = "headers") -> Any:
    return importlib.import_module(f"{cy.__name__}.wire.{name}")


@pytest.mark.slow
def test_request(cy):
    """Names in lower case, no white space behind a value, and apart what tells where a request ends."""
    headers = load(cy).RequestHeaders()
    for _ in range(2):
        assert (headers.fields, headers.framing_headers, bool(headers.repeated)) == ([], {}, False)
        for header in ((b"HOST", b"x \t"), (b"X-Odd-One", b""), (b"accept", b"*/*"), (b"Connection", b"close")):
            headers.on_header(*header)
        assert headers.fields == [(b"host", b"x"), (b"x-odd-one", b""), (b"accept", b"*/*"), (b"connection", b"close")]
        assert headers.framing_headers == {b"host": b"x", b"connection": b"close"}
        assert not headers.repeated
        headers.on_header(b"accept", b"a")
        assert not headers.repeated
        headers.on_header(b"Host", b"y")
        assert headers.repeated
        kept = headers.fields
        headers.clear()
        assert len(kept) == 6


def test_request_names_are_remembered_within_a_bound(cy):
    """A client that makes up names does not fill the memory, nor push out the usual ones."""
    pure = load(cy, "_headers_py")
    headers = load(cy).RequestHeaders()
    for number in range(pure.CACHED_NAMES * 2):
        headers.on_header(b"X-%d" % number, b"")
    headers.on_header(b"X" * pure.CACHED_SIZE, b"")
    assert len(pure.name_cache) <= pure.CACHED_NAMES
    assert {b"User-Agent", b"user-agent"} <= pure.name_cache.keys()
    assert headers.fields[-2:] == [(b"x-%d" % (pure.CACHED_NAMES * 2 - 1), b""), (b"x" * pure.CACHED_SIZE, b"")]


class Bytes(bytes):
    """What equals bytes, and is a name of its own kind."""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            (name, b"x")
            for name in (None, "host", 5, bytearray(b"host"), memoryview(b"host"), Bytes(b"host"), (b"host",))
        ),
        *((b"host", value) for value in (None, "x", 5, bytearray(b"x \t"), memoryview(b"x"), Bytes(b"x "), [])),
        (None, None),
    ],
    ids=lambda given: (
        f"{type(given).__name__} {bytes(given)!r}" if isinstance(given, memoryview | Bytes) else repr(given)
    ),
)
@pytest.mark.parametrize("twin", ["headers", "_headers_py"])
def test_what_is_no_header(cy, twin, name, value):
    """A parser that gives anything but bytes gets a TypeError, on either twin, and nothing has changed."""
    headers = load(cy, twin).RequestHeaders()
    headers.on_header(b"accept", b"*/*")
    before = load(cy, "_headers_py").name_cache.copy()
    with pytest.raises(TypeError, match="a header must be two bytes objects, got "):
        headers.on_header(name, value)
    for wrong in ((), (b"host",), (b"host", b"x", b"y")):
        with pytest.raises(TypeError):
            headers.on_header(*wrong)
    assert (headers.fields, headers.framing_headers) == ([(b"accept", b"*/*")], {})
    assert not headers.repeated
    assert load(cy, "_headers_py").name_cache == before


requests = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=6)


@pytest.mark.slow
def test_requests_are_the_same_to_both(cy):
    """Whatever comes is understood as the pure twin does."""

    @given(requests)
    def check(headers):
        one, other = load(cy).RequestHeaders(), load(cy, "_headers_py").RequestHeaders()
        for header in headers:
            one.on_header(*header)
            other.on_header(*header)
        assert (one.fields, one.framing_headers, bool(one.repeated)) == (
            other.fields,
            other.framing_headers,
            other.repeated,
        )

    check()


#: Names and values as applications send them, right and wrong.
sent_names = st.sampled_from(
    (*NAMES, b"content-type", b"set-cookie", b"date", b"Server", b"connection", b"", b"a b", b"a:", "text", None, 1)
)
sent_values = st.sampled_from(
    (
        *VALUES,
        b"5",
        b"05",
        b"9" * 18,
        b"9" * 19,
        b"-1",
        b"a\r\nb",
        b"a\nb",
        b"\r",
        b"\0",
        bytearray(b"5"),
        "text",
        None,
        5,
    )
)
sent = st.lists(
    st.tuples(sent_names, sent_values)
    | st.lists(sent_names | sent_values, max_size=3)
    | st.tuples(sent_names)
    | st.none(),
    max_size=5,
)


def outcome(encode, headers):
    try:
        return encode(headers)
    except (TypeError, ValueError) as error:
        return type(error), str(error)


@pytest.mark.slow
@pytest.mark.parametrize("container", [list, tuple, iter])
def test_responses_are_the_same_from_both(cy, container):
    """Whatever an application gives is written, or refused, as by the pure twin; also when its names are known."""

    @given(sent)
    def check(headers):
        expected = outcome(load(cy, "_headers_py").encode_lines, container(headers))
        assert outcome(load(cy).encode_lines, container(headers)) == expected

    check()


def test_response(cy):
    """What is written."""
    encode = load(cy).encode_lines
    for _ in range(2):
        assert encode([(b"X-A", b"b c"), (b"x-a", b"d")]) == (b"\r\nx-a: b c\r\nx-a: d", None, 0)
        assert encode(((b"Content-Length", b"0012"), (b"a", b"b"))) == (b"\r\na: b", 12, 0)
        with pytest.raises(ValueError, match="CR, LF or NUL"):
            encode([(b"x-a", b"b\r\nc: d")])


@pytest.mark.parametrize(
    ("value", "lines", "asked"),
    [
        (b"close", b"", 1),
        (b"Close", b"", 1),
        (b"keep-alive", b"", 0),
        (b"keep-alive, Close", b"", 1),
        (b"close, x-hop", b"\r\nconnection: x-hop", 1),
        (b"X-Hop\t,\tCLOSE , ", b"\r\nconnection: X-Hop", 1),
        (b"Keep-Alive,x,y", b"\r\nconnection: x, y", 0),
        (b"x,y", b"\r\nconnection: x,y", 0),
        (b"closed", b"\r\nconnection: closed", 0),
        (b",", b"", 0),
    ],
)
def test_connection_is_a_list(cy, value, lines, asked):
    """Its options are the server's, whatever their case and place; the others are passed on."""
    encode = load(cy).encode_lines
    assert encode([(b"Connection", value)]) == (lines, None, asked)
    assert encode([(b"connection", value), (b"a", b"b"), (b"connection", b"z")])[2] == asked


@pytest.mark.parametrize("value", [b"close\r\n", b"close,\n", b"close\0", b"x, keep-alive\r"])
def test_connection_breaks_no_lines(cy, value):
    """What is left out of it is looked at before."""
    with pytest.raises(ValueError, match="the value of the response header b'connection' contains CR, LF or NUL"):
        load(cy).encode_lines([(b"connection", value)])


@pytest.mark.parametrize("name", [b"content-length", b"transfer-encoding", b"connection", b"date", b"x-a"])
@pytest.mark.parametrize("value", ["5", 5, None])
def test_values_are_bytes(cy, name, value):
    """Whichever header it is."""
    for headers in ([(name, value)], [(b"content-length", b"5"), (name, value)]):
        with pytest.raises(TypeError, match=f"the value of the response header {name!r} must be bytes, got {value!r}"):
            load(cy).encode_lines(headers)
