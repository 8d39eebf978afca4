"""ChannelLayerServer: an application fed by the channels of a channel layer, in place of Channels' Worker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, ClassVar

from ..._settings import Boolean, Integer, Number
from ..._types import Message, Scope
from ...core import Setting
from ...server import StatelessServer
from .detect import is_redis_layer
from .dispatcher import Dispatcher
from .engine import Engine
from .feeding import FedApplication
from .simple import SimpleEngine

logger = logging.getLogger("cyasgi.sources.channels")

#: What the counters of an engine are called, for a server that does not run.
NO_ENGINE = {"put_back": 0, "taken_over": 0, "reconnects": 0}


class ChannelLayerServer(StatelessServer):
    """Run an application for the messages of channels of a channel layer, as Channels' Worker does.

    Each channel has an instance of its own, with the scope ``{"type": "channel", "channel": NAME}`` and the channel's
    name as its `scope_id`, which receives the channel's messages one after the other. With `channel_concurrency`
    above 1 there are up to so many instances for each channel, whose ids are (name, number).

    On the Redis layer of channels_redis, messages are fetched in batches; those that no application has taken when the
    process dies are put back, in order, by another one.

    Args:
        application: as for `StatelessServer`.
        channels: the names of the channels.
        channel_layer: a channel layer of Django Channels, of any kind.
        max_applications: as for `StatelessServer`.

    Raises:
        ValueError: there is no channel, one comes twice, or there is no layer.
        TypeError: a name is none that the layer accepts.
    """

    announces_start: ClassVar[bool] = True

    #: Instances that one channel may have at work at a time. With 1, its messages are processed strictly in order.
    channel_concurrency = Setting[int](1, Integer(1))
    #: Instances that all channels together may have at work at a time; None for as many as `max_applications`.
    concurrency = Setting[int | None](None, Integer(1, none="as many as max_applications"))
    #: Seconds after which an instance is cancelled that has not finished a message; None for no limit.
    message_timeout = Setting[float | None](None, Number("number of seconds", none="no limit"))
    #: Messages of one channel that may wait in this process; never more than are taken in 20 ms. Redis only.
    prefetch = Setting[int](200, Integer(0, 10_000))
    #: Size of a message above which it is refused, in bytes. Redis only.
    max_message_size = Setting[int](10 * 1024 * 1024, Integer(1))
    #: Seconds of silence after which another process takes over what this one was to process. Redis only.
    worker_timeout = Setting[float](30.0, Number("number of seconds", least=0.5, most=86_400))
    #: Whether to go on, and try again and again, when the layer fails; False: end with an error.
    reconnect = Setting[bool](True, Boolean())

    def __init__(
        self, application: Any, channels: Iterable[str], channel_layer: Any, max_applications: int | None = 1000
    ) -> None:
        names = [channels] if isinstance(channels, str) else list(channels)
        if channel_layer is None:
            raise ValueError("channel_layer=None: accepted is a channel layer")
        if not names:
            raise ValueError("channels=[]: accepted is the name of at least one channel")
        if len(set(names)) < len(names):
            raise ValueError(f"channels={names!r}: accepted is each name once")
        batched = is_redis_layer(channel_layer)
        for name in names:
            if not isinstance(name, str):
                raise TypeError(f"channels={names!r}: {name!r} is not the name of a channel")
            try:
                channel_layer.require_valid_channel_name(name, receive=True)
            except TypeError as error:
                raise TypeError(f"channels={names!r}: {name!r} is not accepted: {error}") from None
            if batched and "!" in name:
                raise ValueError(f"channels={names!r}: {name!r} belongs to one process; accepted are general names")
        self.channels = names
        self.channel_layer = channel_layer
        self._batched = batched
        self._dispatcher = Dispatcher(self, names)
        self._engine: Engine | None = None
        #: The counters of runs that have ended.
        self._counted = dict(NO_ENGINE)
        super().__init__(application, max_applications)

    @property
    def application(self) -> Any:
        """The application as the server calls it; its `application` is the one that was given."""
        return self._fed

    @application.setter
    def application(self, application: Any) -> None:
        dispatcher = self._dispatcher
        self._fed = FedApplication(application, dispatcher.slot_of, dispatcher.asked, dispatcher.ended)

    async def arun(self) -> None:
        """Run as `StatelessServer.arun` does.

        When it stops, no more is fetched, and what no application has taken is given back to the layer; what one has
        taken may be finished within `shutdown_timeout`.

        Raises:
            LayerError: the layer cannot be reached at the start, it refuses us, or it fails and `reconnect` is False.
        """
        if self._cyasgi.server_run is not None and not self._cyasgi.server_run.stale:
            # It is refused.
            await super().arun()
            return
        loop = asyncio.get_running_loop()
        dispatcher = self._dispatcher
        engine = self._engine = self._new_engine()
        dispatcher.on_change = engine.changed
        dispatcher.start()
        # Its tasks are none of handle(), which end first of all: they give back what is left.
        engine.start()
        try:
            await super().arun()
        finally:
            try:
                # A coroutine that is closed after its loop has no loop to wait in.
                if not loop.is_closed():
                    self._fetch_no_more(engine)
                    await engine.close(self.shutdown_timeout)
            finally:
                for name, count in engine.stats().items():
                    self._counted[name] += count
                if self._engine is engine:
                    dispatcher.close()
                    self._engine = None

    def _new_engine(self) -> Engine:
        if not self._batched:
            return SimpleEngine(self, self.channel_layer, self._dispatcher)
        from .redis.engine import RedisEngine

        return RedisEngine(self, self.channel_layer, self._dispatcher)

    async def handle(self) -> None:
        loop, engine = asyncio.get_running_loop(), self._engine
        assert engine is not None, "arun() has made one"
        try:
            await engine.started()
            logger.info("receiving from %s", ", ".join(self.channels))
            self.announce_started()
            await engine.ended()
        finally:
            if not loop.is_closed():
                self._fetch_no_more(engine)

    def _fetch_no_more(self, engine: Engine) -> None:
        self._dispatcher.close()
        engine.stop_fetching()

    async def hand_over(self) -> None:
        """Return at once: other workers fetch what this one leaves when it stops. For `cyasgi.workers`."""

    async def application_send(self, scope: Scope, message: Message) -> None:
        """Raise an error: nobody receives what an application on a channel sends; to be overridden.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            f"the application of channel {scope['channel']!r} has nobody to send to: send by the channel layer, or "
            "override application_send()"
        )

    def message_refused(self, channel: str, reason: str) -> None:
        """Log that a message cannot be given to any application; to be overridden."""
        logger.error("a message on channel %r was refused: %s", channel, reason)

    def message_timed_out(self, scope_id: Any, channel: str, seconds: float) -> None:
        """Log that a message has taken too long, and delete the instance that has it."""
        logger.error("a message on channel %r took more than %g s: its application is cancelled", channel, seconds)
        self.delete_application_instance(scope_id)

    def start_failed(self, channel: str, error: BaseException | None, seconds: float) -> None:
        """Log that the application for a channel did not get to its first message."""
        logger.warning(
            "no instance for channel %r has asked for a message (%s); the next one is started in %.1f s",
            channel,
            "it returned" if error is None else repr(error),
            seconds,
        )

    def stats(self) -> dict[str, int]:
        """Return the counters of `StatelessServer.stats`, and these.

        Current: `waiting` messages, fetched and not taken. Since the server was made: `messages` taken by applications;
        `refused` ones; `timed_out` ones; `restored` ones, which an application was given and has not received;
        `put_back` ones, given back to the layer; `taken_over` ones, of processes that were gone; and `reconnects`.
        """
        engine = self._engine
        running = NO_ENGINE if engine is None else engine.stats()
        dispatcher = self._dispatcher
        return {
            **super().stats(),
            "waiting": sum(len(line.waiting) + len(line.aside) for line in dispatcher.lines.values()),
            **dispatcher.counts,
            **{name: count + running.get(name, 0) for name, count in self._counted.items()},
        }
