"""What the command ends with, and how it tells."""

from __future__ import annotations

import sys

FAILED, MISUSED, INTERRUPTED = 1, 2, 130


class CommandError(Exception):
    """To be told in one line; `code` is what the command exits with."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


def tell(message: str) -> None:
    """Writes a line on the standard error."""
    print("cyasgi:", " ".join(message.split()), file=sys.stderr)
