"""What stands between a server of channels and its application: it sees when the application asks for a message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..._types import Application, Receive, Scope, Send
from ...asgi_compat import as_single_callable
from ...core.context import current_instance
from .lines import Slot


class FedApplication:
    """The application of a server of channels, which is called in place of `application`."""

    def __init__(
        self,
        application: Any,
        slot_of: Callable[[Any], Slot | None],
        asked: Callable[[Slot], None],
        ended: Callable[[Slot, BaseException | None], None],
    ) -> None:
        #: The application itself.
        self.application = application
        self._single: Application | None = None
        self._slot_of = slot_of
        self._asked = asked
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        if self._single is None:
            self._single = as_single_callable(self.application)
        instance = current_instance()
        slot_of, asked = self._slot_of, self._asked

        def receive_next() -> Any:
            slot = slot_of(instance)
            if slot is not None:
                asked(slot)
            return receive()

        error: BaseException | None = None
        try:
            return await self._single(scope, receive_next, send)
        except BaseException as raised:
            error = raised
            raise
        finally:
            slot = slot_of(instance)
            if slot is not None:
                self._ended(slot, error)
            # This frame is part of the traceback, which the task keeps.
            del error, slot
