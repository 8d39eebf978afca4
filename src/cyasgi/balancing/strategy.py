"""Which application takes a scope: round robin, least running, weighted, consistent hashing.

A strategy is an object with a method ``choose(backends, scope)``. It is given the applications that are available,
never none, in the order of the balancer, and returns one of them. It holds state for one balancer.
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
    """What a strategy has to have."""

    def choose(self, backends: Sequence[Backend], scope: Any) -> Backend:
        """One of these, for this scope. It must not wait, and may not change the list."""
        ...


class RoundRobin:
    """Each in turn."""

    uses_weights: ClassVar[bool] = False

    def __init__(self) -> None:
        self._last = -1

    def choose(self, backends: Sequence[Backend], scope: Any) -> Backend:
        chosen = next((backend for backend in backends if backend.index > self._last), backends[0])
        self._last = chosen.index
        return chosen


class LeastRunning:
    """The one with the fewest runs going on in proportion to its weight; each in turn among equals.

    A WebSocket counts for as long as it is open, so that long connections are spread evenly too.
    """

    uses_weights: ClassVar[bool] = True

    def __init__(self) -> None:
        self._turn = RoundRobin()

    def choose(self, backends: Sequence[Backend], scope: Any) -> Backend:
        # With this run included: of two idle ones the heavier is asked first.
        loads = [(backend.running + 1) / backend.weight for backend in backends]
        least = min(loads)
        return self._turn.choose(
            [backend for backend, load in zip(backends, loads, strict=True) if load == least], scope
        )


class Weighted:
    """Smooth weighted round robin, nginx's: in proportion to the weights, and spread as evenly as they allow.

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
    """The client's host: all that one address sends goes to one application. None where the scope has no client, as
    behind a Unix socket."""
    client = scope.get("client") if isinstance(scope, Mapping) else None
    return (client[0] or None) if client else None


def by_path(scope: Any) -> str | None:
    """The path of the request: each application sees, and may cache, a part of the site. None where there is none."""
    return scope.get("path") if isinstance(scope, Mapping) else None


def by_header(name: str) -> Key:
    """A key function that gives the value of this request header (its first, if there are several), or None.

    A client chooses its headers: whoever sends always the same one keeps one application busy.

    Raises:
        TypeError, ValueError: `name` is not a str, or no name of a header.
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
    """The client's host, or the path where there is no client."""
    return by_client(scope) or by_path(scope)


class ConsistentHash:
    """The same key goes to the same application, for as long as that is available: weighted rendezvous hashing.

    Every application draws a number for the key, from a hash of the application's name and the key, and the highest in
    proportion to the weight takes it. When one leaves, its keys alone move, spread over all others in proportion to
    their weights; when it returns they come back. A ring needs a hundred or more points for each application to come
    near the weights, has to be rebuilt when they change, and is faster only for far more applications than one process
    serves: rendezvous costs a hash, one or two microseconds, for each. Hashes depend on names and keys alone, so that
    all processes, now and later, agree; give applications names that stay theirs (see `LoadBalancer`).

    A key that is asked for most of the time keeps one application busy: nothing here spreads a single key.

    Args:
        key: is called with the scope and gives the key: a str, bytes, int, or tuple of these; None if this scope has
            none: such scopes go to each in turn. What it raises ends the request. The default is `by_client_or_path`.
    """

    uses_weights: ClassVar[bool] = True

    def __init__(self, key: Key = by_client_or_path) -> None:
        check_callable("key", key, "a function that gives the key of a scope")
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
    """The key as bytes to hash; different keys give different bytes.

    Raises:
        TypeError: it is not a str, bytes, int, or tuple of these.
    """
    return repr(_plain(key, key)).encode("utf-8", "backslashreplace")


def _plain(part: Any, key: Any) -> Any:
    """The part of a key without what a subclass adds, so that equal keys have the same repr in every process."""
    if isinstance(part, tuple):
        return tuple(_plain(inner, key) for inner in part)
    if isinstance(part, str):
        return str.__str__(part)
    if isinstance(part, bytes):
        return bytes(memoryview(part))
    if isinstance(part, int) and not isinstance(part, bool):
        return int.__int__(part)
    # Whatever else has a repr that may differ from process to process.
    raise TypeError(f"key {key!r}: accepted is a str, bytes, int, a tuple of these, or None for no key")


def seed_of(name: str) -> bytes:
    """What makes the hashes of one application its own."""
    return blake2b(name.encode("utf-8", "surrogatepass")).digest()


def score(seed: bytes, weight: float, data: bytes) -> float:
    """What an application has drawn for a key: weight / e, where e is exponentially distributed, so that each of
    several draws the highest with a probability in proportion to its weight."""
    drawn = int.from_bytes(blake2b(data, digest_size=8, key=seed).digest(), "big")
    # As many bits as a float holds beside the half that keeps 0 and 1 out.
    return -weight / math.log(((drawn >> 12) + 0.5) / 2**52)
