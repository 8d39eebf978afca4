"""Limits for each key: how many instances it may have, and how many messages a second (a token bucket)."""

from __future__ import annotations

import collections
from collections.abc import Hashable
from functools import lru_cache
from ipaddress import IPv6Address

#: Tokens that a bucket may lack for what it gives: what adding up fractions of seconds loses.
ROUNDING = 1e-6


class LimitExceeded(Exception):
    """Raised by `get_or_create_application_instance` of a `ManagedServer` when a limit has been reached.

    The message that the caller had for the instance is to be dropped, or its sender told to come back later.

    Attributes:
        key: what `limit_key` gave, or None where the limit is for all keys together.
        limit: "instances" (the key has `max_instances_per_key`), "messages" (it sends more than
            `max_messages_per_second`) or "hooks" (hooks of too many instances are still to be called).
        retry_after: seconds after which the same may be accepted, if nothing else comes; None where that cannot be
            known.
    """

    def __init__(self, message: str, key: Hashable, limit: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.key = key
        self.limit = limit
        self.retry_after = retry_after


class Key:
    """What is known of one key."""

    __slots__ = ("instances", "key", "stamp", "tokens")

    def __init__(self, key: Hashable, tokens: float, now: float) -> None:
        self.key = key
        #: Instances that it has.
        self.instances = 0
        #: Messages that it might have sent at the moment `stamp`, in seconds of the clock.
        self.tokens = tokens
        self.stamp = now

    def refill(self, now: float, rate: float, burst: float) -> None:
        self.tokens = min(burst, self.tokens + max(0.0, now - self.stamp) * rate)
        self.stamp = now

    def take(self, now: float, rate: float, burst: float) -> float:
        """Takes a token; 0, or the seconds until there is one."""
        self.refill(now, rate, burst)
        if self.tokens < 1.0 - ROUNDING:
            return (1.0 - self.tokens) / rate
        self.tokens -= 1.0
        return 0.0


class Keys:
    """All keys of a server. Those that have instances are as many as these at most; of the others only those that sent
    messages lately are remembered, a bounded number: the longest silent one is forgotten first. O(1) each."""

    __slots__ = ("_busy", "_silent")

    def __init__(self) -> None:
        self._busy: dict[Hashable, Key] = {}
        #: Keys without instances, the longest silent first.
        self._silent: collections.OrderedDict[Hashable, Key] = collections.OrderedDict()

    def __len__(self) -> int:
        return len(self._busy) + len(self._silent)

    def find(self, key: Hashable, burst: float, now: float) -> Key:
        """What is known of the key; it is not remembered by this."""
        return self._busy.get(key) or self._silent.get(key) or Key(key, burst, now)

    def remember(self, key: Key, rate: float, burst: float, most: int) -> None:
        """Keeps what is known of a key that has no instances, as the last that was heard of."""
        silent = self._silent
        silent[key.key] = key
        silent.move_to_end(key.key)
        while len(silent) > most:
            silent.popitem(last=False)
        # A bucket that is full again is as good as none. Two are looked at for each that is kept: so that they go.
        for _ in range(2):
            oldest = next(iter(silent.values()))
            if oldest is key or oldest.tokens + (key.stamp - oldest.stamp) * rate < burst:
                return
            silent.popitem(last=False)

    def hold(self, key: Key) -> None:
        """The key has one more instance."""
        if not key.instances:
            self._silent.pop(key.key, None)
            self._busy[key.key] = key
        key.instances += 1

    def release(self, key: Key) -> bool:
        """It has one less; True if that was the last one."""
        key.instances -= 1
        if key.instances:
            return False
        del self._busy[key.key]
        return True


@lru_cache(maxsize=1024)
def network_of(host: str) -> str:
    """What one client has at its disposal: an IPv4 address, or the /64 network of an IPv6 one (RFC 4291 section 2.5.1).

    What is not an address is taken as it is.
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
