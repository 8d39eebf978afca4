"""Settings that say which proxies are believed, and what of what they say."""

from __future__ import annotations

from typing import Any

from ..._settings import Bound
from ...wire.proxy.forwarded import FOR, FORWARDED, HOST, NAMES, PROTO
from ...wire.proxy.trust import (
    ACCEPTED,
    Trusted,
    trusted_by,
)

#: Names in a tuple or list, or in a string with commas between them.
Names = tuple[str, ...] | list[str] | str

#: Whoever is on this machine.
LOCAL = ("127.0.0.1", "::1", "unix")
#: What uvicorn reads, and what most proxies set: headers that a proxy does not set come from the client as they are.
USUAL = ("x-forwarded-for", "x-forwarded-proto")


class _Names(Bound):
    """Several names, as text with commas between them."""

    def wrong(self, value: Any) -> type[Exception] | None:
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, (tuple, list)) or not all(isinstance(name, str) for name in names):
            return TypeError
        return None if self.right(each_name(value)) else ValueError

    def right(self, names: tuple[str, ...]) -> bool:
        raise NotImplementedError

    def read(self, text: str) -> tuple[str, ...]:
        return each_name(text)

    def written(self, value: Any) -> str:
        return ",".join(each_name(value))


class TrustedProxies(_Names):
    """Who may say for whom a request, a connection or a datagram comes."""

    def __init__(self) -> None:
        super().__init__(
            f"a tuple or list of {ACCEPTED}; or a str of these with commas between them",
            f"a list, with commas between them, of {ACCEPTED}",
        )

    def right(self, names: tuple[str, ...]) -> bool:
        try:
            trusted_by(names)
        except ValueError:
            return False
        return bool(names)


class ForwardedHeaders(_Names):
    """Which headers of trusted proxies are read."""

    def __init__(self) -> None:
        accepted = f"{', '.join(NAMES)}; not forwarded together with one that says the same"
        super().__init__(
            f"a tuple or list of names among {accepted}; or a str of these with commas between them",
            f"a list, with commas between them, of names among {accepted}",
        )

    def right(self, names: tuple[str, ...]) -> bool:
        same = {name.decode() for name in (FOR, PROTO, HOST)}
        several = FORWARDED.decode() in names and not same.isdisjoint(names)
        return bool(names) and len(set(names)) == len(names) and set(names) <= set(NAMES) and not several


def each_name(value: Names) -> tuple[str, ...]:
    """Return the names, without white space around them."""
    return tuple(name.strip() for name in (value.split(",") if isinstance(value, str) else value))


def trusted_proxies(value: Names) -> Trusted:
    """Return the set of those who are trusted, made once for each value."""
    return trusted_by(each_name(value))
