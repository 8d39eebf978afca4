"""All of a layer's Redis servers together, for one run of a server."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from ..dispatcher import Dispatcher
from ..lines import Line
from .link import ReceiveTimeout
from .shard import Shard, ShardServer

logger = logging.getLogger("cyasgi.sources.channels")

#: Seconds beyond those given that tasks have to end.
GRACE = 1.0


class RedisEngine:
    """Brings messages in batches from each Redis of a `RedisChannelLayer`."""

    def __init__(self, server: ShardServer, layer: Any, dispatcher: Dispatcher) -> None:
        self._server = server
        self._layer = layer
        self._dispatcher = dispatcher
        self._shards: list[Shard] = []
        self._tasks: list[asyncio.Task[None]] = []
        #: Whether an error of theirs was raised.
        self._told = False

    def start(self) -> None:
        # What waits is left of a run whose loop was closed under it, and Redis holds it for that run.
        self._drop_waiting()
        layer = self._layer
        # redis-py gives up an answer after 5 seconds, for which consumers' own receive() has Redis wait as well.
        timeout = ReceiveTimeout(layer.brpop_timeout + 5)
        layer.hosts[:] = [{"socket_timeout": timeout, **host} for host in layer.hosts]
        loop = asyncio.get_running_loop()
        self._shards = [
            Shard(self._server, layer, self._dispatcher, describe_host(host), partial(layer.create_pool, index))
            for index, host in enumerate(layer.hosts)
        ]
        self._tasks = [loop.create_task(shard.run()) for shard in self._shards]

    async def started(self) -> None:
        waiting = {shard.started for shard in self._shards}
        while waiting:
            done, _ = await asyncio.wait({*waiting, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in self._tasks:
                if task.done():
                    self._told = True
                    task.result()
            waiting -= done

    async def ended(self) -> None:
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        self._told = True
        for task in done:
            task.result()

    def changed(self, line: Line) -> None:
        for shard in self._shards:
            shard.attend(shard.intakes[line])

    def stop_fetching(self) -> None:
        for shard in self._shards:
            shard.stop()

    async def close(self, seconds: float) -> None:
        for shard in self._shards:
            shard.close(seconds)
        done, late = await asyncio.wait(self._tasks, timeout=seconds + GRACE)
        errors = [error for task in done if (error := task.exception()) is not None]
        for error in errors[1:] if self._told else errors:
            logger.error("%s", error)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=GRACE)
            logger.warning("Redis did not answer within %g s; another worker puts back what was not begun", seconds)
        for shard in self._shards:
            shard.tell_of_rest()
        self._drop_waiting()

    def _drop_waiting(self) -> None:
        for line in self._dispatcher.lines.values():
            line.drop_all()

    def stats(self) -> dict[str, int]:
        names = ("put_back", "taken_over", "reconnects")
        return {name: sum(shard.counts[name] for shard in self._shards) for name in names}


def describe_host(host: dict[str, Any]) -> str:
    """Return where a Redis is, as the layer's configuration says, without passwords."""
    if "address" in host:
        parts = urlsplit(str(host["address"]))
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    if "sentinels" in host:
        return f"sentinel {host.get('master_name')!r}"
    return str(host.get("path") or f"{host.get('host', 'localhost')}:{host.get('port', 6379)}")
