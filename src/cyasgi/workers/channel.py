"""The channel between the supervisor and a worker: a pair of sockets, on which each message is a line of JSON.

Every message is an object with a `kind`. A kind that the other side does not know is ignored, so that more can be
added: whoever wants to hear of one puts a handler into `Channel.handlers`.

=========  ======  =============================================================================================
kind       from    meaning
=========  ======  =============================================================================================
ready      worker  it serves
beat       worker  its event loop turns
overview   worker  what its servers do, once a second if somebody watches, and at the end; see `cyasgi.metrics.overview`
recycle    worker  it has reached a limit and wants to be replaced; `reason` says which
drain      parent  another worker serves its sockets: leave them to it, finish what is in hand, and end
stop       parent  stop and end; `last`: nobody serves the sockets after it; `now`: do not finish what is in hand
=========  ======  =============================================================================================
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable
from typing import Any

#: Bytes of a message, at most.
MAX_MESSAGE = 1_048_576
#: Bytes that wait for the other side to read them, at most; further messages are dropped.
MAX_WAITING = 2 * MAX_MESSAGE
#: Bytes read at a time.
READ = 65_536

Message = dict[str, Any]


class Channel:
    """One end of a channel, which never waits for the other one.

    Args:
        sock: is closed with the channel.
        ended: called once when the other side has closed the channel, or has sent what is no message.
    """

    def __init__(self, sock: socket.socket, ended: Callable[[], None]) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._waiting = bytearray()
        self.open = True
        #: Called with each message of their kind.
        self.handlers: dict[str, Callable[[Message], None]] = {}
        self._loop.add_reader(sock, self._readable)

    def send(self, kind: str, **content: Any) -> bool:
        """Send a message; return whether there was room for it."""
        line = json.dumps({"kind": kind, **content}).encode() + b"\n"
        if not self.open or len(line) > MAX_MESSAGE or len(self._waiting) + len(line) > MAX_WAITING:
            return False
        idle = not self._waiting
        self._waiting += line
        if idle:
            self._write()
            if self._waiting:
                self._loop.add_writer(self._sock, self._write)
        return True

    def _write(self) -> None:
        try:
            del self._waiting[: self._sock.send(self._waiting)]
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            # What the other side has sent before it ended is still read.
            self._waiting.clear()
        if not self._waiting:
            self._loop.remove_writer(self._sock)

    def read_rest(self) -> None:
        """Handle what the other side has sent before it ended."""
        # Bounded: a process that it has left behind may have the other end, and write for ever.
        for _ in range(2 * MAX_MESSAGE // READ):
            if not self.open or not self._readable():
                return

    def _readable(self) -> bool:
        """Handle what has come; return whether there was anything."""
        try:
            data = self._sock.recv(READ)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        if not data:
            self._end()
            return False
        self._received += data
        *lines, rest = self._received.split(b"\n")
        self._received = rest
        for line in lines:
            if not self.open:
                return False
            if not self._take(line):
                self._end()
                return False
        if len(rest) > MAX_MESSAGE:
            self._end()
        return True

    def _take(self, line: bytes | bytearray) -> bool:
        """Hand a message to its handler; return False if it is none."""
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            return False
        if not isinstance(message, dict) or not isinstance(kind := message.get("kind"), str):
            return False
        handler = self.handlers.get(kind)
        if handler is not None:
            handler(message)
        return True

    def _end(self) -> None:
        if self.open:
            self.close()
            self._ended()

    def finish(self, seconds: float) -> None:
        """Close this end when the other side has taken what waits, or after so many seconds; blocks meanwhile."""
        if self.open and self._waiting:
            self._sock.settimeout(seconds)
            # If the other side does not read, or has gone, nobody is there to be told.
            with contextlib.suppress(OSError):
                self._sock.sendall(self._waiting)
        self.close()

    def close(self) -> None:
        """Close this end."""
        if self.open:
            self.open = False
            if not self._loop.is_closed():
                self._loop.remove_reader(self._sock)
                self._loop.remove_writer(self._sock)
            self._sock.close()
