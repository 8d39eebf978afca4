"""The head of a response on the wire: what is written, and what is refused."""

from __future__ import annotations

import pytest

from cyasgi.wire._headers_py import CACHED_NAMES, CLOSE, OWN_DATE, OWN_SERVER, line_cache
from cyasgi.wire.http import Scope, error_response, websocket_scope
from cyasgi.wire.http.response import chunk, encode_fields


@pytest.mark.slow
def test_fields():
    """Names are written in lower case, values as they are."""
    assert encode_fields([]) == (b"", None, 0)
    assert encode_fields([(b"X-A", b"b c"), (b"set-cookie", b"d"), (b"set-cookie", b"\xe9")]) == (
        b"\r\nx-a: b c\r\nset-cookie: d\r\nset-cookie: \xe9",
        None,
        0,
    )
    assert encode_fields(iter([[b"a", bytearray(b"b")]])) == (b"\r\na: b", None, 0)


def test_what_is_the_server_s_business():
    """Length and end of a response are decided by the server; a wish to close is heard."""
    fields = encode_fields([(b"Content-Length", b"5"), (b"Transfer-Encoding", b"chunked"), (b"a", b"b")])
    assert fields == (b"\r\na: b", 5, 0)
    assert encode_fields([(b"connection", b"Close")]) == (b"", None, CLOSE)
    assert encode_fields([(b"connection", b"keep-alive")]) == (b"", None, 0)
    assert encode_fields([(b"connection", b"upgrade")]) == (b"\r\nconnection: upgrade", None, 0)
    assert encode_fields([(b"Date", b"now"), (b"Server", b"me")]) == (
        b"\r\ndate: now\r\nserver: me",
        None,
        OWN_DATE | OWN_SERVER,
    )


@pytest.mark.parametrize("char", [b"\r", b"\n", b"\0", b"\r\nx: y\r\n\r\n"])
def test_injection(char):
    """CR, LF and NUL are refused, in values and in names, whatever the header."""
    for name in (b"x-a", b"date", b"connection", b"content-length"):
        with pytest.raises(ValueError):
            encode_fields([(b"a", b"b"), (name, b"c" + char + b"d")])
        with pytest.raises(ValueError):
            encode_fields([(name + char, b"c")])


@pytest.mark.parametrize("name", [b"", b"a b", b"a:", b"\xe9", b"a\t", b"(a)"])
def test_names(name):
    """A name is a token."""
    with pytest.raises(ValueError, match="not the name of a header"):
        encode_fields([(name, b"b")])


@pytest.mark.parametrize(
    "headers",
    [
        [("a", b"b")],
        [(b"a", "b")],
        [(b"a", None)],
        [(b"a",)],
        [b"ab", b"abc"],
        [(b"date", "x")],
        [(None, b"a")],
        5,
        None,
    ],
)
def test_types(headers):
    """Anything but pairs of bytes is refused with a clear error."""
    with pytest.raises((TypeError, ValueError)):
        encode_fields(headers)


@pytest.mark.parametrize("value", [b"-1", b"5, 5", b"", b"0x5", b" 5", b"1" * 19])
def test_lengths(value):
    """A length is a number; two of them have to be the same."""
    with pytest.raises(ValueError, match="Content-Length"):
        encode_fields([(b"content-length", value)])
    assert encode_fields([(b"content-length", b"5"), (b"Content-Length", b"05")])[1] == 5
    with pytest.raises(ValueError, match="two lengths"):
        encode_fields([(b"content-length", b"5"), (b"content-length", b"6")])


def test_names_are_remembered_within_a_bound():
    """An application that makes up names does not fill the memory."""
    for number in range(CACHED_NAMES * 2):
        assert encode_fields([(b"x-%d" % number, b"y")])[0] == b"\r\nx-%d: y" % number
    assert len(line_cache) <= CACHED_NAMES


def test_chunk():
    assert chunk(b"hello") == b"5\r\nhello\r\n"
    assert chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"


def test_error_response():
    """An answer of the server's own is complete, and the last one."""
    assert error_response(400, "no", b"\r\nx: y", b"a: b\r\n") == (
        b"HTTP/1.1 400 Bad Request\r\nx: y\r\na: b\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 3\r\n"
        b"connection: close\r\n\r\nno\n"
    )


def test_websocket_scope():
    """The scope of a WebSocket is made of that of the request."""
    asgi = {"version": "2.0", "spec_version": "2.3"}
    scope = Scope(
        type="http", asgi=asgi, scheme="https", method="GET", path="/", extensions={"tls": 1, "x": 2}, state={}
    )
    assert websocket_scope(scope, ["a"]) == {
        "type": "websocket",
        "asgi": {"version": "2.0", "spec_version": "2.4"},
        "scheme": "wss",
        "path": "/",
        "subprotocols": ["a"],
        "state": {},
        "extensions": {"websocket.http.response": {}, "tls": 1},
    }
    assert scope["type"] == "http"
