"""The pure twin of the usual course of a WebSocket's connection, as the base class of `WebSocketConnection`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...core import SENT
from .bounds import YIELD_EVERY

if TYPE_CHECKING:
    import asyncio
    from collections import deque

    from ...wire.http.request import Request
    from ...wire.http.scope import Scope
    from ...wire.websocket.connection import Message, WebSocket
    from ..http.port import HTTPServerPort


class FastConnection:
    """The fields of the connection of a WebSocket, and how messages usually come and go on it."""

    __slots__ = (
        "_backlog",
        "_backlog_bytes",
        "_began",
        "_client",
        "_disconnected",
        "_instance",
        "_limit",
        "_rest",
        "_scope",
        "_sends",
        "_taken",
        "_waits_for_room",
        "deadline",
        "finished",
        "heard",
        "loop",
        "lost",
        "paused",
        "ping_deadline",
        "reading_paused",
        "request",
        "server",
        "stall_deadline",
        "transport",
        "waiters",
        "websocket",
    )
    server: HTTPServerPort
    request: Request
    loop: asyncio.AbstractEventLoop
    transport: Any
    websocket: WebSocket
    paused: bool
    waiters: deque[asyncio.Future[None]]
    #: Whether the connection is closed, or will be once what was written has been sent.
    finished: bool
    lost: bool
    reading_paused: bool
    #: For the access log: when it began, and with whom; empty for no line.
    _began: float
    _client: str
    #: Whether anything was received since the last ping.
    heard: bool
    #: How much the client had taken when that was last checked (`send_progress`).
    _taken: float
    #: Deadlines: of the handshakes and of the end; of the next ping, or its answer; of a stalled client.
    deadline: Any
    ping_deadline: Any
    stall_deadline: Any
    #: Until the application's instance is made.
    _scope: Scope | None
    _rest: bytes
    _instance: Any
    #: Messages that wait for room in the instance's queue, and the bytes in them.
    _backlog: deque[Message]
    _backlog_bytes: int
    _limit: int
    #: Whether `_room` is called when the application takes a message.
    _waits_for_room: bool
    #: Whether ``websocket.disconnect`` was put into the queue.
    _disconnected: bool
    _sends: int

    if TYPE_CHECKING:

        def _full(self) -> bool: ...
        def _put_behind(self, message: Message) -> None: ...
        def _next_behind(self) -> Message: ...
        def _settle(self) -> None: ...
        def _pump_later(self) -> None: ...
        def _send(self, message: Any) -> None: ...
        async def _send_later(self, message: Any) -> None: ...
        async def _drain(self) -> None: ...

    # What the application receives.

    def data_received(self, data: bytes) -> None:
        self.heard = True
        self.websocket.receive_data(data)
        self.pump()

    def pump(self) -> None:
        """Give the application what was received, as far as there is room for it."""
        websocket = self.websocket
        backlog = self._backlog
        while not (backlog and self._full()):
            message = websocket.next_message()
            if message is None:
                break
            if not backlog and not self._instance.full():
                self._instance.put_nowait(message)
            else:
                self._put_behind(message)
        self._settle()

    def _refill(self) -> None:
        """Put what waits behind the application's queue into it, as far as there is room."""
        instance = self._instance
        while self._backlog and not instance.full():
            instance.put_nowait(self._next_behind())

    # What the application sends.

    def application_send(self, scope: Any, message: Any) -> Any:
        """Take a message of the application.

        Returns:
            An awaitable, done when the client takes more.

        Raises:
            TypeError, ValueError, RuntimeError, WebSocketClosed: as `cyasgi.wire.websocket.WebSocket.send` says.
        """
        self._sends += 1
        if self.paused or not self._sends % YIELD_EVERY:
            return self._send_later(message)
        self._send(message)
        # Writing may have paused it.
        return self._drain() if self.paused else SENT  # type: ignore[redundant-expr]
