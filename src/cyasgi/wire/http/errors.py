"""The error of a request that is malformed, or not served."""

from __future__ import annotations


class HTTPError(Exception):
    """A malformed request, or one that is not served: `status` is the answer, after which the connection is closed."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
