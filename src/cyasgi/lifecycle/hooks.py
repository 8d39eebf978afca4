"""The hooks of a managed server: methods that its subclasses override."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._types import Scope
from ..instances.limits import LimitExceeded
from .statistics import InstanceStatistics

if TYPE_CHECKING:
    from ..core import ApplicationInstance

#: Hooks about one instance, which are called in the background.
ABOUT_INSTANCES = ("on_created", "on_expired", "on_closed")


class LifecycleHooks:
    """Hooks that do nothing; `ManagedServer` says when they are called."""

    def on_created(self, instance: ApplicationInstance) -> Any:
        """Take note of a new instance."""

    def on_expired(self, instance: ApplicationInstance, reason: str) -> Any:
        """Take note that an instance was deleted by a timeout.

        Args:
            reason: "idle" (idle for `idle_timeout`) or "age" (there for `max_age`).
        """

    def on_closed(self, instance: ApplicationInstance, statistics: InstanceStatistics) -> Any:
        """Take note that an instance has left the table and its application has ended, for whatever reason.

        If a caller calls its application again after that, `on_created` is called again.
        """

    def on_limited(self, scope: Scope, error: LimitExceeded) -> None:
        """Take note that a message or an instance was refused.

        Called at once, and only as a plain ``def``: a client that sends a million messages too many causes a million
        calls. What it raises is logged, once a second at most.
        """


def overrides_hook(server: LifecycleHooks, name: str) -> bool:
    """Return whether the server has a hook of its own under this name."""
    return name in server.__dict__ or getattr(type(server), name) is not getattr(LifecycleHooks, name)


def follows_instances(server: LifecycleHooks) -> bool:
    """Return whether any hook about instances has to be called."""
    return any(overrides_hook(server, name) for name in ABOUT_INSTANCES)
