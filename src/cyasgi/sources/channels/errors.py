"""What may be wrong with a channel layer, and with a message."""

from __future__ import annotations


class LayerError(OSError):
    """The channel layer cannot be reached, or refuses us; the message says in one line what was wrong."""

    def __init__(self, message: str) -> None:
        super().__init__(message)


class Refused(Exception):
    """A message that no application can be given; the message of the error says why."""
