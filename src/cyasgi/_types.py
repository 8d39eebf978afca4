"""The types of ASGI, and what rooms know of each other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any

# Of any type: servers pass on what was put into an instance, and reject what an application sends.
Scope = Any
Message = Any
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
#: An application of ASGI 3, called with all three by position.
Application = Callable[[Scope, Receive, Send], Coroutine[Any, Any, Any]]
#: An instance, or a mapping with the keys of one that was written into the table.
Details = MutableMapping[str, Any]
