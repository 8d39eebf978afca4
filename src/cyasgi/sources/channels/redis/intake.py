"""What this process holds of one channel of one Redis, and where each of its messages stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from ..errors import Refused, unreadable
from ..lines import Item, Line, clock
from ..simple import checked
from . import scripts
from .link import Command

#: In place of the epoch of a message that an application was given and has not received.
RESTORED = -1


class IntakeShard(Protocol):
    """What an intake knows of its shard."""

    in_hand: int
    untold: dict[Any, None]

    def later(self, *commands: Command) -> None: ...
    def left_over(self) -> None: ...
    def attend(self, intake: Any) -> None: ...


class Intake:
    """The messages of one channel that were fetched from one Redis, numbered from 0 in the order of their coming.

    Those before `told` are forgotten there; those before `taken` were given to applications; those before `claimed` may
    be given, since nobody else will ever get them; those before `fetched` have come, and wait in the line.
    """

    __slots__ = (
        "_layer",
        "_shard",
        "accepted_at",
        "changed",
        "claimed",
        "epoch",
        "fetched",
        "line",
        "ready",
        "taken",
        "told",
    )

    def __init__(self, shard: IntakeShard, layer: Any, line: Line) -> None:
        self._shard = shard
        self._layer = layer
        self.line = line
        self.told = self.taken = self.claimed = self.fetched = 0
        #: Whether Redis may have messages of the channel: it has not told of one since there were none.
        self.ready = True
        #: Whether Redis has told of a change since it was asked last.
        self.changed = False
        #: Counts how often Redis has left to us what had come. What is left of an older epoch is nowhere but here.
        self.epoch = 0
        #: When messages came last, in seconds of the monotonic clock.
        self.accepted_at = 0.0

    def accept(self, found: Sequence[Any], claimed: int) -> list[Item]:
        """Return the messages of an answer, in which each stands after its score, and count them as fetched."""
        self.claimed = max(self.claimed, claimed)
        items = []
        for index in range(0, len(found), 2):
            content = found[index + 1]
            number = self.fetched + index // 2
            items.append(Item(self, content, score=found[index], size=len(content), epoch=self.epoch, number=number))
        if items:
            self.accepted_at = clock()
            self.fetched += len(items)
        return items

    def set_aside(self) -> bool:
        """Let what others have fetched pass what is not claimed, since Redis cannot be asked to claim it now.

        Returns:
            whether there is any.
        """
        return self.line.set_aside(lambda item: item.origin is self and not self.usable(item))

    @property
    def holds(self) -> bool:
        """Whether anything of it has to be put back."""
        return self.fetched > self.taken or any(item.origin is self for item in self.line.waiting)

    def let_go(self) -> None:
        """Forget what waits and is held for us in Redis: it is put back there."""
        self.line.drop(self, self.epoch)
        self.fetched = self.claimed = self.taken
        self.look_again()

    def take_rest(self) -> list[Item]:
        """Remove and return what waits and is nowhere but here."""
        return self.line.take_where(lambda item: item.origin is self and item.epoch != self.epoch)

    def returned(self, item: Item) -> None:
        """Take note that one of these was put back."""
        self._shard.in_hand -= item.epoch == RESTORED
        self.look_again()
        self._shard.attend(self)

    def look_again(self) -> None:
        """Expect messages in Redis, which does not tell us of those that we have put there."""
        self.ready = self.changed = True

    def lose(self, claimed: int) -> tuple[int, int]:
        """Forget what waits and is not claimed: somebody else has it.

        Args:
            claimed: the number before which nothing was put back, by what Redis knows; 0 if it knows nothing.

        Returns:
            how many were forgotten, and how many are lost: they were claimed, and nobody has them.
        """
        self.claimed = max(self.claimed, claimed)
        left, lost = max(0, self.fetched - self.claimed), max(0, self.claimed - self.fetched)
        self.line.drop(self, self.epoch, self.claimed)
        self.begin_again()
        return left, lost

    def begin_again(self, number: int = 0) -> None:
        """Go on with this number. What waits is given to applications, but not told to Redis, which knows nothing."""
        self.epoch += 1
        self.told = self.taken = self.claimed = self.fetched = number
        self.ready = True
        self.line.take_up(self)

    # As the origin of its messages

    def usable(self, item: Item) -> bool:
        return item.number < self.claimed or item.epoch != self.epoch

    def open(self, item: Item) -> Any:
        try:
            message = self._layer.deserialize(item.content)
        except Exception as error:
            # What a library raises at bytes that it cannot read differs; none of it is ours.
            self._keep(item)
            raise Refused(unreadable(error)) from error
        try:
            checked(message)
        except Refused:
            self._keep(item)
            raise
        # Where a message that came by a group says for whom it is.
        message.pop("__asgi_channel__", None)
        return message

    def _keep(self, item: Item) -> None:
        """Keep a message that cannot be given to an application where it can be looked at."""
        key = f"{self._layer.prefix}:cyasgi:refused:{self.line.channel}"
        self._shard.later(
            ("RPUSH", key, item.content),
            ("LTRIM", key, -scripts.REFUSED_KEPT, -1),
            ("EXPIRE", key, scripts.REFUSED_SECONDS),
        )

    def take(self, item: Item) -> None:
        if item.epoch == RESTORED:
            # It has been counted ever since it was given for the first time.
            return
        self._shard.in_hand += 1
        if item.epoch == self.epoch:
            self.taken += 1
            self._shard.untold[self] = None

    def finish(self, item: Item) -> None:
        self._shard.in_hand -= 1

    def restore(self, item: Item) -> None:
        # Redis has forgotten it, and it comes before all that waits.
        item.epoch = RESTORED
        self.line.prepend(item)
        self._shard.in_hand += 1
        self._shard.left_over()


class Request(NamedTuple):
    """What is said and asked of one channel: see `scripts.STEP`."""

    intake: Intake
    taken: int
    claim: int
    wanted: int
    begin: int
