"""What headers of proxies say of the client: whom to believe, and what is malformed."""

from __future__ import annotations

import pytest
from hypothesis import example, given, strategies as st

from cyasgi.wire.proxy.forwarded import (
    CACHED_BYTES,
    FOR,
    FORWARDED,
    HOST,
    MAX_HOPS,
    NAMES,
    NOTHING,
    PORT,
    PREFIX,
    PROTO,
    _cached,
    node,
    said_in,
)
from cyasgi.wire.proxy.trust import Trusted

PROXIES = Trusted(["127.0.0.1", "10.0.0.0/8", "2001:db8:ffff::/48"])
EVERYBODY = Trusted(["*"])


def said(*headers, trusted=PROXIES):
    return said_in(list(headers), trusted)


def client(*values, name=FOR, trusted=PROXIES):
    return said(*((name, value) for value in values), trusted=trusted).client


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([b"192.0.2.1"], ("192.0.2.1", 0)),
        ([b"192.0.2.1:4711"], ("192.0.2.1", 4711)),
        ([b"2001:db8::1"], ("2001:db8::1", 0)),
        ([b"2001:DB8:0:0::1"], ("2001:db8::1", 0)),
        ([b"[2001:db8::1]"], ("2001:db8::1", 0)),
        ([b"[2001:db8::1]:65535"], ("2001:db8::1", 65535)),
        ([b"::ffff:192.0.2.1"], ("192.0.2.1", 0)),
        ([b"unknown"], ("unknown", 0)),
        ([b"UNKNOWN"], ("unknown", 0)),
        ([b"_hidden"], ("_hidden", 0)),
        ([b"_SEVKISEK:_port"], ("_SEVKISEK", 0)),
        # The first from the right that is not trusted; what stands before it may be anything.
        ([b"203.0.113.9, 192.0.2.1, 10.1.2.3, 127.0.0.1"], ("192.0.2.1", 0)),
        ([b"203.0.113.9, 192.0.2.1:1,10.1.2.3:99"], ("192.0.2.1", 1)),
        ([b"<script>, 192.0.2.1"], ("192.0.2.1", 0)),
        ([b"192.0.2.1, 2001:db8:ffff::7"], ("192.0.2.1", 0)),
        ([b"192.0.2.1, ::ffff:10.0.0.1"], ("192.0.2.1", 0)),
        # Only what the addresses are counts, and an id that is none is never trusted.
        ([b"192.0.2.1, unknown, 10.0.0.1"], ("unknown", 0)),
        ([b"192.0.2.1, _10.0.0.1, 10.0.0.1"], ("_10.0.0.1", 0)),
        # All are trusted: the one that is farthest.
        ([b"10.0.0.9, 10.0.0.8"], ("10.0.0.9", 0)),
        # Several lines are one list; empty items are none.
        ([b"203.0.113.9", b"192.0.2.1", b"10.0.0.1"], ("192.0.2.1", 0)),
        ([b"192.0.2.1,, ,", b"", b"\t10.0.0.1 ,"], ("192.0.2.1", 0)),
        # Malformed where it is read: nothing of it counts.
        ([b"192.0.2.1, nonsense, 10.0.0.1"], None),
        ([b"192.0.2.1 10.0.0.1"], None),
        ([b""], None),
        ([b", ,"], None),
        ([b"192.0.2.1:"], None),
        ([b"192.0.2.1:65536"], None),
        ([b"192.0.2.1:123456"], None),
        ([b"192.0.2.256"], None),
        ([b"192.0.2.01"], None),
        ([b"192.0.2"], None),
        ([b"1:2"], None),
        ([b"[192.0.2.1]"], None),
        ([b"[2001:db8::1"], None),
        ([b"[2001:db8::1]x"], None),
        ([b"2001:db8::1]:80"], None),
        ([b"fe80::1%eth0"], None),
        ([b"example.org"], None),
        ([b"unknown2"], None),
        ([b"_"], None),
        ([b"_" + b"a" * 200], None),
        ([b"'192.0.2.1'"], None),
    ],
)
def test_x_forwarded_for(values, expected):
    assert client(*values) == expected


def test_everybody_is_trusted():
    assert client(b"nonsense", b"192.0.2.1, 203.0.113.9", trusted=EVERYBODY) is None
    assert client(b"192.0.2.1, unknown, 203.0.113.9", trusted=EVERYBODY) == ("192.0.2.1", 0)


