"""A server that keeps what its hooks see of messages in flight, and an application that does what messages say."""

from __future__ import annotations

import asyncio

from support.serving import quiet


def telling(cls):
    """A server that keeps what its hooks see of messages in flight."""

    class Server(quiet(cls)):
        def __init__(self, application, max_applications=1000):
            super().__init__(application, max_applications)
            self.told = []

        def application_undelivered(self, messages, details):
            self.told.append(("undelivered", messages, details.in_flight))

        def application_exception(self, exception, details):
            self.told.append(("exception", exception.args, details.in_flight))

        def application_ended(self, details, reason):
            self.told.append(("ended", reason, details.in_flight))

    return Server


async def obeying(scope, receive, send):
    """An application that does what its messages say, and works on what it does not know for ever."""
    while True:
        match message := await receive():
            case "next":
                continue
            case "return":
                return
            case "fail":
                raise LookupError("failed")
            case "cancel":
                raise asyncio.CancelledError
            case _:
                await asyncio.get_running_loop().create_future()
        del message
