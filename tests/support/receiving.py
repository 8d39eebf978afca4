"""Servers and notes for tests of `receive` and `send` as an application sees them."""

from __future__ import annotations

import asyncio
from typing import Any

from support.instances import SCOPE as SCOPE, make as make
from support.loops import passes
from support.serving import quiet

MESSAGES = [None, False, (), (1, 2), {}, StopIteration(3), StopIteration, ValueError("text"), asyncio.CancelledError()]


class Log(list):
    """What happened, each entry with the loop pass in which it did."""

    def __init__(self) -> None:
        super().__init__()
        self.tick = 0
        self.turn()

    def turn(self) -> None:
        self.tick += 1
        self.ticker = asyncio.get_running_loop().call_soon(self.turn)

    def note(self, *what: Any) -> None:
        self.append((self.tick, *what))


class Given:
    """What an application was given: it does nothing itself, and leaves `receive` and `send` to the test."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.receive, self.send = receive, send
        self.gate = asyncio.get_running_loop().create_future()
        await self.gate

    @classmethod
    async def by(cls, impl: Any) -> tuple[Any, Any]:
        """The instance of a server, once its application has begun, and what it was given."""
        given = cls()
        instance = make(quiet(impl.StatelessServer)(given))
        await passes(3)
        return instance, given


async def resolved(awaitable: Any) -> Any:
    return await awaitable


async def end(tasks: Any) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
