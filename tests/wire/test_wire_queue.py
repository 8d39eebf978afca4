"""Scopes and messages of queues: what applications receive, and what they may send."""

from __future__ import annotations

import datetime
import re
from decimal import Decimal

import pytest

from cyasgi.wire.queue import (
    Acknowledge,
    Letter,
    Publish,
    Reject,
    Reply,
    check_name,
    parse_send,
    plain_headers,
    receive_message,
    scope_fields,
)


def test_scope():
    assert scope_fields("orders", "7") == {
        "type": "queue",
        "asgi": {"version": "3.0", "spec_version": "1.0"},
        "queue": "orders",
        "scope_id": "7",
        "acknowledgement": "automatic",
    }
    assert scope_fields("orders", "7", "manual")["acknowledgement"] == "manual"


def test_receive():
    letter = Letter(b"body", {"n": 1}, "m", "c", "r", "text/plain", 3, 1.5, 1e9)
    assert receive_message(letter, 5, 2) == {
        "type": "queue.receive",
        "body": b"body",
        "headers": {"n": 1},
        "message_id": "m",
        "correlation_id": "c",
        "reply_to": "r",
        "content_type": "text/plain",
        "content_encoding": None,
        "priority": 3,
        "ttl": 1.5,
        "timestamp": 1e9,
        "delivery_id": 5,
        "redelivered": True,
        "deliveries": 2,
    }
    first = receive_message(Letter(b""), 6, 1)
    assert (first["redelivered"], first["headers"], first["message_id"]) == (False, {}, None)


def test_headers_are_plain():
    """Whatever a library makes of what the broker sends, an application gets what ASGI allows."""
    moment = datetime.datetime(2001, 9, 9, 1, 46, 40, tzinfo=datetime.UTC)
    deep = {}
    for _ in range(100):
        deep = {"deeper": deep}
    plain = plain_headers(
        {"a": moment, 2: bytearray(b"x"), "c": Decimal("1.5"), "d": [True, None, {"e": (1,)}], "f": deep}
    )
    assert plain["a"] == 1e9
    assert plain["2"] == b"x"
    assert plain["c"] == "1.5"
    assert plain["d"] == [True, None, {"e": [1]}]
    assert str(plain["f"]).count("deeper") == 100
    assert plain_headers({}) == {}


@pytest.mark.parametrize(
    ("message", "asked"),
    [
        ({"type": "queue.acknowledge"}, Acknowledge(None)),
        ({"type": "queue.acknowledge", "delivery_id": 3}, Acknowledge(3)),
        ({"type": "queue.reject", "reason": "no"}, Reject(None, False, "no")),
        ({"type": "queue.reject", "requeue": True, "delivery_id": 3}, Reject(3, True, "")),
        ({"type": "queue.publish", "body": b"x"}, Publish(Letter(b"x"), None, None)),
        (
            {
                "type": "queue.publish",
                "body": b"x",
                "scope_id": "",
                "queue": "q",
                "priority": 0,
                "ttl": 2,
                "headers": None,
            },
            Publish(Letter(b"x", priority=0, ttl=2.0), "", "q"),
        ),
        (
            {"type": "queue.reply", "body": b"x", "headers": {"a": [1, {"b": b""}]}, "correlation_id": "c"},
            Reply(Letter(b"x", {"a": [1, {"b": b""}]}, correlation_id="c"), None),
        ),
    ],
)
def test_sends(message, asked):
    assert parse_send(message) == asked


