"""Sockets that a service manager has bound and passed to the command: systemd's LISTEN_FDS."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from typing import Any, NamedTuple

#: The first of the descriptors that a service manager passes.
FIRST = 3
VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
#: Environment variable by which processes that this one starts learn what was passed to it.
MARK = "CYASGI_PASSED"
#: How a socket that was passed is named in an address.
SCHEME = "fd://"


class Passed(NamedTuple):
    """A socket that was passed."""

    name: str
    descriptor: int
    #: The kind of server that it is for, if it is not named in an address; None for none.
    kind: str | None


def take_passed() -> list[Passed]:
    """Return the sockets that were passed to this process, or to the one that supervises or reloads it.

    Their variables are removed from the environment: other processes that this one starts do not get the sockets.
    """
    text = os.environ.pop(MARK, None)
    if text is not None:
        return [Passed(*one) for one in json.loads(text)]
    pid, count, names = (os.environ.get(name, "") for name in VARIABLES)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    for name in VARIABLES:
        os.environ.pop(name, None)
    each = names.split(":") if names else []
    found = []
    for number in range(min(int(count), 1024)):
        # systemd calls a socket without a name "unknown".
        name = each[number] if number < len(each) else "unknown"
        descriptor = FIRST + number
        os.set_inheritable(descriptor, False)
        found.append(Passed(name, descriptor, _kind(descriptor)))
    return found


def pass_on(passed: Sequence[Passed]) -> None:
    """Let processes that this one starts know of the sockets."""
    if passed:
        os.environ[MARK] = json.dumps(passed)


def _kind(descriptor: int) -> str | None:
    try:
        with socket.socket(fileno=os.dup(descriptor)) as sock:
            kinds = {socket.SOCK_STREAM: "http", socket.SOCK_DGRAM: "udp"}
            return kinds.get(sock.type)
    except OSError:
        return None


def resolve(listeners: dict[str, list[Any]], passed: Sequence[Passed]) -> None:
    """Put the sockets into the listeners: for addresses with their names, or by their kinds if there is no address.

    Raises:
        ValueError: there is no socket of a name.
    """
    if not any(listeners.values()):
        for one in passed:
            if one.kind is not None:
                text = f"{SCHEME}{one.descriptor}"
                listeners[one.kind].append(text if one.kind == "udp" else (text, None))
        return
    for kind, addresses in listeners.items():
        listeners[kind] = [found for address in addresses for found in _found(address, passed)]


def _found(address: Any, passed: Sequence[Passed]) -> list[Any]:
    text = address[0] if isinstance(address, tuple) else address
    if not isinstance(text, str) or not text.startswith(SCHEME):
        return [address]
    name = text.removeprefix(SCHEME)
    if name.isdigit():
        return [address]
    descriptors = [one.descriptor for one in passed if one.name == name]
    if not descriptors:
        names = ", ".join(sorted({one.name for one in passed})) or "none"
        raise ValueError(f"{text}: no socket of this name was passed by a service manager; those passed are: {names}")
    found = [f"{SCHEME}{descriptor}" for descriptor in descriptors]
    return [(one, address[1]) for one in found] if isinstance(address, tuple) else found
