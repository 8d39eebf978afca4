"""Limits for each key: how many instances it may have, and how many messages a second (a token bucket)."""

from __future__ import annotations

import collections
import time
from collections.abc import Hashable
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Protocol

from .._common.lost_time import LostTime
from .._types import Scope
from ..instances.limits import LimitExceeded
from .clock import time_or

#: Seconds for which a server may catch up on what arrived while the event loop stood still.
CATCHING_UP = 1.0
#: The part of a token that may be missing when one is taken: rounding errors of adding up fractions of seconds.
ROUNDING = 1e-6


class Key:
    """The instances of one key, and its token bucket."""

    __slots__ = ("instances", "key", "stamp", "tokens")

    def __init__(self, key: Hashable, tokens: float, now: float) -> None:
        self.key = key
        #: Instances that it has.
        self.instances = 0
        #: Messages that it could have sent at once at the time `stamp`, in seconds of the server's clock.
        self.tokens = tokens
        self.stamp = now

    def refill(self, now: float, rate: float, burst: float) -> None:
        """Add the tokens for the time since `stamp`, up to `burst`."""
        self.tokens = min(burst, self.tokens + max(0.0, now - self.stamp) * rate)
        self.stamp = now

    def take(self, now: float, rate: float, burst: float) -> float:
        """Take a token and return 0, or else return the seconds until there is one."""
        self.refill(now, rate, burst)
        if self.tokens < 1.0 - ROUNDING:
            return (1.0 - self.tokens) / rate
        self.tokens -= 1.0
        return 0.0


class Keys:
    """All keys of a server, each operation in O(1).

    There are at most as many keys with instances as instances. Of the others, a bounded number of those that sent
    messages lately is remembered; the one that has been silent longest is forgotten first.
    """

    __slots__ = ("_busy", "_silent")

    def __init__(self) -> None:
        self._busy: dict[Hashable, Key] = {}
        #: Keys without instances, the longest silent first.
        self._silent: collections.OrderedDict[Hashable, Key] = collections.OrderedDict()

    def __len__(self) -> int:
        return len(self._busy) + len(self._silent)

    def find(self, key: Hashable, burst: float, now: float) -> Key:
        """Return the key with this name, or a new one, which is not remembered yet."""
        return self._busy.get(key) or self._silent.get(key) or Key(key, burst, now)

    def remember(self, key: Key, rate: float, burst: float, most: int) -> None:
        """Remember a key without instances, as the one that was heard of last."""
        silent = self._silent
        silent[key.key] = key
        silent.move_to_end(key.key)
        while len(silent) > most:
            silent.popitem(last=False)
        # A bucket that is full again is as good as a new one. Dropping two for each one kept gets rid of them all.
        for _ in range(2):
            oldest = next(iter(silent.values()))
            if oldest is key or oldest.tokens + (key.stamp - oldest.stamp) * rate < burst:
                return
            silent.popitem(last=False)

    def hold(self, key: Key) -> None:
        """Count one more instance of the key."""
        if not key.instances:
            self._silent.pop(key.key, None)
            self._busy[key.key] = key
        key.instances += 1

    def release(self, key: Key) -> bool:
        """Count one instance less; return whether it was the last one."""
        key.instances -= 1
        if key.instances:
            return False
        del self._busy[key.key]
        return True


@lru_cache(maxsize=1024)
def network_of(host: str) -> str:
    """Return the addresses that one client has: an IPv4 address, or the /64 network of an IPv6 address.

    A single host has a /64 at its disposal (RFC 4291 section 2.5.1). What is not an address is returned unchanged.
    """
    if ":" not in host:
        return host
    try:
        address = IPv6Address(host.partition("%")[0])
    except ValueError:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{IPv6Address(int(address) >> 64 << 64)}/64"


class Limiting(Protocol):
    """What the limits are: those attributes and methods of a managed server."""

    @property
    def max_instances_per_key(self) -> int | None: ...

    @property
    def max_messages_per_second(self) -> float | None: ...

    @property
    def message_burst(self) -> int | None: ...

    @property
    def max_limit_keys(self) -> int: ...

    def clock(self) -> float: ...

    def limit_key(self, scope: Scope) -> Hashable | None: ...


def burst_of(server: Limiting, rate: float) -> float:
    """Return how many messages a key may send at once after a silence."""
    burst = server.message_burst
    return max(1.0, rate) if burst is None else float(burst)


def admit(server: Limiting, keys: Keys, scope: Scope, usable: bool, lost: LostTime) -> Key | None:
    """Count a message of this scope, and hold a place for its instance if that has still to be made.

    Args:
        usable: whether its instance exists already.
        lost: the time that the event loop has lost.

    Returns:
        The key in which a place is held; None where no limit applies, or no place is needed.

    Raises:
        LimitExceeded: a limit of the key has been reached.
    """
    most, rate = server.max_instances_per_key, server.max_messages_per_second
    if most is None and rate is None:
        return None
    name = server.limit_key(scope)
    if name is None:
        return None
    try:
        hash(name)
    except TypeError:
        raise TypeError(f"limit_key gave {name!r}: accepted is a hashable, or None for no limits") from None
    now = server.clock()
    burst = 1.0 if rate is None else burst_of(server, rate)
    if rate is not None:
        # What arrived while the loop stood still comes all at once, but was not sent all at once.
        burst += rate * lost.within(time.monotonic(), CATCHING_UP)
    key = keys.find(name, burst, now)
    if rate is not None:
        wait = key.take(now, rate, burst)
        if not key.instances:
            keys.remember(key, rate, burst, server.max_limit_keys)
        if wait:
            raise LimitExceeded(
                f"{name!r} sends more than {rate:g} messages a second, or {burst:g} at once", name, "messages", wait
            )
    if usable:
        return None
    if most is not None and key.instances >= most:
        raise LimitExceeded(f"{name!r} has {key.instances} instances; {most} are allowed", name, "instances")
    keys.hold(key)
    return key


def release(server: Limiting, keys: Keys, key: Key) -> None:
    """Give back a place that `admit` has held."""
    rate = server.max_messages_per_second
    if keys.release(key) and rate is not None:
        burst = burst_of(server, rate)
        key.refill(time_or(server, key.stamp), rate, burst)
        keys.remember(key, rate, burst, server.max_limit_keys)
