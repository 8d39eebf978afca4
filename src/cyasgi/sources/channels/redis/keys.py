"""The names of the keys of a layer in Redis."""

from __future__ import annotations


class Keys:
    """The names of what a worker uses in Redis, for a layer's prefix and the id of the worker.

    No channel and no group has such a name: a channel's name has no colon, and a group's key begins with
    ``<prefix>:group:``.
    """

    def __init__(self, prefix: str, worker: str) -> None:
        self.prefix = prefix
        self.worker = worker
        self.own = f"{prefix}:cyasgi:"
        self.workers = f"{self.own}workers"
        self.gone = f"{self.own}gone:{worker}"
        self.heads = f"{self.own}worker:{worker}"

    def queue(self, channel: str) -> str:
        return self.prefix + channel

    def held(self, channel: str) -> str:
        return f"{self.own}held:{self.worker}:{channel}"

    def refused(self, channel: str) -> str:
        return f"{self.own}refused:{channel}"