def nested(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("message", "kind", "said"),
    [
        (None, TypeError, "a message must be a dict, got None"),
        ({}, ValueError, "unknown type of message None: a queue scope accepts queue.acknowledge, queue.reject"),
        ({"type": "http.response.start"}, ValueError, "unknown type of message 'http.response.start'"),
        (
            {"type": "queue.acknowledge", "delivery_id": "3"},
            TypeError,
            "'delivery_id' of a 'queue.acknowledge' message",
        ),
        ({"type": "queue.acknowledge", "delivery_id": True}, TypeError, "must be an int, got True"),
        (
            {"type": "queue.reject", "requeue": 1},
            TypeError,
            "'requeue' of a 'queue.reject' message must be True or False",
        ),
        ({"type": "queue.reject", "reason": b""}, TypeError, "'reason' of a 'queue.reject' message must be a str"),
        ({"type": "queue.publish"}, ValueError, "a 'queue.publish' message must have a 'body'"),
        ({"type": "queue.reply", "body": "x"}, TypeError, "'body' of a 'queue.reply' message must be bytes, got str"),
        ({"type": "queue.publish", "body": b"", "headers": [1]}, TypeError, "must be a dict, got [1]"),
        (
            {"type": "queue.publish", "body": b"", "headers": {"a": object}},
            TypeError,
            "may hold str, bytes, int, float",
        ),
        ({"type": "queue.publish", "body": b"", "headers": {1: 2}}, TypeError, "a name in 'headers'"),
        ({"type": "queue.publish", "body": b"", "headers": {"": 2}}, ValueError, "must have 1 to 255 bytes"),
        (
            {"type": "queue.publish", "body": b"", "headers": {"a": "x" * 40_000, "b": b"x" * 30_000}},
            ValueError,
            "must have at most 65536 bytes, got 70",
        ),
        (
            {"type": "queue.publish", "body": b"", "headers": {"a": "\ud800"}},
            ValueError,
            "must be such that can be encoded",
        ),
        ({"type": "queue.publish", "body": b"", "headers": {"a": 2**63}}, ValueError, "must have 64 bits"),
        ({"type": "queue.publish", "body": b"", "headers": {"a": nested(20)}}, ValueError, "nested more than 16 deep"),
        ({"type": "queue.publish", "body": b"", "scope_id": 7}, TypeError, "'scope_id' of a 'queue.publish' message"),
        ({"type": "queue.publish", "body": b"", "scope_id": "é" * 128}, ValueError, "255 bytes of UTF-8, got 256"),
        ({"type": "queue.publish", "body": b"", "scope_id": "\ud800"}, ValueError, "text that can be encoded"),
        (
            {"type": "queue.publish", "body": b"", "queue": ""},
            ValueError,
            "'queue' of a 'queue.publish' message must have 1",
        ),
        (
            {"type": "queue.publish", "body": b"", "message_id": b""},
            TypeError,
            "'message_id' of a 'queue.publish' message",
        ),
        ({"type": "queue.publish", "body": b"", "priority": 256}, ValueError, "must be from 0 to 255, got 256"),
        ({"type": "queue.publish", "body": b"", "priority": 1.0}, TypeError, "must be an int, got 1.0"),
        (
            {"type": "queue.publish", "body": b"", "ttl": -1},
            ValueError,
            "'ttl' of a 'queue.publish' message must be from 0",
        ),
        ({"type": "queue.publish", "body": b"", "ttl": float("nan")}, ValueError, "seconds, got nan"),
        (
            {"type": "queue.publish", "body": b"", "timestamp": "now"},
            TypeError,
            "must be a number of seconds, got 'now'",
        ),
    ],
)
def test_malformed(message, kind, said):
    with pytest.raises(kind, match=re.escape(said)):
        parse_send(message)


def test_names():
    assert check_name("", "it") == ""
    with pytest.raises(ValueError, match=re.escape("it must have 1 to 255 bytes of UTF-8, got 0: ''")):
        check_name("", "it", least=1)


def test_headers_are_copied():
    """What the sender changes afterwards is not published."""
    headers = {"a": [1]}
    published = parse_send({"type": "queue.publish", "body": b"", "headers": headers})
    headers["a"].append(2)
    assert published.letter.headers == {"a": [1]}


def test_headers_that_are_nested_by_the_hundred():
    """They are shown in words, or not at all; nobody has to be able to read them."""
    deep = []
    for _ in range(900):
        deep = [deep]
    headers = plain_headers({"a": deep})
    for _ in range(16):
        headers = headers["a"] if isinstance(headers, dict) else headers[0]
    assert isinstance(headers[0] if isinstance(headers, list) else headers, str)
