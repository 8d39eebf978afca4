"""A worker, as the supervisor sees it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

from .._common.cells import Page
from .channel import Channel, Message
from .link import MARK
from .notify import VARIABLES
from .settings import Supervision
from .sockets import SharedSockets, SocketSet

logger = logging.getLogger("cyasgi.workers")

#: Signals that a terminal or a user may send to all processes: workers leave them to the supervisor.
LEFT_TO_SUPERVISOR = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1) if os.name == "posix" else ()
#: Seconds from SIGABRT, on which a worker shows where it stands, to SIGKILL.
ABORT_GRACE = 1.0


class WorkerProcess:
    """A process that serves some of the sockets.

    Args:
        command: starts it.
        shared: where the sockets are from.
        sets: those that it serves.
        supervision: its bounds.
        recycle: called when it wants to be replaced, with the reason.
        number: its number among those that serve.
        page: where it counts what its servers do; None: it counts nothing.
        heard: called with each overview that it sends.

    Raises:
        OSError: the system cannot start a process.
    """

    def __init__(
        self,
        command: Sequence[str],
        shared: SharedSockets,
        sets: Sequence[SocketSet],
        supervision: Supervision,
        recycle: Callable[[WorkerProcess, str], None],
        *,
        number: int = 1,
        page: Page | None = None,
        heard: Callable[[WorkerProcess, object], None] = lambda worker, overview: None,
    ) -> None:
        self._supervision = supervision
        self._recycle = recycle
        self._loop = asyncio.get_running_loop()
        self._heard = heard
        self.number = number
        self.page = page
        self.sets = list(sets)
        self.started = self._loop.time()
        #: Done when it serves, and when it has ended: with its exit code.
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.gone: asyncio.Future[int] = self._loop.create_future()
        #: Whether it was told to end.
        self.ending = False
        #: For how many seconds, of those in which this process was awake, nothing has come from it since it serves.
        self.silence = 0.0
        #: Kills it when it does not end in time, or does not die of SIGABRT.
        self._bound: asyncio.TimerHandle | None = None
        self._aborted = False
        ours, theirs = socket.socketpair()
        try:
            self._process = self._start(command, theirs, shared.descriptors(sets))
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self.channel = Channel(ours, self._channel_ended)
        self.channel.handlers.update(
            ready=self._is_ready, beat=self._beats, overview=self._tells, recycle=self._wants_recycling
        )

    def _start(
        self, command: Sequence[str], channel: socket.socket, descriptors: dict[str, list[list[int]]]
    ) -> subprocess.Popen[bytes]:
        passed = {number for addresses in descriptors.values() for found in addresses for number in found}
        counting = () if self.page is None or self.page.descriptor is None else (self.page.descriptor,)
        role = {
            "channel": channel.fileno(),
            "sockets": descriptors,
            "beat": self._supervision.beat,
            "pages": counting,
        }
        # A signal that is blocked when a process starts waits until the worker has said what it does on it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, LEFT_TO_SUPERVISOR)
        try:
            return subprocess.Popen(
                command,
                # What the service manager wants to know is told by this process.
                env={name: text for name, text in os.environ.items() if name not in VARIABLES}
                | {MARK: json.dumps(role)},
                pass_fds=(channel.fileno(), *counting, *sorted(passed)),
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def __str__(self) -> str:
        return f"worker {self.pid}"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def beat(self) -> float:
        """Seconds between two of its heartbeats."""
        return self._supervision.beat

    @property
    def serving(self) -> bool:
        """Whether it serves, and was not told to end."""
        return self.ready.done() and not self.ending and not self.gone.done()

    # What it says

    def _is_ready(self, message: Message) -> None:
        self.silence = 0.0
        if not self.ready.done():
            self.ready.set_result(None)

    def _beats(self, message: Message) -> None:
        self.silence = 0.0

    def _tells(self, message: Message) -> None:
        self._heard(self, message.get("overview"))

    def _wants_recycling(self, message: Message) -> None:
        self.silence = 0.0
        if self.serving:
            self._recycle(self, str(message.get("reason"))[:200])

    def _channel_ended(self) -> None:
        # It is about to end, or nothing can be said to it any more.
        self._end_within(self._supervision.end_timeout)

    # What it is told

    def drain(self) -> None:
        """Have it leave its sockets to others, finish what is in hand, and end."""
        if not self.ending:
            self.ending = True
            self._ask("drain")

    def stop(self, *, now: bool = False) -> None:
        """Have it stop and end, while nobody serves its sockets after it.

        Args:
            now: whether it is not to finish what is in hand.
        """
        self.ending = True
        self._ask("stop", last=True, now=now)

    def _ask(self, kind: str, **content: Any) -> None:
        if self.gone.done() or self._aborted:
            return
        self._end_within(self._supervision.end_timeout)
        if not self.channel.send(kind, **content) or not self.ready.done():
            # It may not have an event loop yet.
            self.signal(signal.SIGTERM)

    def signal(self, number: int) -> None:
        """Send it a signal, if it has not ended."""
        if self._process.poll() is None:
            self._process.send_signal(number)

    def _end_within(self, seconds: float) -> None:
        if self._bound is None and not self.gone.done():
            self._bound = self._loop.call_later(seconds, self._overdue, seconds)

    def _overdue(self, seconds: float) -> None:
        logger.warning("%s did not end within %g s: killed", self, seconds)
        self.abort()

    def abort(self) -> None:
        """Kill it: by SIGABRT, on which it shows where it stands, and a moment later by SIGKILL."""
        if self._aborted or self.gone.done():
            return
        self._aborted = True
        self.signal(signal.SIGABRT)
        if self._bound is not None:
            self._bound.cancel()
        self._bound = self._loop.call_later(ABORT_GRACE, self.kill)

    def kill(self) -> None:
        """Kill it at once."""
        self.signal(signal.SIGKILL)

    # Whether it lives

    def look(self, passed: float) -> None:
        """Notice its end, and kill it if its event loop does not turn.

        Args:
            passed: seconds since this was last called in which this process was awake; 0.0 on a signal.
        """
        if self.gone.done():
            return
        code = self._process.poll()
        if code is not None:
            self.channel.read_rest()
            if self._bound is not None:
                self._bound.cancel()
            self.channel.close()
            self.gone.set_result(code)
            return
        timeout = self._supervision.timeout
        # One that starts has a bound of its own, and one whose channel has ended, too.
        if not self.ready.done() or not self.channel.open:
            return
        self.silence += passed
        if timeout is not None and self.silence > timeout and not self._aborted:
            logger.error("%s has not answered for %g s: killed", self, timeout)
            self.abort()

    def ended_by(self) -> str:
        """Return how it has ended, in words."""
        return how_ended(self._process.returncode)


def how_ended(code: int) -> str:
    """Return how a process has ended, in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
