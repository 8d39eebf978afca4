"""What a server of channels asks of whatever brings its messages."""

from __future__ import annotations

from typing import Protocol

from .lines import Line


class Engine(Protocol):
    """Brings the messages of one run of a server to its dispatcher."""

    def start(self) -> None:
        """Begin to fetch, in tasks of the current context."""

    async def started(self) -> None:
        """Return when the layer was reached.

        Raises:
            LayerError: it could not be reached.
        """

    async def ended(self) -> None:
        """Wait for an error that ends the server, and raise it."""

    def changed(self, line: Line) -> None:
        """Take note that a line has taken a message, or can take one."""

    def stop_fetching(self) -> None:
        """Fetch no more, and begin to give back what no application was given."""

    async def close(self, seconds: float) -> None:
        """End, within this time, when all of that is given back."""

    def stats(self) -> dict[str, int]:
        """Return counters."""
