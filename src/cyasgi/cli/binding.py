"""Sockets that a process binds for others, which serve on them."""

from __future__ import annotations

from typing import Any

from ..gateways.net.sockets import ListenError
from ..workers import SharedSockets
from ..workers.sockets import SocketSet
from .errors import CommandError
from .servers import Options, make_servers


class BoundSockets(SharedSockets):
    """The sockets, which may have been bound with rights that this process has no more."""

    #: Who this process has become since; None for nobody else.
    user: str | None = None

    def add(self) -> SocketSet:
        try:
            return super().add()
        except ListenError as error:
            if self.user is None:
                raise
            raise ListenError(
                error.errno,
                f"{error.strerror}: only who has bound the first sockets may bind more, and this process has become "
                f"{self.user!r} since (--user); restart it with a larger --workers",
            ) from None


def bind_for_others(options: Options, count: int = 1) -> BoundSockets:
    """Bind what the options name, for so many processes; the application is left to those.

    Raises:
        CommandError: an address cannot be listened on, or a value is not accepted.
    """
    servers = make_servers(options, _nobody)
    try:
        return BoundSockets(servers, count)
    except OSError as error:
        raise CommandError(error.strerror or str(error)) from None


async def _nobody(scope: Any, receive: Any, send: Any) -> None:
    raise RuntimeError("this process serves nothing")
