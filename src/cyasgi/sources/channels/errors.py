"""What may be wrong with a channel layer, and with a message."""

from __future__ import annotations

import sys

#: Errors of decoding, by modules that need not be installed. No other fault of a layer raises them.
_OF_A_MESSAGE = (
    ("cryptography.fernet", "InvalidToken"),
    ("json", "JSONDecodeError"),
    ("msgpack.exceptions", "ExtraData"),
    ("msgpack.exceptions", "UnpackException"),
    ("pickle", "UnpicklingError"),
    ("zlib", "error"),
)


class LayerError(OSError):
    """The channel layer cannot be reached, or refuses us; the message says in one line what was wrong."""

    def __init__(self, message: str) -> None:
        super().__init__(message)


class Refused(Exception):
    """A message that no application can be given; the message of the error says why."""


def is_of_message(error: Exception) -> bool:
    """Return whether an error means that one message cannot be decoded, and can mean nothing else."""
    if isinstance(error, (RecursionError, UnicodeDecodeError)):
        return True
    known = (getattr(sys.modules.get(module), name, None) for module, name in _OF_A_MESSAGE)
    return any(isinstance(error, one) for one in known if one is not None)


def unreadable(error: BaseException) -> str:
    """Return, in one line, why a message is refused that cannot be decoded."""
    # Not its repr: that of a UnicodeDecodeError has the whole message in it.
    text = " ".join(str(error).split())[:200]
    return f"it cannot be read: {type(error).__name__}{text and ': '}{text}"