@pytest.mark.parametrize("hops", [MAX_HOPS - 1, MAX_HOPS])
def test_too_many_proxies(hops):
    """A list that is too long is ignored, unless what is too long stands to the left of the client."""
    expected = ("192.0.2.1", 0) if hops < MAX_HOPS else None
    assert client(b"192.0.2.1" + b", 10.0.0.1" * hops) == expected
    assert client(b"192.0.2.1", *[b"10.0.0.1"] * hops) == expected
    assert client(b"for=192.0.2.1" + b",for=10.0.0.1" * hops, name=FORWARDED) == expected
    assert client(b"1.1.1.1," * 5000 + b"192.0.2.1") == ("192.0.2.1", 0)
    assert client(b"for=1.1.1.1," * 5000 + b"for=192.0.2.1", name=FORWARDED) == ("192.0.2.1", 0)
    assert client(b"," * 50_000, trusted=EVERYBODY) is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([b"for=192.0.2.1"], ("192.0.2.1", 0)),
        ([b"For=192.0.2.1;BY=10.0.0.1"], ("192.0.2.1", 0)),
        ([b'for="192.0.2.1:4711"'], ("192.0.2.1", 4711)),
        ([b'for="[2001:db8::1]"'], ("2001:db8::1", 0)),
        ([b'for="[2001:db8::1]:4711"'], ("2001:db8::1", 4711)),
        ([b'for="_hidden:_p"'], ("_hidden", 0)),
        ([b"for=unknown"], ("unknown", 0)),
        ([b'for="\\1\\92.0.2.1"'], ("192.0.2.1", 0)),
        ([b"by=_x;for=192.0.2.1 ; proto=https"], ("192.0.2.1", 0)),
        ([b";for=192.0.2.1;"], ("192.0.2.1", 0)),
        ([b"for=203.0.113.9, for=192.0.2.1, for=10.0.0.1"], ("192.0.2.1", 0)),
        ([b"for=203.0.113.9", b"for=192.0.2.1", b"for=10.0.0.1"], ("192.0.2.1", 0)),
        # A comma or a semicolon within quotes separates nothing.
        ([b'for=192.0.2.1;x="a, for=203.0.113.9", for=10.0.0.1;y="b\\", for=203.0.113.9;"'], ("192.0.2.1", 0)),
        # What the client has sent must not hide what the proxy has added.
        ([b'for="', b"for=192.0.2.1"], ("192.0.2.1", 0)),
        ([b'for="_evil, for=192.0.2.1'], ("192.0.2.1", 0)),
        ([b'for="\\", for=192.0.2.1'], ("192.0.2.1", 0)),
        ([b'for="_a", for="192.0.2.1:80"'], ("192.0.2.1", 80)),
        # The proxy does not tell.
        ([b"for=203.0.113.9, proto=https"], None),
        ([b"for=203.0.113.9, proto=https, for=10.0.0.1"], None),
        # Malformed.
        ([b""], None),
        ([b"192.0.2.1"], None),
        ([b"for=[2001:db8::1]"], None),
        ([b"for=2001:db8::1"], None),
        ([b'for="2001:db8::1"'], None),
        ([b"for =192.0.2.1"], None),
        ([b"for= 192.0.2.1"], None),
        ([b"for=192.0.2.1;for=203.0.113.9"], None),
        ([b"for=192.0.2.1 proto=https"], None),
        ([b'for="192.0.2.1'], None),
        ([b'for=192.0.2.1"'], None),
        ([b'for=""'], None),
        ([b"for=192.0.2.1;x=" + b"a" * 2000], None),
        ([b"for=_" + b"a" * 500], None),
        ([b"for=192.0.2.1, =, for=10.0.0.1"], None),
    ],
)
def test_forwarded(values, expected):
    assert client(*values, name=FORWARDED) == expected


def test_forwarded_says_what_the_proxy_next_to_the_client_was_asked():
    header = (
        b'for=203.0.113.9;host=evil;proto=ws, for=192.0.2.1;proto=https;host="a.example:8443", for=10.0.0.1;proto=http'
    )
    found = said((FORWARDED, header))
    assert found.client == ("192.0.2.1", 0)
    assert found.scheme == "https"
    assert found.server("https") == ("a.example", 8443)
    assert said((FORWARDED, b"proto=https")) == NOTHING._replace(scheme="https")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([b"http"], "http"),
        ([b"https"], "https"),
        ([b"ws"], "http"),
        ([b"WSS"], "https"),
        ([b"http", b"https"], "https"),
        ([b"https, http"], "http"),
        ([b"ftp"], None),
        ([b""], None),
    ],
)
def test_scheme(values, expected):
    assert said(*((PROTO, value) for value in values)).scheme == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([(HOST, b"a.example")], ("a.example", 80)),
        ([(HOST, b"a.example"), (PROTO, b"https")], ("a.example", 443)),
        ([(HOST, b"a.example:8080")], ("a.example", 8080)),
        ([(HOST, b"[2001:db8::1]:8080")], ("2001:db8::1", 8080)),
        ([(HOST, b"a.example:8080"), (PORT, b"9090")], ("a.example", 9090)),
        ([(HOST, b"evil, a.example")], ("a.example", 80)),
        ([(HOST, b"a.example"), (PORT, b"0")], ("a.example", 80)),
        ([(HOST, b"a.example"), (PORT, b"99999")], ("a.example", 80)),
        ([(HOST, b"a.example"), (PORT, b"+1")], ("a.example", 80)),
        ([(HOST, b"a.example:0")], None),
        ([(HOST, b"a.example:99999")], None),
        ([(HOST, b"a/b")], None),
        ([(HOST, b"user@a")], None),
        ([(HOST, b"[a]")], None),
        ([(HOST, b"")], None),
        ([(HOST, b"a" * 254)], None),
    ],
)
def test_server(headers, expected):
    found = said(*headers)
    assert found.server(found.scheme or "http") == expected


