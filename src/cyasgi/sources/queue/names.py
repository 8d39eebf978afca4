"""What names of queues and exchanges may be, as values of settings."""

from __future__ import annotations

from typing import Any

from ..._settings import Bound
from ...wire.queue import MOST_NAME, check_name


class ReplyExchange(Bound):
    """The name of an exchange."""

    def __init__(self) -> None:
        super().__init__(f"a str of 1 to {MOST_NAME} bytes", f"a name of 1 to {MOST_NAME} bytes", "no exchange")

    def wrong(self, value: Any) -> type[Exception] | None:
        try:
            check_name(value, "name", least=1)
        except (TypeError, ValueError) as error:
            return type(error)
        return None

    def read(self, text: str) -> str:
        return text
