"""Strategies, which choose the application for a scope: round robin, least running, weighted, consistent hashing.

A strategy is an object with a method ``choose(backends, scope)``. It gets the available applications, at least one, in
the balancer's order, and returns one of them. It may keep state, so each balancer needs one of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, ClassVar, Protocol

from .backend import Backend
from .checks import check_callable

Key = Callable[[Any], Any]


class Strategy(Protocol):
    """The interface of a strategy."""

    def choose(self, backends: Sequence[Backend], scope: Any) -> Backend:
        """Return one of the applications for this scope; must neither block nor change the list."""
        ...


class RoundRobin:
    """Each application in turn."""

    uses_weights: ClassVar[bool] = False

    def __init__(self) -> None:
        self._last = -1

    def choose(self, backends: Sequence[Backend], scope: Any) -> Backend:
        chosen = next((backend for backend in backends if backend.index > self._last), backends[0])
        self._last = chosen.index
        return chosen


class LeastRunning:
    """The application with the fewest runs in progress in proportion to its weight; among equals, each in turn.

    A WebSocket counts as long as it is open, so that long connections are spread evenly as well.
    """

    uses_weights: ClassVar[bool] = True

    def __init__(self) -> None:
        self._turn = RoundRobin()

    def choose(self, backends: Sequence[Backend], scope: Any) -> Backend:
        # Counting this run, so that of two idle ones the heavier is chosen.
        loads = [(backend.running + 1) / backend.weight for backend in backends]
        least = min(loads)
        return self._turn.choose(
            [backend for backend, load in zip(backends, loads, strict=True) if load == least], scope
        )


class Weighted:
    """Smooth weighted round robin, as in nginx: in proportion to the weights, and spread as evenly as they allow.

    Weights of 5, 1 and 1 give a a b a c a a, where plain weighted round robin would give a a a a a b c.
    """

    uses_weights: ClassVar[bool] = True

    def __init__(self) -> None:
        self._credit: dict[Backend, float] = {}

    def choose(self, backends: Sequence[Backend], scope: Any) -> Backend:
        credit = self._credit
        total = 0.0
        for backend in backends:
            credit[backend] = credit.get(backend, 0.0) + backend.weight
            total += backend.weight
        chosen = max(backends, key=credit.__getitem__)
        credit[chosen] -= total
        return chosen


def by_client(scope: Any) -> str | None:
    """Return the client's host, so that one address always gets the same application.

    None if the scope has no client, as on a Unix socket.
    """
    client = scope.get("client") if isinstance(scope, Mapping) else None
    return (client[0] or None) if client else None


def by_path(scope: Any) -> str | None:
    """Return the path of the request, so that each application sees, and may cache, a part of the site.

    None if the scope has no path.
    """
    return scope.get("path") if isinstance(scope, Mapping) else None


def by_header(name: str) -> Key:
    """Return a key function for the value of this request header: the first one if it is repeated, None if absent.

    Clients choose their headers: sending the same value all the time keeps one application busy.

    Raises:
        TypeError, ValueError: `name` is not a str, or not the name of a header.
    """
    accepted = "accepted is the name of a header, as in 'x-session'"
    if not isinstance(name, str):
        raise TypeError(f"name={name!r}: {accepted}")
    if not name.isascii() or not name.strip("-_").replace("-", "").replace("_", "").isalnum():
        raise ValueError(f"name={name!r}: {accepted}")
    wanted = name.lower().encode("ascii")

    def value_of_header(scope: Any) -> bytes | None:
        headers = scope.get("headers", ()) if isinstance(scope, Mapping) else ()
        return next((bytes(value) for key, value in headers if key.lower() == wanted), None)

    return value_of_header


def by_client_or_path(scope: Any) -> str | None:
    """Return the client's host, or the path if the scope has no client."""
    return by_client(scope) or by_path(scope)


class ConsistentHash:
    """The same application for the same key, as long as it is available: weighted rendezvous hashing.

    Each application gets a score for the key, from a hash of its name and the key, weighted; the highest score wins.
    When an application leaves, only its own keys move, spread over the others in proportion to their weights; when it
    returns, they come back. A hash ring would need a hundred or more points for each application to approximate the
    weights, would have to be rebuilt when they change, and would be faster only for far more applications than one
    process serves: rendezvous hashing costs one hash, one or two microseconds, for each. Scores depend on nothing but
    names and keys, so that all processes agree, also after a restart; give applications lasting names (see
    `LoadBalancer`).

    A single key is never spread: one that most requests have keeps one application busy.

    Args:
        key: a function of the scope that returns its key: a str, bytes, int, or a tuple of these. Scopes for which it
            returns None go to each application in turn. If it raises, the request fails. The default is
            `by_client_or_path`.
    """

    uses_weights: ClassVar[bool] = True

    def __init__(self, key: Key = by_client_or_path) -> None:
        check_callable("key", key, "a function that returns the key of a scope")
        self._key = key
        self._turn = Weighted()
        self._seeds: dict[Backend, bytes] = {}

    def choose(self, backends: Sequence[Backend], scope: Any) -> Backend:
        key = self._key(scope)
        if key is None:
            return self._turn.choose(backends, scope)
        data = encode_key(key)
        return max(backends, key=lambda backend: score(self._seed(backend), backend.weight, data))

    def _seed(self, backend: Backend) -> bytes:
        seed = self._seeds.get(backend)
        if seed is None:
            seed = self._seeds[backend] = seed_of(backend.name)
        return seed


def encode_key(key: Any) -> bytes:
    """Encode a key to be hashed; different keys give different bytes.

    Raises:
        TypeError: the key is not a str, bytes, int, or tuple of these.
    """
    return repr(_plain(key, key)).encode("utf-8", "backslashreplace")


def _plain(part: Any, key: Any) -> Any:
    """Reduce part of a key to built-in types, so that equal keys have the same repr in every process."""
    if isinstance(part, tuple):
        return tuple(_plain(inner, key) for inner in part)
    if isinstance(part, str):
        return str.__str__(part)
    if isinstance(part, bytes):
        return bytes(memoryview(part))
    if isinstance(part, int) and not isinstance(part, bool):
        return int.__int__(part)
    # The repr of anything else may differ from process to process.
    raise TypeError(f"key {key!r}: accepted is a str, bytes, int, a tuple of these, or None for no key")


def seed_of(name: str) -> bytes:
    """Return the key for the hashes of the application with this name."""
    return blake2b(name.encode("utf-8", "surrogatepass")).digest()


def score(seed: bytes, weight: float, data: bytes) -> float:
    """Return the score of an application for a key.

    It is weight / e, with e exponentially distributed, so that the probability of the highest score is proportional to
    the weight.
    """
    drawn = int.from_bytes(blake2b(data, digest_size=8, key=seed).digest(), "big")
    # 52 bits, so that the half that keeps 0 and 1 out fits into a float as well.
    return -weight / math.log(((drawn >> 12) + 0.5) / 2**52)
