"""One Redis of a layer: fetches, says what was taken, stays alive, and puts back."""

from __future__ import annotations

import asyncio
import itertools
import logging
import uuid
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import msgpack
from redis.exceptions import BusyLoadingError

from ...backoff import Backoff
from ..dispatcher import Dispatcher
from ..lines import AHEAD, clock
from . import scripts
from .intake import Intake, Request
from .keys import Keys
from .link import FAILURES, Command, Link, describe, is_final, refuse
from .returning import Returning

logger = logging.getLogger("cyasgi.sources.channels")

#: Channels in one call.
CHANNELS_AT_ONCE = 100
#: Bytes that may wait in this process, of all channels.
MOST_BYTES = 16 * 1024 * 1024
#: Seconds that messages wait for a slow consumer before they are put back, for another process to take them.
HOLD = 1.0
#: Seconds between two looks at the clock, at most.
BEAT = 1.0
#: Seconds after which Redis is told of messages that were taken, if there is nothing else to say.
TELL = 0.05
#: Seconds between two fetches where Redis does not tell of changes.
POLL = 0.01
#: Seconds of work that may be claimed for one channel before it is begun; and how many messages.
CLAIMED, MOST_CLAIMED = 0.002, 32


class ShardServer(Protocol):
    """What a shard knows of the server."""

    @property
    def prefetch(self) -> int: ...
    @property
    def max_message_size(self) -> int: ...
    @property
    def worker_timeout(self) -> float: ...
    @property
    def reconnect(self) -> bool: ...


