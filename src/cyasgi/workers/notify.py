"""What a service manager is told: systemd's sd_notify, and other managers with the same protocol."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Mapping

logger = logging.getLogger("cyasgi.workers")

#: Environment variables of the protocol, which are for one process and not for those that it starts.
VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Notifier:
    """Tells the service manager how this process is doing; does nothing if no manager has asked for that.

    Args:
        environment: has NOTIFY_SOCKET, and WATCHDOG_USEC if the manager expects a sign of life.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        found = os.environ if environment is None else environment
        self._address = found.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        #: Seconds between two signs of life; None if none is expected.
        self.interval: float | None = None
        microseconds = found.get("WATCHDOG_USEC", "")
        is_ours = found.get("WATCHDOG_PID", "") in ("", str(os.getpid()))
        if self._address and is_ours and microseconds.isdecimal() and int(microseconds):
            # Twice within the manager's time, as sd_watchdog_enabled(3) recommends.
            self.interval = int(microseconds) / 2e6

    def ready(self, status: str) -> None:
        """The start, or a reload, is complete."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """A reload has begun."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """The end has begun."""
        self._send("STOPPING=1", "STATUS=stopping")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            logger.warning("the service manager was not told %s: %s", lines[0], error.strerror or error)

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Give signs of life from the event loop meanwhile, if the manager expects them."""
        task = None if self.interval is None else asyncio.create_task(self._live(self.interval))
        try:
            yield
        finally:
            if task is not None:
                task.cancel()

    async def _live(self, interval: float) -> None:
        while True:
            self._send("WATCHDOG=1")
            await asyncio.sleep(interval)
