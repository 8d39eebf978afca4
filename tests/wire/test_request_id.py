"""Ids of requests: kept if they are harmless, else made; and nothing else of the headers changes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, strategies

from cyasgi.wire.http.request_id import id_line, identify, is_name

NAME = b"x-request-id"
MADE = re.compile(rb"[0-9a-f]{32}")


@pytest.mark.parametrize("value", [b"a", b"0" * 128, b"Root=1-5759e988-bd862e3fe1be46a994272793", b"a/b+c=.:~@_"])
def test_kept(value):
    headers = [(b"host", b"x"), (NAME, value)]
    assert identify(headers, NAME) == value
    assert headers == [(b"host", b"x"), (NAME, value)]
    assert id_line(headers, NAME) == b"\r\nx-request-id: " + value


@pytest.mark.parametrize(
    "values", [[], [b""], [b"a", b"a"], [b"0" * 129], [b"a b"], [b'a"'], [b"a\n"], [b"\xe4"], [b"<"]]
)
def test_made(values):
    headers = [(b"host", b"x"), *((NAME, value) for value in values), (b"a", b"b")]
    found = identify(headers, NAME)
    assert MADE.fullmatch(found)
    assert headers == [(b"host", b"x"), (b"a", b"b"), (NAME, found)]


def test_no_two_alike():
    assert len({identify([], NAME) for _ in range(1000)}) == 1000


@given(strategies.lists(strategies.tuples(strategies.sampled_from([b"a", NAME]), strategies.binary(max_size=9))))
def test_any_headers(headers):
    """Afterwards there is one id, which cannot break a line; a second look changes nothing."""
    others = [header for header in headers if header[0] != NAME]
    found = identify(headers, NAME)
    assert [header for header in headers if header[0] != NAME] == others
    assert [value for key, value in headers if key == NAME] == [found]
    assert re.fullmatch(rb"[!-~]{1,128}", found)
    assert identify(headers, NAME) == found


@pytest.mark.parametrize(
    ("name", "accepted"),
    [("x-request-id", True), ("X-Amzn-Trace-Id", True), ("", False), ("a b", False), ("a:", False), ("\xe4", False)]
    + [(name, False) for name in ("Host", "content-length", "Connection", "transfer-encoding", "upgrade")],
)
def test_names(name, accepted):
    assert is_name(name) is accepted
