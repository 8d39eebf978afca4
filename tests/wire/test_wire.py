"""Addresses and messages, without any network."""

from __future__ import annotations

import ast
import socket
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

import cyasgi
from cyasgi.wire.address import check_address, format_address, from_socket_address, parse_address, to_socket_address
from cyasgi.wire.datagram import MAX_DATA, parse_send, scope_fields
from support.udp import BAD_MESSAGES

#: The modules that choose between twins, by which back end the core chose.
CHOOSERS = ("headers.py", "http/request.py", "http/scope.py", "websocket/fast_path.py")


def test_wire_imports_nothing_of_the_rest():
    """The wire modules import neither asyncio nor anything of cyasgi but each other, and which back end was chosen."""
    wire = Path(cyasgi.__file__).parent / "wire"
    for path in wire.rglob("*.py"):
        depth = len(path.relative_to(wire).parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not [name.name for name in node.names if name.name.split(".")[0] in ("asyncio", "cyasgi")]
            elif isinstance(node, ast.ImportFrom):
                chosen = path.relative_to(wire).as_posix() in CHOOSERS and node.module == "core.backend"
                assert node.level <= depth or (chosen and [name.name for name in node.names] == ["backend"])
                assert node.level or node.module.split(".")[0] not in ("asyncio", "cyasgi")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9999", ("127.0.0.1", 9999)),
        ("[::1]:53", ("::1", 53)),
        ("[fe80::1%eth0]:53", ("fe80::1%eth0", 53)),
        (":0", ("", 0)),
        ("localhost:65535", ("localhost", 65535)),
        ("names.example.org:1", ("names.example.org", 1)),
    ],
)
def test_parse_address(text, address):
    """HOST:PORT, [IPV6]:PORT and :PORT are addresses."""
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost",
        "9999",
        "127.0.0.1:",
        "127.0.0.1:65536",
        "127.0.0.1:-1",
        "127.0.0.1:+1",
        "127.0.0.1:1_0",
        "127.0.0.1: 1",
        "127.0.0.1:٣",
        "127.0.0.1:http",
        "127.0.0.1:1:2",
        "::1:9999",
        "[::1]",
        "[::1]9999",
        "[localhost]:9999",
        "[]:9999",
        "user@host:9999",
        "udp://127.0.0.1:9999",
        "a b:9999",
        "a\0b:9999",
    ],
)
def test_parse_address_refuses(text):
    """Whatever else is refused, with the text and what is accepted."""
    with pytest.raises(ValueError, match="accepted are") as caught:
        parse_address(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("value", [None, 9999, b"127.0.0.1:9999", ("127.0.0.1", 9999)])
def test_parse_address_wants_a_string(value):
    """An address that is parsed is a string."""
    with pytest.raises(TypeError, match="accepted are"):
        parse_address(value)


@pytest.mark.slow
@given(
    st.one_of(st.ip_addresses().map(str), st.from_regex(r"[a-z0-9.-]{1,30}", fullmatch=True), st.just("")),
    st.integers(0, 65535),
)
def test_addresses_go_there_and_back(host, port):
    """What format_address writes, parse_address reads."""
    assert parse_address(format_address((host, port))) == (host, port)


@pytest.mark.slow
@given(st.text())
def test_parse_address_accepts_or_refuses(text):
    """No text makes parse_address raise anything but ValueError."""
    try:
        host, port = parse_address(text)
    except ValueError:
        return
    assert parse_address(format_address((host, port))) == (host, port)


@pytest.mark.parametrize(
    ("address", "error"),
    [
        (None, TypeError),
        ("127.0.0.1:1", TypeError),
        ({"host": 1, "port": 2}, TypeError),
        ((), ValueError),
        (("127.0.0.1",), ValueError),
        (("::1", 1, 0, 0), ValueError),
        ((1, "127.0.0.1"), TypeError),
        (("127.0.0.1", "1"), TypeError),
        (("127.0.0.1", True), TypeError),
        (("127.0.0.1", -1), ValueError),
        (("127.0.0.1", 65536), ValueError),
    ],
)
def test_check_address_refuses(address, error):
    """An address is a string and a port number; the error shows what was given."""
    with pytest.raises(error) as caught:
        check_address(address, "it")
    assert repr(address) in str(caught.value)


def test_check_address_takes_lists():
    """A list is an address too, as ASGI's two-item iterables are."""
    assert check_address(["::1", 53]) == ("::1", 53)


def test_zones_go_there_and_back():
    """A link-local IPv6 address keeps its zone on the way to the application and back to the socket."""
    address = from_socket_address(("fe80::1", 53, 0, 7))
    assert address == ("fe80::1%7", 53)
    assert to_socket_address(address, socket.AF_INET6) == ("fe80::1", 53, 0, 7)
    assert from_socket_address(("::1", 53, 0, 0)) == ("::1", 53)


@pytest.mark.parametrize(
    ("host", "family"),
    [
        ("localhost", socket.AF_INET),
        ("localhost", socket.AF_INET6),
        ("::1", socket.AF_INET),
        ("127.0.0.1", socket.AF_INET6),
        ("127.0.0.1%1", socket.AF_INET),
        ("fe80::1%no-such-interface", socket.AF_INET6),
        ("fe80::1%4294967296", socket.AF_INET6),
        ("127.1", socket.AF_INET),
        ("<broadcast>", socket.AF_INET),
        ("", socket.AF_INET),
        ("127.0.0.1\0", socket.AF_INET),
        ("\udcff", socket.AF_INET),
    ],
)
def test_only_numeric_hosts_are_sent_to(host, family):
    """A host that would have to be looked up, or is of the other family, is refused."""
    with pytest.raises(ValueError, match="numeric"):
        to_socket_address((host, 53), family)


def test_scopes_share_nothing():
    """Each scope has an `asgi` of its own: what one application writes into it no other sees."""
    first, second = (scope_fields(("127.0.0.1", 1), ("127.0.0.1", 2)) for _ in range(2))
    assert first == second
    assert first["asgi"] is not second["asgi"]


@pytest.mark.parametrize(
    ("message", "parsed"),
    [
        ({"type": "datagram.send", "data": b"x"}, (b"x", None, None)),
        ({"type": "datagram.send", "data": b""}, (b"", None, None)),
        ({"type": "datagram.send", "data": b"x", "client": None, "server": None}, (b"x", None, None)),
        ({"type": "datagram.send", "data": bytes(MAX_DATA)}, (bytes(MAX_DATA), None, None)),
        (
            {"type": "datagram.send", "data": b"x", "client": ["::1", 1], "server": ("::1", 2)},
            (b"x", ("::1", 1), ("::1", 2)),
        ),
        ({"type": "datagram.send", "data": b"x", "trace": 1}, (b"x", None, None)),
    ],
)
def test_parse_send(message, parsed):
    """A message to send has data, and may name client and server; keys of later versions are passed over."""
    assert parse_send(message) == parsed


@pytest.mark.parametrize(("message", "error", "says"), BAD_MESSAGES)
def test_parse_send_refuses(message, error, says):
    """A wrong message is refused with what is wrong about it and what is accepted."""
    with pytest.raises(error, match=says):
        parse_send(message)
