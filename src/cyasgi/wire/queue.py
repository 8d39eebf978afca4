"""ASGI for queues of messages: the scope and the messages, specified in the manner of ASGI.

Queue scope
-----------

A scope stands for all messages of one queue that have the same ``scope_id``, which whoever publishes a message gives
it: the number of an order, say, or the name of an account. They are received in the order in which they were
published, by one application at a time, however many processes take messages from the queue. The scope begins with a
message. No message marks its end: the server forgets it when it has been idle for too long or needs the room. The
application may also return after each message; the next one begins a new scope.

* ``type`` (*Unicode string*) - ``"queue"``.
* ``asgi["version"]`` (*Unicode string*) - version of the ASGI specification, ``"3.0"``, or ``"2.0"`` for an application
  that is called as in ASGI 2.
* ``asgi["spec_version"]`` (*Unicode string*) - version of this text, ``"1.0"``.
* ``queue`` (*Unicode string*) - the name of the queue.
* ``scope_id`` (*Unicode string*) - what the messages of the scope have in common; it may be empty.
* ``acknowledgement`` (*Unicode string*) - ``"automatic"`` or ``"manual"``, see below.
* ``state`` (*dict*) - a copy of what the application has left in its lifespan scope. Missing if it has no lifespan.

Receive - ``queue.receive`` event
---------------------------------

* ``type`` (*Unicode string*) - ``"queue.receive"``.
* ``body`` (*byte string*) - the message; it may be empty.
* ``headers`` (*dict*) - by name: strings, numbers, booleans, None, byte strings, and lists and dicts of these. Times
  are seconds since the epoch. What is published has at most 65,536 bytes of them.
* ``message_id``, ``correlation_id``, ``reply_to``, ``content_type``, ``content_encoding`` (*Unicode string* or None) -
  as published.
* ``priority`` (*int* or None) - as published, from 0 to 255.
* ``ttl`` (*float* or None) - as published: seconds that the message may wait in the queue.
* ``timestamp`` (*float* or None) - when it was published, in seconds since the epoch, if the publisher says so.
* ``delivery_id`` (*int*) - stands for this delivery in ``queue.acknowledge``, ``queue.reject`` and ``queue.reply``.
* ``redelivered`` (*bool*) - whether an application may have begun this message before: then it failed, or its worker
  has ended, and what it has done may have to be looked for.
* ``deliveries`` (*int*) - how often the message was delivered, this one included, as far as is known.

A message is acknowledged, and so gone from the queue, when the application has received it and then calls ``receive()``
again in the same task, or returns. If the application raises before that, it is called anew and receives the message
again, after a pause, and in front of those that came after it; once a message has failed too often, it goes to the dead
letters instead. If the server ends the scope while the application works on a message, as it does when it stops, the
message is delivered again, even if the application swallows its cancellation and returns: only ``queue.acknowledge``
says then that it is done.

That is so where ``acknowledgement`` is ``"automatic"``. Where it is ``"manual"``, the application receives the next
message whether it has acknowledged earlier ones or not, and each is in hand until it acknowledges or rejects that one.
When the application ends, what it has in hand is delivered again, in order. If it has raised, or has returned of its
own accord, the messages that it had in hand are delivered one at a time from then on, each when the one before it is
acknowledged or rejected, until it is known with which of them the application fails.

Send - ``queue.acknowledge`` event
----------------------------------

Acknowledges a message: it will not be delivered again, whatever comes.

* ``type`` (*Unicode string*) - ``"queue.acknowledge"``.
* ``delivery_id`` (*int*) - which one. Optional; if missing, the one that was received last.

Send - ``queue.reject`` event
-----------------------------

* ``type`` (*Unicode string*) - ``"queue.reject"``.
* ``delivery_id`` (*int*) - as above.
* ``requeue`` (*bool*) - False, the default: it goes to the dead letters. True: it is delivered again, perhaps by
  another worker and after messages that have come since.
* ``reason`` (*Unicode string*) - kept with the dead letter. Optional.

Send - ``queue.publish`` event
------------------------------

When this send returns, the queue has confirmed that it has the message.

* ``type`` (*Unicode string*) - ``"queue.publish"``.
* ``body`` (*byte string*), and, all of them optional, ``headers``, ``message_id``, ``correlation_id``, ``reply_to``,
  ``content_type``, ``content_encoding``, ``priority``, ``ttl`` and ``timestamp`` - as above.
* ``scope_id`` (*Unicode string*) - whose message it is. Optional; the scope's own if missing.
* ``queue`` (*Unicode string*) - the name of another queue of the same broker. Optional; the scope's own if missing.

Send - ``queue.reply`` event
----------------------------

Publishes to the ``reply_to`` of a message, with the ``correlation_id`` of that message unless another is given.

* ``type`` (*Unicode string*) - ``"queue.reply"``.
* ``body`` and the other properties - as for ``queue.publish``.
* ``delivery_id`` (*int*) - to which message. Optional; if missing, to the one that was received last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from .messages import check_type

SPEC_VERSION = "1.0"
#: The types of messages that an application may send.
SENDS = ("queue.acknowledge", "queue.reject", "queue.publish", "queue.reply")
#: Who says that a message is done.
ACKNOWLEDGEMENTS = ("automatic", "manual")
#: The longest name of a queue or scope_id, in bytes of UTF-8: that of a routing key in AMQP.
MOST_NAME = 255
#: How deep headers may be nested.
MOST_DEPTH = 16
#: The size of the headers of a message that is published, with their names, in bytes: half of what RabbitMQ takes.
MOST_HEADERS = 65_536

#: What a value in headers takes beside its own bytes, at most.
FIELD = 9

TEXTS = ("message_id", "correlation_id", "reply_to", "content_type", "content_encoding")


@dataclass(frozen=True, slots=True)
class Letter:
    """A body and the properties that come along with it."""

    body: bytes
    headers: Mapping[str, Any] = field(default_factory=dict)
    message_id: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    content_type: str | None = None
    priority: int | None = None
    ttl: float | None = None
    timestamp: float | None = None
    content_encoding: str | None = None
    #: What applications are not told, and dead letters keep: its type, and which program and user have published it.
    message_type: str | None = None
    app_id: str | None = None
    user_id: str | None = None


@dataclass(frozen=True, slots=True)
class Acknowledge:
    delivery_id: int | None


@dataclass(frozen=True, slots=True)
class Reject:
    delivery_id: int | None
    requeue: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Publish:
    letter: Letter
    scope_id: str | None
    queue: str | None


@dataclass(frozen=True, slots=True)
class Reply:
    letter: Letter
    delivery_id: int | None


def scope_fields(queue: str, scope_id: str, acknowledgement: str = "automatic") -> dict[str, Any]:
    """Return what a new scope holds; `acknowledgement` is one of ACKNOWLEDGEMENTS."""
    return {
        "type": "queue",
        "asgi": {"version": "3.0", "spec_version": SPEC_VERSION},
        "queue": queue,
        "scope_id": scope_id,
        "acknowledgement": acknowledgement,
    }


def receive_message(letter: Letter, delivery_id: int, deliveries: int) -> dict[str, Any]:
    """Return the message for an application that receives this letter for the `deliveries`-th time."""
    return {
        "type": "queue.receive",
        "body": letter.body,
        "headers": plain_headers(letter.headers),
        "message_id": letter.message_id,
        "correlation_id": letter.correlation_id,
        "reply_to": letter.reply_to,
        "content_type": letter.content_type,
        "content_encoding": letter.content_encoding,
        "priority": letter.priority,
        "ttl": letter.ttl,
        "timestamp": letter.timestamp,
        "delivery_id": delivery_id,
        "redelivered": deliveries > 1,
        "deliveries": deliveries,
    }


def plain_headers(headers: Mapping[Any, Any]) -> dict[str, Any]:
    """Return headers as ASGI messages may have them, whatever a broker has made of what it was sent."""
    return {str(name): _plain(value, MOST_DEPTH) for name, value in headers.items()} if headers else {}


def _plain(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    if isinstance(value, bytearray):
        return bytes(value)
    if isinstance(value, datetime):
        return value.timestamp()
    if depth and isinstance(value, Mapping):
        return {str(name): _plain(one, depth - 1) for name, one in value.items()}
    if depth and isinstance(value, (list, tuple)):
        return [_plain(one, depth - 1) for one in value]
    try:
        return str(value)
    except RecursionError:
        # Nested by the hundred.
        return "..."


def parse_send(message: Any) -> Acknowledge | Reject | Publish | Reply:
    """Return what an application asks for by a message.

    Raises:
        TypeError: the message is not a dict, or a value in it is of the wrong type.
        ValueError: it is another type of message, a value is out of bounds, or something is missing.
    """
    kind = check_type(message, SENDS, "a queue scope")
    if kind == "queue.acknowledge":
        return Acknowledge(_delivery_id(message, kind))
    if kind == "queue.reject":
        requeue, reason = message.get("requeue", False), message.get("reason", "")
        if not isinstance(requeue, bool):
            raise TypeError(f"'requeue' of a {kind!r} message must be True or False, got {requeue!r}")
        if not isinstance(reason, str):
            raise TypeError(f"'reason' of a {kind!r} message must be a str, got {reason!r}")
        return Reject(_delivery_id(message, kind), requeue, reason)
    letter = parse_letter(message, f"a {kind!r} message")
    if kind == "queue.reply":
        return Reply(letter, _delivery_id(message, kind))
    scope_id, queue = message.get("scope_id"), message.get("queue")
    where = f"of a {kind!r} message"
    return Publish(
        letter,
        None if scope_id is None else check_name(scope_id, f"'scope_id' {where}"),
        None if queue is None else check_name(queue, f"'queue' {where}", least=1),
    )


def check_name(name: Any, what: str, *, least: int = 0) -> str:
    """Return the name of a queue or a scope_id; raise TypeError or ValueError if it is none."""
    if not isinstance(name, str):
        raise TypeError(f"{what} must be a str, got {name!r}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{what} must be text that can be encoded, got {name!r}") from None
    if not least <= size <= MOST_NAME:
        raise ValueError(f"{what} must have {least} to {MOST_NAME} bytes of UTF-8, got {size}: {name[:40]!r}")
    return name


def parse_letter(message: Mapping[str, Any], what: str) -> Letter:
    """Return the body and the properties of a message; `what` names it in errors.

    Raises:
        TypeError, ValueError: as for `parse_send`.
    """
    if "body" not in message:
        raise ValueError(f"{what} must have a 'body'")
    body = message["body"]
    if not isinstance(body, bytes):
        raise TypeError(f"'body' of {what} must be bytes, got {type(body).__name__}")
    headers = message.get("headers")
    if headers is None:
        headers = {}
    if not isinstance(headers, Mapping):
        raise TypeError(f"'headers' of {what} must be a dict, got {headers!r}")
    size = _check_header(headers, f"'headers' of {what}", MOST_DEPTH)
    if size > MOST_HEADERS:
        raise ValueError(f"'headers' of {what} must have at most {MOST_HEADERS} bytes, got {size}")
    texts = {name: message.get(name) for name in TEXTS}
    for name, text in texts.items():
        if text is not None:
            check_name(text, f"{name!r} of {what}")
    priority = message.get("priority")
    if priority is not None:
        if not isinstance(priority, int) or isinstance(priority, bool):
            raise TypeError(f"'priority' of {what} must be an int, got {priority!r}")
        if not 0 <= priority <= 255:
            raise ValueError(f"'priority' of {what} must be from 0 to 255, got {priority}")
    return Letter(
        body,
        # A copy: the sender may go on to change its own.
        plain_headers(headers),
        **texts,
        priority=priority,
        ttl=_seconds(message, "ttl", what),
        timestamp=_seconds(message, "timestamp", what),
    )


def _seconds(message: Mapping[str, Any], name: str, what: str) -> float | None:
    value = message.get(name)
    if value is None:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name!r} of {what} must be a number of seconds, got {value!r}")
    if not (math.isfinite(value) and 0 <= value <= 2**32):
        raise ValueError(f"{name!r} of {what} must be from 0 to 2**32 seconds, got {value!r}")
    return float(value)


def _check_header(value: Any, what: str, depth: int) -> int:
    """Return the size of a value in headers, in bytes; raise TypeError or ValueError if they may not hold it."""
    if isinstance(value, str):
        try:
            return FIELD + len(value.encode())
        except UnicodeEncodeError:
            raise ValueError(f"text in {what} must be such that can be encoded, got {value[:40]!r}") from None
    if isinstance(value, bytes):
        return FIELD + len(value)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"an int in {what} must have 64 bits, got {value!r}")
    if value is None or isinstance(value, (bool, int, float)):
        return FIELD
    if not isinstance(value, (Mapping, list, tuple)):
        raise TypeError(f"{what} may hold str, bytes, int, float, bool, None, lists and dicts, got {value!r}")
    if not depth:
        raise ValueError(f"{what} are nested more than {MOST_DEPTH} deep")
    size = FIELD
    if isinstance(value, Mapping):
        for name in value:
            size += FIELD + len(check_name(name, f"a name in {what}", least=1).encode())
    return size + sum(
        _check_header(one, what, depth - 1) for one in (value.values() if isinstance(value, Mapping) else value)
    )


def _delivery_id(message: Mapping[str, Any], kind: str) -> int | None:
    delivery_id = message.get("delivery_id")
    if delivery_id is not None and (not isinstance(delivery_id, int) or isinstance(delivery_id, bool)):
        raise TypeError(f"'delivery_id' of a {kind!r} message must be an int, got {delivery_id!r}")
    return delivery_id
