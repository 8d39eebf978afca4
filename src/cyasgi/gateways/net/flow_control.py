"""Flow control: senders wait while their transport takes no more."""

from __future__ import annotations

import asyncio
from collections import deque


class FlowControl:
    """A protocol whose senders wait in `writable` while it is `paused`.

    The protocol has both attributes. It sets `paused`, and calls `wake` when writing is resumed and when the
    connection is lost.
    """

    __slots__ = ()
    #: Whether a sender has to wait, or to look twice: the transport takes no more, or is not open.
    paused: bool
    #: Of those who wait.
    waiters: deque[asyncio.Future[None]]

    async def writable(self) -> None:
        """Return when writing was resumed or the connection was lost. Check again then: others may have been faster."""
        # A future for each: cancelling one sender must not reach the others.
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiters.append(future)
        await future

    def wake(self) -> None:
        """Let all senders that wait go on."""
        waiters = self.waiters
        while waiters:
            future = waiters.popleft()
            if not future.done():
                future.set_result(None)