def test_a_port_alone():
    assert said((PORT, b"8443")) == NOTHING._replace(port=8443)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"/api", "/api"),
        (b"/api/v1/", "/api/v1"),
        (b"/evil, /api", "/api"),
        (b"/%C3%A9", "/é"),
        (b"/", ""),
        (b"", ""),
        (b"api", ""),
        (b"//evil.example", ""),
        (b"/%2Fevil.example", ""),
        (b"/a//b", ""),
        (b"/../a", ""),
        (b"/a/%2e%2e/b", ""),
        (b"/\\evil", ""),
        (b"/%5Cevil", ""),
        (b"/%FF", ""),
        (b"/a%0d%0ab", ""),
        (b"/a?b", ""),
        (b"/" + b"a" * 2000, ""),
    ],
)
def test_prefix(value, expected):
    assert said((PREFIX, value)).prefix == expected


PIECES = [
    b"for=",
    b"192.0.2.1",
    b"10.0.0.1",
    b",",
    b";",
    b'"',
    b"\\",
    b"=",
    b"[",
    b"]",
    b":",
    b"::1",
    b" ",
    b"\t",
    b"unknown",
]
values = st.lists(st.sampled_from(PIECES) | st.binary(max_size=4), max_size=12).map(b"".join)


@given(st.lists(st.tuples(st.sampled_from(NAMES).map(str.encode), values), max_size=4), st.booleans())
@example([(FORWARDED, b'"')], True)
def test_anything(headers, everybody):
    """Nothing raises, and whatever is found can stand in a scope and in a line of the access log."""
    found = said(*headers, trusted=EVERYBODY if everybody else PROXIES)
    if found.client is not None:
        host, port = found.client
        assert host.isascii() and host.isprintable() and " " not in host and '"' not in host and 0 <= port <= 65535
    assert found.scheme in (None, "http", "https")
    server = found.server("http")
    assert server is None or (server[0] and 0 < server[1] <= 65535)
    assert not found.prefix or (found.prefix.startswith("/") and not found.prefix.endswith("/"))


@given(values, st.sampled_from([b"192.0.2.1", b"192.0.2.1:80"]), st.booleans())
def test_what_the_client_sends_hides_nothing(sent, added, in_a_line_of_its_own):
    """Whatever a client sends, the address that the proxy adds behind it counts."""
    lines = [sent, added] if in_a_line_of_its_own else [sent + b", " + added]
    assert client(*lines) == node(added)
    element = b'for="%b"' % added
    lines = [sent, element] if in_a_line_of_its_own else [sent + b", " + element]
    assert client(*lines, name=FORWARDED) == node(added)


def test_who_is_trusted():
    trusted = Trusted(["192.0.2.1", "10.0.0.0/8", "2001:db8::/32", "unix:/run/proxy.sock"])
    for host in ("192.0.2.1", "10.255.0.1", "2001:db8::1", "::ffff:10.0.0.1", "192.0.2.1"):
        assert trusted.has_host(host)
    for host in ("192.0.2.2", "11.0.0.1", "2001:db9::1", "", "unknown", "/run/proxy.sock", "localhost"):
        assert not trusted.has_host(host)
    assert trusted.has_unix("/run/proxy.sock")
    assert not trusted.has_unix("/run/other.sock")
    assert not trusted.has_unix("")
    assert Trusted(["unix"]).has_unix("/run/other.sock")
    assert not Trusted(["unix"]).has_host("127.0.0.1")
    assert Trusted(["*"]).has_host("anything") and Trusted(["*"]).has_unix("")
    assert not Trusted([]).has_host("127.0.0.1")
    for number in range(10_000):
        assert not trusted.has_host(f"203.0.{number >> 8}.{number & 255}")


@pytest.mark.parametrize("name", ["", "localhost", "10.0.0.1/8", "1.2.3", "unix:", "10.0.0.0/33", " 10.0.0.1", "**"])
def test_who_cannot_be_trusted(name):
    with pytest.raises(ValueError, match="accepted are IP addresses, networks") as raised:
        Trusted(["127.0.0.1", name])
    assert str(raised.value).startswith(repr(name))


def test_what_is_cached_is_bounded():
    """The same headers say the same to those who trust the same; large ones are read each time, and not kept."""
    header = (FOR, b"192.0.2.1, 10.0.0.1")
    assert said(header).client == ("192.0.2.1", 0)
    assert said(header, trusted=Trusted(["192.0.2.1", "10.0.0.1"])).client == ("192.0.2.1", 0)
    assert said(header, trusted=Trusted([])).client == ("10.0.0.1", 0)
    before = _cached.cache_info().currsize
    assert said((FOR, b"x" * CACHED_BYTES + b",192.0.2.1")).client == ("192.0.2.1", 0)
    assert _cached.cache_info().currsize == before
