"""Formats of the access log: Apache's directives, JSON, and that no client can forge a line of either."""

from __future__ import annotations

import json
import os
import re

import pytest
from hypothesis import given, strategies

from cyasgi.gateways.access_formats import AccessLogFormat
from cyasgi.gateways.access_log import make_access_log

#: 2026-11-23 20:56:33 UTC
SECOND = 1_795_467_393
HEADERS = [
    (b"host", b"example.org"),
    (b"user-agent", b'a "b" \\ \xe4\t'),
    (b"x-a", b"1"),
    (b"x-a", b"2"),
]
LINES = b"\r\ncontent-type: text/plain\r\nx-b: c"
ENTRY = ("192.0.2.1:54321", "GET", b"/a%20b?c=%22", "1.1", 200, 13, 0.0015004, HEADERS, LINES)
MALFORMED = ("192.0.2.1:54321", "", b"/of/another", "1.1", 400, 0, 0.0, HEADERS, b"")


class Stream:
    """Keeps what is written to it."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text


def logged(form, *entries, second=SECOND):
    """What is written for these requests."""
    stream = Stream()
    log = make_access_log(stream, form)
    log.tick(second)
    for entry in entries:
        log.add(*entry)
    log.flush()
    return stream.text


@pytest.mark.parametrize(
    ("directive", "text", "malformed"),
    [
        ("%h", "192.0.2.1", "192.0.2.1"),
        ("%a", "192.0.2.1", "192.0.2.1"),
        ("%{remote}p", "54321", "54321"),
        ("%l%u", "--", "--"),
        ("%t", "[23/Nov/2026:20:56:33 +0000]", "[23/Nov/2026:20:56:33 +0000]"),
        ("%{%Y-%m-%dT%H:%M:%SZ}t", "2026-11-23T20:56:33Z", "2026-11-23T20:56:33Z"),
        ("%r", "GET /a%20b?c=%22 HTTP/1.1", "-"),
        ("%m", "GET", "-"),
        ("%U", "/a%20b", "-"),
        ("%q", "?c=%22", ""),
        ("%H", "HTTP/1.1", "-"),
        ("%s", "200", "400"),
        ("%>s", "200", "400"),
        ("%B", "13", "0"),
        ("%b", "13", "-"),
        ("%D", "1500", "0"),
        ("%T", "0", "0"),
        ("%{s}T", "0", "0"),
        ("%{ms}T", "2", "0"),
        ("%{us}T", "1500", "0"),
        ("%v", "example.org", "-"),
        ("%{Host}i", "example.org", "-"),
        ("%{user-agent}i", r"a \"b\" \\ \xe4\x09", "-"),
        ("%{X-A}i", "1, 2", "-"),
        ("%{none}i", "-", "-"),
        ("%{Content-Type}o", "text/plain", "-"),
        ("%{content}o", "-", "-"),
        ("%%h", "%h", "%h"),
        ("a %m b%% %s", "a GET b% 200", "a - b% 400"),
    ],
)
def test_directives(directive, text, malformed):
    """Each of them, of a request and of a malformed one."""
    assert logged(directive, ENTRY, MALFORMED) == f"{text}\n{malformed}\n"


@pytest.mark.parametrize("client", ["-", "[2001:db8::1]:80"])
def test_other_clients(client):
    """Those without an address, and those of IPv6."""
    told = {"-": "- -", "[2001:db8::1]:80": "2001:db8::1 80"}[client]
    assert logged("%h %{remote}p", (client, *ENTRY[1:])) == f"{told}\n"


def test_the_date_goes_on():
    """A line has the date of its own second."""
    stream = Stream()
    log = make_access_log(stream, "%t %{%S}t")
    for second in (SECOND, SECOND + 1):
        log.tick(second)
        log.add(*ENTRY)
    log.flush()
    assert stream.text == "[23/Nov/2026:20:56:33 +0000] 33\n[23/Nov/2026:20:56:34 +0000] 34\n"


@pytest.mark.parametrize(
    "form", ["%", "%Z", "a %{b", "%{}i", "%{x}s", "%{\xe4}i", "", "no directive", "%h\n", 5, b"%h", True]
)
def test_formats_that_are_none(form):
    """The error says what is accepted."""
    with pytest.raises((TypeError, ValueError), match=re.escape(f"access_log_format={form!r}: accepted is 'json' or")):
        AccessLogFormat()("access_log_format", form)


def test_json():
    """One object a line, with these keys; nothing of another request for a malformed one."""
    one, malformed = map(json.loads, logged("json", ENTRY, MALFORMED).splitlines())
    assert one == {
        "time": "2026-11-23T20:56:33Z",
        "client": "192.0.2.1:54321",
        "method": "GET",
        "target": "/a%20b?c=%22",
        "protocol": "HTTP/1.1",
        "status": 200,
        "bytes": 13,
        "duration_us": 1500,
    }
    assert malformed == {
        **one,
        "method": None,
        "target": None,
        "protocol": None,
        "status": 400,
        "bytes": 0,
        "duration_us": 0,
    }


VALUES = strategies.binary(max_size=40)


@given(target=VALUES, header=VALUES, client=strategies.text(max_size=20))
def test_no_line_can_be_forged(target, header, client):
    """Whatever a client sends, its request is one line, and quotes stand only around fields."""
    entry = (client, "GET", target, "1.1", 200, 0, 0.0, [(b"a", header)], b"\r\nb: " + header)
    written = logged("json", entry)
    assert written.count("\n") == 1 and written.isascii()
    assert set(json.loads(written)) >= {"client", "target"}
    written = logged('"%{a}i" %{b}o', entry)
    assert written.count("\n") == 1 and written.isascii() and not re.search(r"[\x00-\x09\x0b-\x1f]", written)
    assert re.fullmatch(r'"(?:[^"\\]|\\.)*" .*\n', written)


def test_the_process():
    """Each line can tell the process that has served the request."""
    assert logged("%P 100%% of %m", ENTRY) == f"{os.getpid()} 100% of GET\n"
