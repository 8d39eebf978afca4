"""What the property tests share: how many examples they try, and a model of each entry of a server's table."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from support.effort import EFFORT


def effort(examples: int) -> settings:
    return settings(
        max_examples=examples * EFFORT,
        stateful_step_count=8,
        deadline=None,
        derandomize=EFFORT <= 2,
        database=None,
        print_blob=True,
        # Without the last one, which explains: it takes longer than all others.
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


#: What `holds_for_all` has made up, by the function that it was made for.
_made_up: dict[str, list[tuple[Any, ...]]] = {}


def holds_for_all(
    check: Callable[..., None],
    examples: int,
    *strategies: st.SearchStrategy[Any],
    known: Sequence[tuple[Any, ...]] = (),
) -> None:
    """Calls `check` with each known example, and with so many that hypothesis makes up.

    Whatever twin, loop and parameters a test has, they are the same. To make one up takes several times as long as to
    try it, so that it is done once in a process; `check` must leave them as they are. Of one that fails, hypothesis
    looks for a simpler one. With a CYASGI_EFFORT above 2 every call makes up others.
    """
    for values in known:
        check(*values)
    if EFFORT > 2:
        _with_made_up(examples, strategies, check)
        return
    name = f"{check.__module__}.{check.__qualname__}"
    if name not in _made_up:
        found: list[tuple[Any, ...]] = []
        _with_made_up(examples, strategies, lambda *values: found.append(values))
        _made_up[name] = found
    for values in _made_up[name]:
        try:
            check(*values)
        except Exception as error:
            error.add_note(f"with {values!r}")
            # The same ones again: they depend on the source of what is called alone.
            _with_made_up(examples, strategies, check)
            raise


def _with_made_up(examples: int, strategies: Sequence[st.SearchStrategy[Any]], call: Callable[..., None]) -> None:
    @effort(examples)
    @given(st.tuples(*strategies))
    def each(values: tuple[Any, ...]) -> None:
        call(*values)

    each()


IDS = st.sampled_from("abcd")


def weighted(*choices: tuple[int, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """One of them, each as often as its number says."""
    return st.sampled_from([choice for weight, choice in choices for _ in range(weight)]).flatmap(lambda choice: choice)


def programs(steps: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    """Lists of some twenty-five steps, which a single list of any length seldom has."""
    return st.lists(st.lists(steps, max_size=20), max_size=10).map(lambda parts: [*itertools.chain(*parts)])


class Boom(Exception):
    """What an application of these tests fails with."""


class Entry:
    """What the model knows of one entry of the table: an instance, or a plain dict that somebody wrote into it."""

    def __init__(self, machine: Any, scope_id: str, handle: Any, number: int) -> None:
        self.machine = machine
        self.scope_id = scope_id
        self.handle = handle
        self.number = number
        #: Where it stands in the table: oldest first.
        self.key: tuple[int, float] = (1, number)
        #: None while it is in the table, else who took it out: "server", or "hand" for `del table[id]`.
        self.removed: str | None = None
        self.passed = 0
        self.reaped = False
        self.reported: list[BaseException] = []

    @property
    def foreign(self) -> bool:
        return isinstance(self.handle, dict)

    @property
    def ended(self) -> bool:
        """Whether the run, or the future in a plain dict, is over for certain."""
        future = self.handle.get("future", None)
        return future is not None and future.done()

    @property
    def idle(self) -> bool:
        return False

    @property
    def idle_for_long(self) -> bool:
        return False

    @property
    def perhaps_idle(self) -> bool:
        """Where nothing is promised: nobody can know what runs behind a plain dict."""
        return True

    @property
    def failed(self) -> bool:
        return self.ended and not self.handle["future"].cancelled() and self.handle["future"].exception() is not None


class Instance(Entry):
    """An instance of cyasgi's, with the ledger of its messages and what its application is doing."""

    def __init__(self, machine: Any, scope_id: str, handle: Any, number: int) -> None:
        super().__init__(machine, scope_id, handle, number)
        self.accepted: set[int] = set()
        self.delivered: list[int] = []
        self.undelivered: list[int] = []
        #: Messages of `await put()`, and those of them that have not come back yet.
        self.awaited: set[int] = set()
        self.pending: set[int] = set()
        self.running = False
        self.started = False
        self.receiving = False
        self.outcome: str | None = None
        self.cancel_asked = False
        self.idle_from: int | None = None
        self.gate: asyncio.Future[None] | None = None

    @property
    def ended(self) -> bool:
        if self.outcome is None and self.cancel_asked and not self.running:
            # Cancelled before its first step: the application cannot tell, only the task can.
            return self.handle["future"].done()
        return self.outcome is not None

    @property
    def failed(self) -> bool:
        return self.outcome == "failed"

    @property
    def idle(self) -> bool:
        return self.receiving and not self.ended and not self.queued and not self.cancel_asked

    @property
    def perhaps_idle(self) -> bool:
        return self.idle or self.cancel_asked or not (self.started or self.queued)

    def long_unused(self, seconds: float) -> None:
        """Somebody assigned `last_used`."""
        self.key = (0, seconds)
        self.idle_from = len(self.delivered) if self.idle else None

    @property
    def idle_for_long(self) -> bool:
        """Whether it has got nothing to do since then. Once it worked again its time counts from there."""
        return self.key[0] == 0 and self.idle and self.idle_from == len(self.delivered)

    @property
    def queued(self) -> int:
        return len(self.accepted) - len(self.delivered) - len(self.undelivered)

    async def wait(self) -> None:
        self.gate = asyncio.get_running_loop().create_future()
        try:
            await self.gate
        finally:
            self.gate = None

    async def work(self, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        """The application: every message says what to do next."""
        self.running = self.started = True
        # Some have to clean up from the start.
        on_cancel = "linger when cancelled" if self.scope_id == "d" else "stop"
        try:
            while True:
                self.receiving = True
                message = await receive()
                self.receiving = False
                self.delivered.append(message["number"])
                match message["do"]:
                    case "answer":
                        await send({"type": "test.answer", "number": message["number"]})
                    case "wait":
                        await self.wait()
                    case "finish":
                        self.outcome = "finished"
                        return
                    case "fail":
                        raise Boom(message["number"])
                    case "end cancelled":
                        raise asyncio.CancelledError
                    case "create":
                        self.machine.get_or_create(message["other_id"], asking=self)
                    case "delete":
                        self.machine.delete(message["other_id"])
                    case "linger when cancelled" | "fail when cancelled":
                        on_cancel = message["do"]
        except asyncio.CancelledError:
            self.receiving = False
            if on_cancel == "linger when cancelled":
                await self.wait()
            elif on_cancel == "fail when cancelled":
                self.outcome = "failed"
                raise Boom("while cleaning up") from None
            raise
        except Boom:
            self.outcome = "failed"
            raise
        except Exception as error:
            self.machine.problems.append(f"an application got {error!r}")
            raise
        finally:
            self.outcome = self.outcome or "cancelled"
            self.running = self.receiving = False
            self.machine.running.get(self.scope_id, set()).discard(self)