class Shard:
    """One Redis of a layer, and what this process holds of its messages."""

    def __init__(
        self,
        server: ShardServer,
        layer: Any,
        dispatcher: Dispatcher,
        where: str,
        create_pool: Callable[[], Any],
    ) -> None:
        self._server = server
        self._layer = layer
        self._dispatcher = dispatcher
        self.where = where
        self._create_pool = create_pool
        self.counts = {"put_back": 0, "taken_over": 0, "reconnects": 0}
        self.intakes = {line: Intake(self, layer, line) for line in dispatcher.lines.values()}
        self._queues: dict[bytes, Intake] = {}
        self._keys = self._new_keys()
        for intake in self.intakes.values():
            self._queues[self._keys.queue(intake.line.channel).encode()] = intake
        #: Those that have something to say or to fetch, in order.
        self._due: dict[Intake, None] = dict.fromkeys(self.intakes.values())
        #: Commands to be sent with the next call.
        self._commands: list[Command] = []
        #: Those of which more was taken than Redis was told of.
        self.untold: dict[Intake, None] = {}
        #: How many messages are in the hands of applications, or wait to be given to one again.
        self.in_hand = 0
        self._returning = Returning()
        #: When Redis has known us last, by its own clock.
        self._known_at = 0.0
        #: Whether nothing more is fetched; whether the applications have ended as well.
        self._stopping = self._closing = False
        #: Whether there may be something to put back while nothing is fetched.
        self._left_over = False
        self._stop_by = float("inf")
        self._woken: asyncio.Future[None] | None = None
        self._beat_at = self._recover_at = 0.0
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def _new_keys(self) -> Keys:
        return Keys(self._layer.prefix, uuid.uuid4().hex)

    @property
    def expiry(self) -> int:
        """Seconds after which messages that nobody has taken expire."""
        return int(self._layer.expiry)

    # What others tell

    def attend(self, intake: Intake) -> None:
        """Have an intake looked at in the next call."""
        self._due[intake] = None
        self._wake()

    def later(self, *commands: Command) -> None:
        """Send these commands with the next call."""
        self._commands += commands
        self._wake()

    def left_over(self) -> None:
        """Take note that a message may have to be put back."""
        self._left_over = True
        if self._stopping:
            self._wake()

    def stop(self) -> None:
        """Fetch no more, and put back what was not taken; stay alive for what was."""
        self._stopping = self._left_over = True
        self._wake()

    def close(self, seconds: float) -> None:
        """Put back what applications have left, and end; give up after this time."""
        self._stopping = self._closing = True
        self._stop_by = clock() + seconds
        self._wake()

    def _wake(self) -> None:
        woken = self._woken
        if woken is not None and not woken.done():
            woken.set_result(None)

    def _changed(self, names: list[Any] | None) -> None:
        """Take note of keys that have changed; None: all of them."""
        known = self._queues
        for intake in self.intakes.values() if names is None else [known[name] for name in names if name in known]:
            intake.ready = intake.changed = True
            self._due[intake] = None
        self._wake()

    async def _nap(self, seconds: float) -> None:
        """Wait until there is something to do, or for this time."""
        loop = asyncio.get_running_loop()
        self._woken = woken = loop.create_future()
        timer = loop.call_later(max(seconds, 0), self._wake)
        try:
            await woken
        finally:
            timer.cancel()
            self._woken = None

    # The task

    async def run(self) -> None:
        """Work until `close` was called and all is put back.

        Raises:
            LayerError: Redis cannot be reached at the start, refuses us, or fails and is not to be tried again.
        """
        backoff = Backoff()
        lost_at = 0.0
        while True:
            link = Link(self._create_pool, self._changed)
            try:
                await link.open()
                await self._enter(link)
                if backoff.failures:
                    logger.info("Redis at %s is back after %.1f s", self.where, clock() - lost_at)
                    backoff.succeeded()
                if not self.started.done():
                    self.started.set_result(None)
                await self._serve(link)
                return
            except FAILURES as error:
                final = is_final(error) or not (self.started.done() or isinstance(error, BusyLoadingError))
                if self._stopping and (final or clock() >= self._stop_by):
                    return
                if final or not (self._stopping or self._server.reconnect):
                    raise refuse(self.where, error) from error
                if not backoff.failures:
                    lost_at = clock()
                    self.counts["reconnects"] += 1
                for line, intake in self.intakes.items():
                    if intake.set_aside():
                        self._dispatcher.pump(line)
                        self._dispatcher.on_change(line)
                delay = backoff.failed()
                level = logging.WARNING if backoff.failures == 1 else logging.INFO
                logger.log(
                    level, "Redis at %s has failed: %s; trying again in %.1f s", self.where, describe(error), delay
                )
                await self._wait(delay)
            finally:
                await link.close()

    async def _wait(self, seconds: float) -> None:
        until = clock() + seconds
        while (left := min(until, self._stop_by) - clock()) > 0:
            await self._nap(left)

    def tell_of_rest(self) -> None:
        """Log what could not be put back, if there is anything, after the end of `run`."""
        lost = sum(max(0, intake.claimed - intake.taken) for intake in self.intakes.values())
        rest = sum(intake.fetched - intake.taken for intake in self.intakes.values()) - lost
        lost += len(self._returning) + sum(len(intake.take_rest()) for intake in self.intakes.values())
        if rest or lost:
            logger.warning(
                "Redis at %s cannot be reached: another worker puts back %d messages that were not begun, in %g s; %d "
                "that were about to begin are lost",
                self.where,
                rest,
                self._server.worker_timeout,
                lost,
            )

    async def _serve(self, link: Link) -> None:
        while not self._closing:
            now = clock()
            if now >= self._beat_at:
                await self._beat(link, now)
                continue
            await self._return(link)
            if self._stopping and self._left_over:
                self._left_over = False
                await self._put_back(link, [intake for intake in self.intakes.values() if intake.holds])
                continue
            requests = [] if self._stopping else self._gather(now)
            if requests or self._commands:
                await self._step(link, requests)
                continue
            await self._nap(min(self._beat_at - now, TELL if self.untold else BEAT, BEAT if link.tells else POLL))
            if self.untold and clock() >= now + TELL:
                await self._step(link, self._taken())
            if not link.tells:
                self._changed(None)
            if link.error is not None:
                raise link.error
        await self._leave(link)

    # Fetching

    def _gather(self, now: float) -> list[Request]:
        """Return what to ask for."""
        dispatcher = self._dispatcher
        requests: list[Request] = []
        free = dispatcher.free
        full = dispatcher.size >= MOST_BYTES
        for intake in list(self._due):
            if len(requests) >= CHANNELS_AT_ONCE:
                break
            del self._due[intake]
            line = intake.line
            able = dispatcher.able(line)
            if able > free:
                dispatcher.starve(line)
                able = free
            free -= max(0, able - line.starting)
            waiting = intake.fetched - intake.taken
            # What is claimed is begun in a moment; so few messages that it does not matter who begins them.
            claims = max(able, line.ahead(now, CLAIMED, MOST_CLAIMED)) if dispatcher.open else 0
            claim = intake.claimed
            if 2 * (claim - intake.taken) < claims:
                claim = max(claim, intake.taken + min(claims, waiting))
            wanted = begin = 0
            if intake.ready:
                ahead = 0 if full else line.ahead(now, AHEAD, self._server.prefetch)
                room = able - len(line.waiting)
                if room > 0 or 2 * waiting < ahead:
                    wanted = max(0, room, able + ahead - waiting)
                    begin = max(0, claims - waiting)
            if wanted or claim > intake.claimed:
                requests.append(Request(intake, intake.taken, claim, wanted, begin))
        return requests

    async def _step(self, link: Link, requests: list[Request]) -> None:
        keys, server = self._keys, self._server
        names = [keys.workers, keys.gone, keys.heads]
        room = max(0, MOST_BYTES - self._dispatcher.size)
        arguments: list[Any] = [keys.worker, server.worker_timeout, room, server.max_message_size, self.in_hand]
        for request in requests:
            channel = request.intake.line.channel
            names += (keys.queue(channel), keys.held(channel), keys.refused(channel))
            arguments += (channel, *request[1:])
            request.intake.changed = False
        watch = any(request.wanted for request in requests)
        commands, self._commands = self._commands, []
        try:
            answer = await link.run(scripts.STEP, names, arguments, before=commands, watch=watch)
        except BaseException:
            # Whether they were done is not known; done twice, they do no harm.
            self._commands = commands + self._commands
            self._due.update(dict.fromkeys(request.intake for request in requests))
            raise
        if answer is None:
            await self._enter(link)
            return
        answers = msgpack.unpackb(answer, raw=True)
        for request, (more, refused, claimed, *found) in zip(requests, answers, strict=True):
            intake = request.intake
            intake.told = max(intake.told, request.taken)
            if intake.told == intake.taken:
                self.untold.pop(intake, None)
            line = intake.line
            if request.wanted:
                # A change may be told before the answer that it has outdated: they come on two connections.
                intake.ready = bool(more) or intake.changed
                for _ in range(refused):
                    self._dispatcher.refuse(line, f"it is larger than max_message_size={server.max_message_size}")
                if intake.ready:
                    self._due[intake] = None
            self._dispatcher.offer(line, intake.accept(found, claimed))
        # A line that was offered room may have had no message.
        self._dispatcher.offer_turns()

    def _taken(self) -> list[Request]:
        """Return requests that say what was taken, and ask for nothing."""
        some = itertools.islice(self.untold, CHANNELS_AT_ONCE)
        return [Request(intake, intake.taken, intake.claimed, 0, 0) for intake in some]

    # Staying alive

    async def _beat(self, link: Link, now: float) -> None:
        """Do what has to be done now and then."""
        timeout = self._server.worker_timeout
        self._beat_at = now + min(BEAT, timeout / 5)
        await link.ping()
        await self._step(link, self._taken())
        self._dispatcher.prune()
        if now >= self._recover_at:
            self._recover_at = now + timeout / 3
            await self._recover(link)
            # Should a change not have been told.
            self._changed(None)
        await self._give_up_waiting(link, now)

    async def _recover(self, link: Link) -> None:
        """Put back what workers hold that are dead."""
        keys = self._keys
        arguments = [keys.prefix, keys.own, self.expiry, scripts.PUT_BACK_AT_ONCE, scripts.GONE_SECONDS]
        counts: dict[str, int] = {}
        while True:
            dead, count, complete, begun, time = await link.run(scripts.RECOVER, [keys.workers], arguments)
            self._known_at = float(time)
            if not dead:
                break
            name = dead.decode()
            counts[name] = counts.get(name, 0) + count
            self.counts["taken_over"] += count
            if complete:
                logger.warning(
                    "worker %s was silent for too long: %d messages that it had not begun are put back; up to %d that "
                    "it had begun are lost, if it has ended",
                    name,
                    counts[name],
                    begun,
                )

    async def _give_up_waiting(self, link: Link, now: float) -> None:
        """Put back what has waited for too long, for others to take it."""
        waited = [
            intake
            for line, intake in self.intakes.items()
            if line.waiting and now - max(line.last_taken, intake.accepted_at) > HOLD
        ]
        if waited:
            await self._put_back(link, waited)

    async def _put_back(self, link: Link, intakes: Iterable[Intake]) -> None:
        """Put back what was fetched and not taken."""
        rest = list(intakes)
        while rest:
            some, rest = rest[:CHANNELS_AT_ONCE], rest[CHANNELS_AT_ONCE:]
            for intake in some:
                self._returning.add(intake, intake.take_rest())
            # These are older than what Redis holds.
            await self._return(link)
            keys = self._keys
            names: list[Any] = [keys.workers, keys.gone, keys.heads]
            arguments: list[Any] = [keys.worker, self.expiry, self.in_hand]
            for intake in some:
                # From now on none of them is given to an application.
                intake.let_go()
                channel = intake.line.channel
                names += (keys.queue(channel), keys.held(channel))
                arguments += (channel, intake.taken)
                self._due[intake] = None
            commands, self._commands = self._commands, []
            try:
                count = await link.run(scripts.PUT_BACK, names, arguments, before=commands)
            except BaseException:
                self._commands = commands + self._commands
                raise
            if count is None:
                await self._enter(link)
            else:
                self.counts["put_back"] += count

    async def _return(self, link: Link) -> None:
        """Put back what was given to applications, and not received."""
        while self._returning:
            count = await self._returning.send(link, self._keys, self.expiry)
            if count is None:
                await self._enter(link)
            else:
                self.counts["put_back"] += count

    async def _leave(self, link: Link) -> None:
        """Put back what is left, and be forgotten."""
        self._left_over = True
        while self._left_over:
            self._left_over = False
            await self._put_back(link, self.intakes.values())
        keys = self._keys
        await link.run(scripts.LEAVE, [keys.workers, keys.heads], [keys.worker])
        self._due.clear()

    # Beginning, and beginning again

    async def _enter(self, link: Link) -> None:
        """Make this worker known, and find out what it holds, after a connection was made."""
        keys = self._keys
        names = [keys.workers, keys.gone, keys.heads]
        timeout = self._server.worker_timeout
        arguments: list[Any] = [keys.worker, timeout, scripts.GONE_SECONDS, self._known_at, self.expiry]
        for intake in self.intakes.values():
            channel = intake.line.channel
            names += (keys.queue(channel), keys.held(channel))
            arguments += (channel, intake.fetched)
        known, returned, time, *claimed = await link.run(scripts.ENTER, names, arguments)
        if known == 2:
            self._lose(claimed)
            self.counts["put_back"] += self._returning.settle(returned)
            self._keys = self._new_keys()
            self._known_at = 0.0
            await self._enter(link)
            return
        self._known_at = float(time)
        self._left_over = True
        if known == 0:
            # New, or Redis has lost its memory: what waits here is nowhere else.
            self._returning.begin_again()
            for line, intake in self.intakes.items():
                intake.begin_again(intake.fetched)
                self._dispatcher.pump(line)
        else:
            self.counts["put_back"] += self._returning.settle(returned)
            await self._resume(link)
        self._changed(None)

    async def _resume(self, link: Link) -> None:
        """Fetch what Redis says that we hold, and we do not know of, since its answer was lost."""
        keys = self._keys
        rest = list(self.intakes.values())
        while rest:
            some, rest = rest[:CHANNELS_AT_ONCE], rest[CHANNELS_AT_ONCE:]
            taken = [intake.taken for intake in some]
            names = [keys.workers, keys.gone, keys.heads, *(keys.held(intake.line.channel) for intake in some)]
            arguments: list[Any] = [keys.worker]
            for intake, number in zip(some, taken, strict=True):
                arguments += (intake.line.channel, number, intake.fetched)
            packed = await link.run(scripts.RESUME, names, arguments)
            if packed is None:
                # Others have taken over since it has entered.
                await self._enter(link)
                return
            answers = msgpack.unpackb(packed, raw=True)
            for intake, number, (claimed, *found) in zip(some, taken, answers, strict=True):
                intake.told = max(intake.told, number)
                known = intake.fetched - number
                if len(found) < 2 * known:
                    # Redis has lost the last of what it had done before it was restarted.
                    intake.begin_again(intake.fetched)
                    self._dispatcher.pump(intake.line)
                else:
                    intake.line.take_up(intake)
                    self._dispatcher.offer(intake.line, intake.accept(found[2 * known :], claimed))

    def _lose(self, claimed: list[int]) -> None:
        """Leave to others what was not claimed, of each channel before such a number; if Redis has forgotten, [].

        Log how many messages these are, and how many are lost.
        """
        numbers = claimed or [0] * len(self.intakes)
        losses = [intake.lose(number) for intake, number in zip(self.intakes.values(), numbers, strict=True)]
        logger.warning(
            "this worker was silent for more than %g s, and another one has taken over: %d messages that were not "
            "begun are left to it; %s that were about to begin are lost",
            self._server.worker_timeout if claimed else scripts.GONE_SECONDS,
            sum(left for left, _ in losses),
            sum(lost for _, lost in losses) if claimed else "perhaps some",
        )
