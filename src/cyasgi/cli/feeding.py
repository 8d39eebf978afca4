"""Messages for the broker in memory, from lines of standard input."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent import futures
from typing import Any

from ..sources.queue import EngineError, MemoryEngine, QueueServer
from ..wire.queue import check_name, parse_letter
from .logs import logger

STDIN = 0
#: The longest line, in bytes.
LONGEST = 16 * 1024 * 1024
#: Lines are read while the broker has less than this, in bytes.
MOST_WAITING = 64 * 1024 * 1024


@contextlib.asynccontextmanager
async def fed_by_lines(server: QueueServer, engine: MemoryEngine) -> AsyncIterator[None]:
    """Have each line of standard input published, and the server stop when all of them are done.

    A line is a JSON object with the keys of a ``queue.publish`` message, `body` being text; or else the body itself.
    """
    engine.declare(server.name, server.partitions)
    loop = asyncio.get_running_loop()
    over = threading.Event()

    def feed() -> None:
        try:
            _feed()
        except _LoopClosed:
            # The command has ended meanwhile.
            return
        except (OSError, ValueError) as error:
            logger.error("standard input cannot be read: %s", error)
            server.stop()
        except Exception:
            # Nobody waits for this thread: without a stop the command would go on for ever.
            logger.exception("standard input is read no further")
            server.stop()

    def _feed() -> None:
        for line in _lines(STDIN):
            if over.is_set():
                return
            _done(loop, _publish, server, engine, line.rstrip(b"\r"))
        if not over.is_set():
            _done(loop, engine.join)
            server.stop()

    # It may wait for a line that never comes.
    threading.Thread(target=feed, name="cyasgi-lines", daemon=True).start()
    try:
        yield
    finally:
        over.set()


class _LoopClosed(Exception):
    """The event loop has ended."""


def _done(loop: asyncio.AbstractEventLoop, function: Callable[..., Coroutine[Any, Any, None]], *arguments: Any) -> None:
    """Run a coroutine function in the loop of another thread, and wait until it has returned.

    Raises:
        _LoopClosed: the loop ends, or has ended.
    """
    coroutine = function(*arguments)
    try:
        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    except RuntimeError:
        coroutine.close()
        raise _LoopClosed from None
    try:
        future.result()
    except futures.CancelledError:
        raise _LoopClosed from None


def _lines(descriptor: int) -> Iterator[bytes]:
    """Read lines, without their ends; a longer one than LONGEST in parts.

    Not by `sys.stdin`, whose lock the interpreter wants when it exits, while a thread waits here for a line.
    """
    rest = b""
    while chunk := os.read(descriptor, 65_536):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
        if len(rest) > LONGEST:
            yield rest
            rest = b""
    if rest:
        yield rest


async def _publish(server: QueueServer, engine: MemoryEngine, line: bytes) -> None:
    """Publish a line; what is wrong with it is logged."""
    if not line:
        return
    try:
        message = _read(line)
        queue = message.get("queue")
        queue = server.name if queue is None else check_name(queue, "'queue' of a line", least=1)
        scope_id = check_name(message.get("scope_id", ""), "'scope_id' of a line")
        letter = parse_letter(message, "a line")
        # The other half is for what the application publishes, which is refused when the broker is full.
        await engine.room(max(1, engine.most // 2), MOST_WAITING)
        engine.put(queue, scope_id, letter, len(line))
    except (EngineError, TypeError, ValueError) as error:
        logger.error("a line is not published: %s", error)
    except RecursionError:
        logger.error("a line is not published: its values are nested too deep")


def _read(line: bytes) -> dict[str, Any]:
    """Return the message that a line is.

    Raises:
        TypeError, ValueError: its body is none.
    """
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        # RecursionError: brackets by the thousand, which are a body like any other text.
        found = None
    if not isinstance(found, dict):
        return {"body": line}
    body = found.get("body", "")
    if not isinstance(body, str):
        raise TypeError(f"'body' of a line must be a str, got {body!r}")
    return {**found, "body": body.encode()}
