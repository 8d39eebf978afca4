"""Sockets that a process binds for others, which serve on them."""

from __future__ import annotations

from typing import Any

from ..workers import SharedSockets
from .errors import CommandError
from .servers import Options, make_servers


def bind_for_others(options: Options, count: int = 1) -> SharedSockets:
    """Bind what the options name, for so many processes; the application is left to those.

    Raises:
        CommandError: an address cannot be listened on, or a value is not accepted.
    """
    servers = make_servers(options, _nobody)
    try:
        return SharedSockets(servers, count)
    except OSError as error:
        raise CommandError(error.strerror or str(error)) from None


async def _nobody(scope: Any, receive: Any, send: Any) -> None:
    raise RuntimeError("this process serves nothing")
