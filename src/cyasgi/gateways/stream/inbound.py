"""What comes on a connection of a stream, up to whole messages: how they wait, how many bytes, and how long.

What has come waits unread in the framing until the application asks for it, and reading is paused while `HIGH_WATER`
bytes wait, a whole message among them. So what one connection can make the server hold is the longest message, and what
the system reads at a time.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from ..._common.cells import MESSAGE_TIME, observe
from ...wire.stream import FramingError
from .fast_path import FastConnection
from .port import StreamServerPort

#: Bytes that wait on a connection before reading is paused, and at which it is resumed.
HIGH_WATER, LOW_WATER = 65_536, 16_384
#: Bytes of an incomplete message up to which it is read on even if too many bytes wait on all connections together.
SMALL = 4096


class Inbound(FastConnection):
    """The part of a connection that takes in what comes."""

    __slots__ = ("_due_quiet", "_waits_since", "deadline", "pressing")
    server: StreamServerPort
    #: The deadline of the connection.
    deadline: Any
    #: By when the client must have sent something; relative to now while reading is paused.
    _due_quiet: float
    #: Since when `ahead` waits, by `time.monotonic_ns`, if that is observed; else 0.
    _waits_since: int
    #: Whether the client has sent more than was received.
    pressing: bool

    if TYPE_CHECKING:

        def end_input(self, end: str, detail: str = "") -> None: ...
        def finish(self) -> None: ...
        def rearm(self) -> None: ...

    def hear(self) -> None:
        """Set the time for which the client may be silent from now on."""
        self.heard = True
        self.quiet = quiet = self.server.silence_timeout
        self._due_quiet = math.inf if quiet is None else self.server.deadlines.now + quiet
        if self._due_quiet < self.deadline.listed:
            self.rearm()

    def read_first_message(self) -> None:
        """Choose the session by the first message, if that is complete."""
        if self.ahead is None:
            message = self._look_ahead()
            if message is not None:
                self.server.begin(self, message)
        self.settle()
        if self.end and self.session is None:
            self.finish()

    def take(self) -> Any:
        """Return the next message; None if there is none, or not yet."""
        message = self.ahead
        if message is not None:
            self._count_less(self.held)
            self.ahead, self.held = None, 0
            if self._waits_since:
                self._observe_wait()
        else:
            message = self._next()
            if message is None:
                self.exhausted()
        # The rest of an incomplete message comes only if it is read.
        if self.reading_paused and (message is None or self.framing.buffered <= LOW_WATER):
            self._count()
            self.resume_reading()
        return message

    def _next(self) -> Any:
        if self.end == "malformed":
            return None
        try:
            message = self.framing.next_message()
        except Exception as error:
            self.fail(error)
            return None
        if message is not None:
            # The next one has all the time that there is for one.
            self.due_message = math.inf
        return message

    def _look_ahead(self) -> Any:
        """Unpack the next message, and keep it; return it, or None if there is no whole one."""
        buffered = self.framing.buffered
        message = self.ahead = self._next()
        if message is not None:
            self.held = buffered - self.framing.buffered
        return message

    def fail(self, error: Exception) -> None:
        """End the input, since the framing has raised this error."""
        self.pressing = True
        if isinstance(error, FramingError):
            self.server.bad_messages += 1
            self.end_input("malformed", str(error))
        else:
            # One of the user's own.
            self.server.framing_failed(error)
            self.end_input("malformed", "the framing failed")

    def exhausted(self) -> None:
        """Take note that the framing has no whole message."""
        if self.counted or self.framing.buffered:
            self._count()
            self._await_rest()

    def settle(self) -> None:
        """Count what waits, limit the time for the rest of a message, and pause reading if there is enough."""
        if self.end:
            return
        if self.ahead is None and self.framing.buffered:
            self._look_ahead()
        self._count()
        if self.ahead is None:
            self._await_rest()
        else:
            server = self.server
            if server.cells is not None and not self._waits_since and server.is_sampled():
                self._waits_since = time.monotonic_ns()
            if self.counted >= HIGH_WATER or server.waiting_bytes > server.max_waiting_bytes:
                self.pause_reading()
        if (self.ahead is not None or self.end) and self.session is not None:
            self.session.look()

    def _count(self) -> None:
        """Count the bytes that wait."""
        buffered = self.framing.buffered
        self.buffering = buffered > 0
        self._count_less(self.counted - buffered - self.held)

    def _count_less(self, size: int) -> None:
        self.server.waiting_bytes -= size
        self.counted -= size

    def _await_rest(self) -> None:
        """Limit the time for the rest of a message, if one has begun; there is no whole one.

        The first message has begun with the first byte, if it chooses the session, whatever the framing skips.
        """
        server, buffered = self.server, self.counted
        if self.end:
            return
        if not buffered and self.session is not None:
            self.due_message = math.inf
        elif buffered > SMALL and server.waiting_bytes > server.max_waiting_bytes:
            server.overloaded += 1
            self.pressing = True
            self.end_input("overloaded", "too many bytes wait for the rest of their messages")
        elif self.due_message == math.inf and server.message_timeout is not None:
            self.due_message = server.deadlines.now + server.message_timeout
            if self.due_message < self.deadline.listed:
                self.rearm()

    def _observe_wait(self) -> None:
        """Observe how long a message has waited that is taken now."""
        cells = self.server.cells
        if cells is not None:
            observe(cells, MESSAGE_TIME, time.monotonic_ns() - self._waits_since)
        self._waits_since = 0

    def pause_reading(self) -> None:
        if not self.reading_paused and not self.closing:
            self.reading_paused = True
            self.transport.pause_reading()
            # The time that the application takes is not the client's.
            self._due_quiet -= self.server.deadlines.now

    def resume_reading(self) -> None:
        if self.reading_paused and not self.transport.is_closing():
            self.reading_paused = False
            self._due_quiet += self.server.deadlines.now
            self.rearm()
            # The event loop keeps the context that it is called in for as long as it reads.
            self.server.outside.copy().run(self.transport.resume_reading)

    def take_rest(self) -> bytes:
        """Return the beginning of a message that was cut short."""
        rest: bytes = self.framing.clear()
        self._count()
        return rest

    def take_all(self) -> bytes:
        """Return all that has come and was not taken, frames included, as it waits behind a message."""
        framing = self.framing
        rest = bytes(memoryview(framing.buffer)[framing.start :])
        self.forget()
        return rest

    def forget(self) -> None:
        """Drop what has come and was not taken."""
        if self.ahead is not None or self.framing.buffered:
            self.pressing = True
        self.ahead, self.held, self._waits_since = None, 0, 0
        self.take_rest()
