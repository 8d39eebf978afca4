"""Exit codes of the command, and its errors."""

from __future__ import annotations

import sys

FAILED, MISUSED, INTERRUPTED = 1, 2, 130


class CommandError(Exception):
    """An error that is reported in one line; `code` is the exit code of the command."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


def tell(message: str) -> None:
    """Write a line to standard error."""
    print("cyasgi:", " ".join(message.split()), file=sys.stderr)
