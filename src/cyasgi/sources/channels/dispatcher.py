"""Which instance gets which message, and when: within the bounds for each channel and for all of them."""

from __future__ import annotations

import asyncio
import collections
import contextvars
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from ..backoff import Backoff
from .errors import Refused
from .lines import Item, Line, Slot, Total, clock

logger = logging.getLogger("cyasgi.sources.channels")

#: How much longer than `message_timeout` a message may take, as a part of it: so often the clock is looked at.
GRAIN = 0.05


class DispatchingServer(Protocol):
    """What the dispatcher knows of the server."""

    @property
    def channel_concurrency(self) -> int: ...
    @property
    def concurrency(self) -> int | None: ...
    @property
    def max_applications(self) -> int | None: ...
    @property
    def message_timeout(self) -> float | None: ...

    @property
    def application_instances(self) -> Mapping[Any, Any]: ...
    def get_or_create_application_instance(self, scope_id: Any, scope: Any) -> Any: ...
    def message_refused(self, channel: str, reason: str) -> None:
        """Take note of a message that no application can be given."""

    def message_timed_out(self, scope_id: Any, channel: str, seconds: float) -> None:
        """End the instance, whose message has taken too long."""

    def start_failed(self, channel: str, error: BaseException | None, seconds: float) -> None:
        """Take note that an instance has ended before it asked for a message, and when the next one is started."""


