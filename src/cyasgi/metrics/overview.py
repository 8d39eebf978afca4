"""What one process tells of its servers: bounded, and checked where it comes from another process."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from .text import bounded

#: Servers, and counters of one.
MOST_SERVERS, MOST_COUNTERS = 16, 64
#: The busiest scopes of a server, and the last failures of a process.
MOST_SCOPES, MOST_FAILURES = 10, 20
#: Types of exceptions by which failures are counted; the others are counted as OTHER.
MOST_TYPES, OTHER = 20, "other"
#: Characters of a name, of a scope or an error's type, and of a traceback.
NAME, LINE, TRACEBACK = 64, 200, 2500

_LARGEST = 2**64


@dataclass(frozen=True, slots=True)
class BusyScope:
    """An instance, in words, and how many messages wait in its queue."""

    scope: str
    queued: int


@dataclass(frozen=True, slots=True)
class Failure:
    """An application that has raised."""

    #: When, in seconds since the epoch.
    moment: float
    server: str
    #: What it served, in words.
    scope: str
    #: The type of the error.
    error: str
    traceback: str


@dataclass(frozen=True, slots=True)
class ServerOverview:
    """One server."""

    #: Its `stats()`.
    stats: dict[str, int] = field(default_factory=dict)
    #: Instances with messages in their queues, and those messages, as of the last look at all of them.
    waiting: int = 0
    queued: int = 0
    #: The longest queue first.
    busiest: tuple[BusyScope, ...] = ()


@dataclass(frozen=True, slots=True)
class Overview:
    """One process."""

    #: By name.
    servers: dict[str, ServerOverview] = field(default_factory=dict)
    #: The longest time by which the event loop was late in the last second, in seconds.
    lag: float = 0.0
    #: How many failures there were, by type.
    failure_types: dict[str, int] = field(default_factory=dict)
    #: The last ones, the latest first; None if they are those of the overview before.
    failures: tuple[Failure, ...] | None = ()

    def to_json(self) -> dict[str, Any]:
        """Return what JSON can have of it."""
        return {
            "servers": {
                name: {
                    "stats": server.stats,
                    "waiting": server.waiting,
                    "queued": server.queued,
                    "busiest": [[one.scope, one.queued] for one in server.busiest],
                }
                for name, server in self.servers.items()
            },
            "lag": self.lag,
            "failure_types": self.failure_types,
            "failures": None
            if self.failures is None
            else [[one.moment, one.server, one.scope, one.error, one.traceback] for one in self.failures],
        }

    @classmethod
    def from_json(cls, value: object) -> Overview:
        """Return the overview that another process has made JSON of.

        Raises:
            ValueError: it is none, or it is larger than any is.
        """
        content = _mapping(value, 8)
        failures = content.get("failures")
        return cls(
            servers={_text(NAME)(name): _server(one) for name, one in _mapping(content.get("servers"), 16).items()},
            lag=_number(content.get("lag")),
            failure_types=_counts(content.get("failure_types"), MOST_TYPES + 1, LINE),
            failures=None if failures is None else tuple(map(_failure, _sequence(failures, MOST_FAILURES))),
        )


def _server(value: object) -> ServerOverview:
    content = _mapping(value, 8)
    return ServerOverview(
        stats=_counts(content.get("stats"), MOST_COUNTERS, NAME),
        waiting=_count(content.get("waiting")),
        queued=_count(content.get("queued")),
        busiest=tuple(
            BusyScope(*_fields(one, _text(LINE), _count)) for one in _sequence(content.get("busiest"), MOST_SCOPES)
        ),
    )


def _failure(value: object) -> Failure:
    return Failure(*_fields(value, _number, _text(NAME), _text(LINE), _text(LINE), _text(TRACEBACK)))


def _fields(value: object, *kinds: Callable[[object], Any]) -> list[Any]:
    found = _sequence(value, len(kinds))
    if len(found) < len(kinds):
        raise ValueError(f"an overview has {len(found)} fields where {len(kinds)} are accepted")
    return [kind(one) for kind, one in zip(kinds, found, strict=True)]


def _mapping(value: object, most: int) -> Mapping[str, Any]:
    if not isinstance(value, dict) or len(value) > most:
        raise ValueError(f"an overview has {type(value).__name__}, accepted is an object of at most {most} names")
    return value


def _sequence(value: object, most: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise ValueError(f"an overview has {type(value).__name__}, accepted is an array of at most {most} values")
    return value


def is_count(value: object) -> TypeGuard[int]:
    """Return whether a value can be a counter's."""
    return isinstance(value, int) and 0 <= value < _LARGEST


def _count(value: object) -> int:
    if not is_count(value):
        raise ValueError("an overview has a number that counts nothing: accepted are whole ones from 0 on")
    return int(value)


def _counts(value: object, most: int, length: int) -> dict[str, int]:
    return {_text(length)(name): _count(number) for name, number in _mapping(value, most).items()}


def _number(value: object) -> float:
    if not isinstance(value, int | float) or not 0 <= value < _LARGEST or not math.isfinite(value):
        raise ValueError("an overview has a time that is none: accepted are finite numbers from 0 on")
    return float(value)


def _text(most: int) -> Callable[[object], str]:
    def text(value: object) -> str:
        if not isinstance(value, str):
            raise ValueError(f"an overview has {type(value).__name__} where a string is accepted")
        return bounded(value, most)

    return text
