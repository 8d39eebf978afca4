"""How many partitions a worker holds: its fair share, by how many workers the broker counts."""

from __future__ import annotations

import asyncio
import random
from typing import Protocol

from .delivery import Holding
from .engine import Session


class BalancePort(Protocol):
    """What the balance knows of its server."""

    @property
    def holdings(self) -> dict[int, Holding]: ...

    async def take(self, session: Session, partition: int) -> bool:
        """Hold a partition; return False if another worker does."""

    async def let_go(self, holding: Holding) -> None:
        """Give a partition back, once what is in hand of it is done. It stays if one is lost meanwhile."""


class Balance:
    """Claims partitions that nobody holds, and gives back those beyond the fair share.

    Of 32 partitions, 5 workers hold 6 each, and two of them 7: those that have one of the two permits for one more. The
    broker gives each permit to one worker only, as it does partitions. Workers know nothing else of each other.
    """

    def __init__(self, server: BalancePort, session: Session, partitions: int) -> None:
        self._server = server
        self._session = session
        self._partitions = partitions
        #: The permit that this worker has.
        self._permit: int | None = None

    async def step(self) -> None:
        """Look at what the broker counts, and come closer to the fair share.

        Raises:
            EngineError: the broker is gone.
        """
        session, holdings = self._session, self._server.holdings
        least, permits = divmod(self._partitions, max(1, await session.workers()))
        if self._permit is not None and self._permit >= permits:
            permit, self._permit = self._permit, None
            await session.release_extra(permit)
        unheld: list[int] = []
        if len(holdings) < least + bool(permits):
            unheld = [number for number in await session.unheld() if number not in holdings]
        if self._permit is None and permits and (len(holdings) > least or (len(holdings) >= least and unheld)):
            await self._ask_for_permit(permits)
        most = least + (self._permit is not None)
        # The youngest ones: their instances know the least. And those that a loss has kept from being given back.
        given_back = [
            self._server.let_go(holding)
            for place, holding in enumerate(list(holdings.values()))
            if place >= most or holding.letting_go
        ]
        for result in await asyncio.gather(*given_back, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
        # In an order of its own, so that workers which begin together do not all want the same ones.
        random.shuffle(unheld)
        for partition in unheld:
            if len(holdings) >= most:
                break
            await self._server.take(session, partition)

    async def _ask_for_permit(self, permits: int) -> None:
        for number in random.sample(range(permits), permits):
            if await self._session.claim_extra(number):
                self._permit = number
                return
