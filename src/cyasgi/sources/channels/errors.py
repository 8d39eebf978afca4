"""What may be wrong with a channel layer, and with a message."""

from __future__ import annotations


class LayerError(OSError):
    """The channel layer cannot be reached, or refuses us; the message says in one line what was wrong."""

    def __init__(self, message: str) -> None:
        super().__init__(message)


class Refused(Exception):
    """A message that no application can be given; the message of the error says why."""


def unreadable(error: BaseException) -> str:
    """Return, in one line, why a message is refused that cannot be decoded."""
    # Not its repr: that of a UnicodeDecodeError has the whole message in it.
    return f"it cannot be read: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
