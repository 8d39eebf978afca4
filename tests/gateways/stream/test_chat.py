"""The bundled chat: rooms, names, and what people must not do to each other."""

from __future__ import annotations

import importlib

from support.serving import in_time
from support.streams import Client, server_of, serving


def chat_of(cy):
    return importlib.import_module(f"{cy.__name__}.examples").Chat()


def test_chat(cy, run, quiet):
    async def main():
        chat = chat_of(cy)
        server = server_of(cy, chat)
        async with serving(server) as address:
            async with Client(address) as ann, Client(address) as bob:
                assert (await ann.line()).startswith(b"Hello guest1.")
                assert (await bob.line()).startswith(b"Hello guest2.")
                assert await ann.line() == b"* guest2 has come\n"
                assert await ann.ask(b"/nick ann\n/who\n") == b"* in lobby: ann, guest2\n"
                assert await bob.line() == b"* guest1 is now ann\n"
                ann.send(b"hi all\n")
                assert await bob.line() == b"ann: hi all\n"
                # Nobody else's terminal is to obey.
                assert await ann.ask(b"\x1b[2Jclear\n/help\n") == b"* there is /nick NAME, /join ROOM, /who and /quit\n"
                assert await bob.line() == b"ann: [2Jclear\n"
                bob.send(b"/join garden\n/who\n")
                assert await bob.line() == b"* in garden: guest2\n"
                assert await ann.line() == b"* guest2 has left for garden\n"
                ann.send(b"/join garden\n")
                assert await bob.line() == b"* ann has come\n"
                bob.send(b"/quit\n")
                assert await bob.rest() == b""
                assert await ann.line() == b"* guest2 has gone\n"
                server.stop()
                assert await ann.rest() == b"* the server stops: goodbye\n"
            await in_time(lambda: not chat._rooms)

    run(main())


def test_somebody_who_does_not_read(cy, run):
    """The others are told that not everybody hears them, and are not held up."""

    async def main():
        server = server_of(cy, chat_of(cy), max_pushed=5)
        async with serving(server) as address, Client(address) as deaf, Client(address) as ann:
            await deaf.line()
            deaf.writer.transport.pause_reading()
            await ann.line()
            text = b"x" * 60_000
            answered = b""
            for _ in range(1000):
                ann.send(text + b"\n/who\n")
                answered = await ann.line()
                if answered.startswith(b"* 1 did not"):
                    break
            assert answered == b"* 1 did not hear that\n"
            deaf.abort()

    run(main())
