"""Dead letters: messages with the reason why they were put aside, within what the broker takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ...wire.queue import Letter
from .delivery import Delivery

#: The headers that a dead letter gets, which are kept whatever else it has.
FAILURE, QUEUE, SCOPE_ID, DELIVERIES, DROPPED, PUBLISHED_BY = OWN = (
    "x-failure",
    "x-queue",
    "x-scope-id",
    "x-deliveries",
    "x-dropped",
    "x-published-by",
)
#: Of a failure, where there is room for no more, and of names of headers that were dropped: characters.
LEAST_FAILURE = 200
MOST_DROPPED = 200


def dead_letter(delivery: Delivery, queue: str, reason: str) -> Letter:
    """Return what is published in place of a message: the same, with the reason in its headers, and for ever."""
    letter = delivery.letter
    headers = {
        **letter.headers,
        FAILURE: reason,
        QUEUE: queue,
        SCOPE_ID: delivery.scope_id,
        DELIVERIES: delivery.times,
        PUBLISHED_BY: letter.user_id,
    }
    if letter.user_id is None:
        # Nor is a header of the publisher's own to say so.
        del headers[PUBLISHED_BY]
    return replace(letter, headers=headers, ttl=None, user_id=None)


def shortened(letter: Letter, most: int, size_of: Callable[[Letter], int]) -> Letter:
    """Return a dead letter whose properties take at most `most` bytes, by `size_of`.

    Where there are too many headers, the largest ones are left out, and their names are in the header ``x-dropped``.
    """
    if size_of(letter) <= most:
        return letter
    headers = dict(letter.headers)
    own = {name: headers[name] for name in OWN if name in headers}
    largest_last = sorted(
        (name for name in headers if name not in own),
        key=lambda name: size_of(replace(letter, headers={name: headers[name]})),
    )
    dropped: list[str] = []
    while largest_last and size_of(letter) > most:
        name = largest_last.pop()
        del headers[name]
        dropped.append(name)
        names = " ".join(dropped)
        headers[DROPPED] = names if len(names) <= MOST_DROPPED else f"{names[: MOST_DROPPED - 1]}…"
        letter = replace(letter, headers=headers)
    if size_of(letter) > most:
        headers = {**headers, FAILURE: str(headers.get(FAILURE, ""))[:LEAST_FAILURE]}
        headers.pop(DROPPED, None)
        letter = replace(letter, headers=headers)
    return letter
