"""LimitExceeded: what a server raises in place of returning an instance, and gateways tell the client."""

from __future__ import annotations

from collections.abc import Hashable


class LimitExceeded(Exception):
    """Raised by `get_or_create_application_instance` of a `ManagedServer` when a limit has been reached.

    The caller should drop the message that it had for the instance, or tell its sender to come back later.

    Attributes:
        key: what `limit_key` returned; None if the limit is for all keys together.
        limit: "instances" (the key has `max_instances_per_key`), "messages" (it sends more than
            `max_messages_per_second`) or "hooks" (hooks of too many instances are still to be called).
        retry_after: seconds after which the same message would be accepted, if no other comes before; None if that
            cannot be known.
    """

    def __init__(self, message: str, key: Hashable, limit: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.key = key
        self.limit = limit
        self.retry_after = retry_after
