"""Servers inside other programs: ready when a block begins, and stopped gracefully when it ends.

async with serving(HTTPServer(application, binds="127.0.0.1:0")) as server:
    host, port = server.addresses[0]

with in_thread(HTTPServer(application, binds="127.0.0.1:0")) as server:
    host, port = server.addresses[0]
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent import futures
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol, TypeVar

from ._common.control import Control


class Embeddable(Protocol):
    """A `StatelessServer` of any kind, or a `Supervisor` of several."""

    @property
    def control(self) -> Control: ...

    def run(self) -> None: ...

    async def arun(self) -> None: ...

    def stop(self) -> object: ...

    async def wait_started(self) -> None: ...


Server = TypeVar("Server", bound=Embeddable)


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[Server]:
    """Run a server in the running event loop: it is ready when the block begins, and stops gracefully at its end.

    If the server ends before that, the block is cancelled.

    Args:
        server: one that is not running yet.

    Raises:
        RuntimeError: the server ended by itself, without an error, before the block did.
        Exception: what the server raised, before or after it was ready.
    """
    block = asyncio.current_task()
    assert block is not None
    running = asyncio.create_task(server.arun())
    try:
        await server.wait_started()
    except BaseException:
        running.cancel()
        await asyncio.wait({running})
        raise
    interrupted = False

    def ended(_: object) -> None:
        nonlocal interrupted
        interrupted = block.cancel()

    running.add_done_callback(ended)
    try:
        yield server
    except asyncio.CancelledError:
        if not (interrupted and block.uncancel() == 0):
            raise
    finally:
        running.remove_done_callback(ended)
        if not running.done():
            server.stop()
            await asyncio.wait({running})
        if running.cancelled():
            interrupted = False
        else:
            running.result()
    if interrupted:
        raise RuntimeError("the server ended by itself while it was to serve")


@contextmanager
def in_thread(server: Server, *, timeout: float | None = 60.0) -> Iterator[Server]:
    """Run a server in a thread with an event loop of its own: it is ready when the block begins, and stops gracefully
    at its end.

    If the server ends before that, the block goes on; what the server raised is raised at the end of the block.

    Args:
        server: one that is not running yet.
        timeout: seconds that it may take to be ready; None for no limit.

    Raises:
        TimeoutError: the server is not ready after `timeout` seconds; it is stopped.
        RuntimeError: the server ended by itself, without an error, before it was ready.
        Exception: what the server raised, before or after it was ready.
    """
    ended: futures.Future[None] = futures.Future()

    def run() -> None:
        try:
            server.run()
        except BaseException as error:
            ended.set_exception(error)
        else:
            ended.set_result(None)

    thread = threading.Thread(target=run, name=f"cyasgi: {type(server).__name__}")
    started = server.control.start
    thread.start()
    try:
        futures.wait({started, ended}, timeout, futures.FIRST_COMPLETED)
        if ended.done() or (started.done() and started.exception() is not None):
            thread.join()
            ended.result()
            raise RuntimeError("the server ended before it served")
        if not started.done():
            raise TimeoutError(f"{server!r} does not serve after {timeout} seconds")
        yield server
    finally:
        server.stop()
        thread.join()
    ended.result()
