"""Messages that go back to a Redis that has forgotten them: each is put back once, even if an answer is lost."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..lines import Item
from . import scripts
from .intake import Intake
from .keys import Keys
from .link import Link

#: Messages in one call.
AT_ONCE = 20


class Returning:
    """What a worker has to put back and nobody else has, in order.

    Redis counts what was put back, so what is sent again since an answer was lost is put back once.
    """

    def __init__(self) -> None:
        self._items: list[tuple[Intake, Item]] = []
        #: How many were put back under the worker's present id.
        self._before = 0
        #: How many were sent, and Redis has not answered.
        self._unanswered = 0

    def __len__(self) -> int:
        return len(self._items)

    def add(self, intake: Intake, items: Iterable[Item]) -> None:
        self._items += [(intake, item) for item in items]

    async def send(self, link: Link, keys: Keys, expiry: int) -> int | None:
        """Put some of them back.

        Returns:
            How many these were; None if the worker has to enter again.

        Raises:
            one of FAILURES: whether they were put back is not known, until `settle` is called.
        """
        some = self._items[:AT_ONCE]
        names = [keys.workers, keys.gone, keys.heads, *(keys.queue(intake.line.channel) for intake, _ in some)]
        arguments: list[Any] = [keys.worker, expiry, self._before]
        for _, item in some:
            arguments += (item.score, item.content)
        self._unanswered = len(some)
        if await link.run(scripts.RETURN, names, arguments) is None:
            self._unanswered = 0
            return None
        return self._done(len(some))

    def settle(self, before: int) -> int:
        """Forget those that were put back, by what Redis has counted; return how many these were.

        Args:
            before: the count; -1 if it is not known, and what may have been put back must not be put back once more.
        """
        return self._done(self._unanswered if before < 0 else max(0, before - self._before))

    def begin_again(self) -> None:
        """Take note that Redis counts from 0."""
        self._before = 0

    def _done(self, count: int) -> int:
        for intake, item in self._items[:count]:
            intake.returned(item)
        del self._items[:count]
        self._before += count
        self._unanswered = 0
        return count
