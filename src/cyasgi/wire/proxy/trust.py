"""Who is trusted to say for whom a request, a connection or a datagram comes."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

ACCEPTED = (
    "IP addresses, networks as in 10.0.0.0/8, unix for clients of Unix sockets, unix:PATH for those of one, "
    "and * for everybody"
)

EVERYBODY = "*"
UNIX = "unix"
#: Hosts of which it is cached whether they are trusted.
CACHE_SIZE = 4096

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Trusted:
    """A set of trusted proxies.

    Args:
        names: addresses, networks, ``unix``, ``unix:PATH`` and ``*``.

    Raises:
        ValueError: a name is none of these; the message names it and what is accepted.
    """

    __slots__ = ("_known", "_networks", "_paths", "everybody")

    def __init__(self, names: Iterable[str]) -> None:
        self.everybody = False
        self._paths: set[str] = set()
        self._networks: list[Network] = []
        self._known: dict[str, bool] = {}
        for name in names:
            if name == EVERYBODY:
                self.everybody = True
            elif name == UNIX or (name.startswith("unix:") and len(name) > len("unix:")):
                self._paths.add(name.removeprefix("unix:"))
            else:
                self._networks.append(_network(name))

    def has_host(self, host: str) -> bool:
        """Return whether this numeric address is trusted; what is no address never is, unless everybody is."""
        if self.everybody:
            return True
        known = self._known.get(host)
        if known is None:
            if len(self._known) >= CACHE_SIZE:
                self._known.clear()
            known = self._known[host] = self._find(host)
        return known

    def has_unix(self, path: str) -> bool:
        """Return whether the clients of the Unix socket at this path are trusted."""
        return self.everybody or UNIX in self._paths or path in self._paths

    def _find(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)


def _network(name: str) -> Network:
    try:
        return ipaddress.ip_network(name)
    except ValueError:
        raise ValueError(f"{name!r} is not who can be trusted: accepted are {ACCEPTED}") from None


@lru_cache(maxsize=64)
def trusted_by(names: tuple[str, ...]) -> Trusted:
    """Return the set of these names, made once.

    Raises:
        ValueError: a name is not accepted.
    """
    return Trusted(names)