class Dispatcher:
    """Gives the messages of each line to its instances, one at a time each, and starts instances for them."""

    def __init__(self, server: DispatchingServer, channels: Iterable[str]) -> None:
        self._server = server
        self._total = Total()
        self.lines = {channel: Line(channel, self._total) for channel in channels}
        #: Whether messages may be given.
        self.open = False
        #: Called with a line that has taken a message, or can take one.
        self.on_change: Callable[[Line], object] = bool
        #: How many instances are at work, of all channels.
        self.busy = 0
        #: Messages given to applications, refused, put back since an application has not received them, and those that
        #: have taken too long.
        self.counts = dict.fromkeys(("messages", "refused", "restored", "timed_out"), 0)
        self._slots: dict[Any, Slot] = {}
        self._contenders: collections.deque[Line] = collections.deque()
        self._starved: dict[Line, None] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        #: Where instances are started, so that none is taken for a child of the application that was at work.
        self._context = contextvars.copy_context()
        self._turn: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._wakings: set[asyncio.TimerHandle] = set()

    def start(self) -> None:
        """Begin to give messages, in the running loop; afresh, however the last run has ended."""
        self.close()
        for slot in list(self._slots.values()):
            # The loop was closed under it, or it did not end in time.
            self.ended(slot, None)
        self._contenders.clear()
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self.open = True
        for line in self.lines.values():
            line.failures, line.paused_until, line.contending = 0, 0.0, False
            if line.waiting:
                self._next_turn(line)

    def close(self) -> None:
        """Give no more messages."""
        self.open = False
        for handle in (self._turn, self._timer, *self._wakings):
            if handle is not None:
                handle.cancel()
        self._turn = self._timer = None
        self._wakings.clear()
        self._starved.clear()

    @property
    def limit(self) -> int:
        """How many instances may be at work, of all channels together."""
        bounds = [bound for bound in (self._server.concurrency, self._server.max_applications) if bound is not None]
        return min(bounds, default=2**31)

    @property
    def size(self) -> int:
        """The bytes of all that waits here."""
        return self._total.size

    @property
    def free(self) -> int:
        """How many more instances may be at work, of all channels together."""
        return max(0, self.limit - self.busy)

    def able(self, line: Line) -> int:
        """Return how many messages of this line could begin at once, those that wait among them."""
        if not self.open or clock() < line.paused_until:
            return 0
        wanted = self._server.channel_concurrency - line.busy + line.starting
        if wanted > line.starting and not self.free:
            self.starve(line)
        return max(0, min(wanted, self.free + line.starting))

    def room(self, line: Line) -> int:
        """Return how many more messages of this line could begin at once than wait."""
        return max(0, self.able(line) - len(line.waiting))

    # Giving

    def offer(self, line: Line, items: Iterable[Item]) -> None:
        """Accept messages, after those that wait, and give as many as can begin."""
        for item in items:
            line.append(item)
        self.pump(line)

    def pump(self, line: Line) -> None:
        """Give what waits in a line to its instances, and start more of them if need be and permitted."""
        if not self.open or not line.waiting:
            return
        if not line.waiting[0].origin.usable(line.waiting[0]):
            # Whoever has fetched it sees to that.
            self.on_change(line)
            return
        instances = self._server.application_instances
        for slot in list(line.idle):
            if not line.waiting or not self._permitted(line):
                return
            instance = instances.get(slot.scope_id)
            if instance is None or instance is not slot.instance:
                # It was evicted, has expired, or was deleted, and may not have ended yet.
                self._leave(slot)
            elif not instance.qsize():
                self._give(slot)
        wanted = len(line.waiting) - line.starting
        while wanted > 0 and len(line.slots) < self._server.channel_concurrency and self._permitted(line):
            if not line.waiting[0].origin.usable(line.waiting[0]) or not self._start(line):
                return
            wanted -= 1

    def _permitted(self, line: Line) -> bool:
        """Return whether another instance may be at work; if not, the line waits for its turn."""
        if self.busy < self.limit:
            return True
        self._queue(line)
        return False

    def _give(self, slot: Slot) -> bool:
        """Give the slot's instance the next message of its line; return whether there was one."""
        line = slot.line
        while line.waiting and line.waiting[0].origin.usable(line.waiting[0]):
            item = line.pop()
            try:
                message = item.origin.open(item)
            except Refused as error:
                self.refuse(line, str(error))
                message = None
            item.origin.take(item)
            if message is None:
                item.origin.finish(item)
                self.on_change(line)
                continue
            self.counts["messages"] += 1
            line.idle.pop(slot, None)
            if not slot.busy:
                slot.busy = True
                self.busy += 1
            slot.item, slot.message = item, message
            line.last_taken = slot.began = clock()
            if self._timer is None:
                self._watch(self._server.message_timeout)
            slot.instance.put_nowait(message)
            self.on_change(line)
            return True
        return False

    def refuse(self, line: Line, reason: str) -> None:
        """Count and report a message that no application can be given."""
        self.counts["refused"] += 1
        self._tell(self._server.message_refused, line.channel, reason)

    def _start(self, line: Line) -> bool:
        """Start an instance for a line; return False if that cannot be done now."""
        now = clock()
        if now < line.paused_until:
            return False
        number = next(number for number in range(len(line.slots) + 1) if number not in line.slots)
        slot = Slot(line, number)
        scope = {"type": "channel", "channel": line.channel}
        try:
            slot.instance = self._server.get_or_create_application_instance(slot.scope_id, scope)
        except Exception as error:
            # A limit, or an override: the message waits.
            self._pause(line, error)
            return False
        line.slots[number] = self._slots[slot.instance] = slot
        self.busy += 1
        line.starting += 1
        if slot.instance.waiting():
            # It was there, since somebody else has created it.
            self.asked(slot)
        return True

    # What instances tell

    def slot_of(self, instance: Any) -> Slot | None:
        """Return the slot of an instance; None if it is not one of a channel."""
        return self._slots.get(instance)

    def asked(self, slot: Slot) -> None:
        """Take note that the application calls `receive()`; it may be given a message at once."""
        line = slot.line
        if slot.left or slot.instance.qsize():
            # It is at its end; or it has been given one, and has not received it.
            return
        if slot.busy:
            slot.busy = False
            self.busy -= 1
        started, slot.asked = not slot.asked, True
        if started:
            line.starting -= 1
        elif slot.item is not None:
            line.finished(clock() - slot.began)
        slot.finish()
        line.failures = 0
        line.idle[slot] = None
        if not self.open:
            return
        if (self._contenders or self._starved) and not (started and line.waiting):
            # Others have waited for longer; but one that was started for a message has had its turn.
            self._queue(line) if line.waiting else self.starve(line)
            self._next_turn()
        elif not self._give(slot):
            self.on_change(line)

    def _queue(self, line: Line) -> None:
        if not line.contending:
            line.contending = True
            self._contenders.append(line)

    def starve(self, line: Line) -> None:
        """Take note that nothing is fetched for a line, since as many instances are at work as may be."""
        self._starved[line] = None

    def offer_turns(self) -> None:
        """Tell those lines for which nothing was fetched of the room that there is by now."""
        if self._starved and self.free:
            self._next_turn()

    def ended(self, slot: Slot, error: BaseException | None) -> None:
        """Take note that the application's run ends."""
        line, instance = slot.line, slot.instance
        item, given = slot.item, slot.message
        self._forget(slot)
        if instance.qsize() and item is not None:
            # It was given a message, and has not received it. What users have put is theirs.
            left = instance.take_all()
            if left[0] is given:
                self.counts["restored"] += 1
                item.origin.restore(item)
                left = left[1:]
            for message in left:
                instance.put_nowait(message)
        if not slot.asked and self.open:
            self._pause(line, error)
        # Not now: the instance is still in the table.
        self._next_turn(line)

    def _leave(self, slot: Slot) -> None:
        """Count on an instance no more, whether or not it has ended."""
        line = slot.line
        if not (slot.asked or slot.left):
            line.starting -= 1
        slot.left = True
        if line.slots.get(slot.number) is slot:
            del line.slots[slot.number]
        line.idle.pop(slot, None)
        if slot.busy:
            slot.busy = False
            self.busy -= 1

    def _forget(self, slot: Slot) -> None:
        self._leave(slot)
        self._slots.pop(slot.instance, None)
        slot.finish()

    def prune(self) -> None:
        """Forget instances that have ended before their application was called."""
        for slot in [slot for slot in self._slots.values() if slot.instance.ended]:
            self._forget(slot)
            self.pump(slot.line)

    def _next_turn(self, line: Line | None = None) -> None:
        """Give those that wait for a turn theirs, in the next pass of the loop."""
        if line is not None:
            self._queue(line)
        if self.open and self._turn is None and self._loop is not None and not self._loop.is_closed():
            self._turn = self._loop.call_soon(self._take_turns, context=self._context)

    def _take_turns(self) -> None:
        self._turn = None
        for _ in range(len(self._contenders)):
            if self.busy >= self.limit:
                return
            line = self._contenders.popleft()
            line.contending = False
            self.pump(line)
            self.on_change(line)
        if self.free:
            starved, self._starved = self._starved, {}
            for line in starved:
                self.on_change(line)

    def _pause(self, line: Line, error: BaseException | None) -> None:
        """Start no instance for a while, since the last one did not get to its first message."""
        backoff = Backoff(most=30.0)
        backoff.failures = line.failures
        seconds = backoff.failed()
        line.failures = backoff.failures
        line.paused_until = until = clock() + seconds
        self._tell(self._server.start_failed, line.channel, error, seconds)
        if self._loop is None or self._loop.is_closed():
            return

        def go_on() -> None:
            self._wakings.discard(handle)
            # Timers of uvloop count from the time of the loop's last pass, and so may be early.
            if line.paused_until == until:
                line.paused_until = 0.0
            self._next_turn(line)

        handle = self._loop.call_later(seconds, go_on, context=self._context)
        self._wakings.add(handle)

    @staticmethod
    def _tell(hook: Callable[..., object], *arguments: Any) -> None:
        """Call a method that may be overridden; whatever it raises stops nothing."""
        try:
            hook(*arguments)
        except Exception:
            logger.exception("%s raised", getattr(hook, "__name__", hook))

    # Time-outs

    def _watch(self, timeout: float | None, since: float | None = None) -> None:
        """Look at the clock when the message that was begun at this time is due."""
        if timeout is None or self._loop is None:
            return
        now = clock()
        due = (now if since is None else since) + timeout
        delay = max(due - now, timeout * GRAIN)
        self._timer = self._loop.call_later(delay, self._look, context=self._context)

    def _look(self) -> None:
        self._timer = None
        timeout = self._server.message_timeout
        if timeout is None:
            return
        now = clock()
        in_hand = [slot for slot in self._slots.values() if slot.item is not None and not slot.left]
        late = [slot for slot in in_hand if now - slot.began >= timeout]
        for slot in late:
            self.counts["timed_out"] += 1
            self._tell(self._server.message_timed_out, slot.scope_id, slot.line.channel, timeout)
            # The next instance waits for the end of this one, within bounds.
            self._leave(slot)
            self._next_turn(slot.line)
        rest = [slot.began for slot in in_hand if not slot.left]
        if rest and self._timer is None:
            self._watch(timeout, min(rest))
