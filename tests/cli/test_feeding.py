"""Lines of standard input as messages: how much of them is in memory at a time."""

from __future__ import annotations

import contextlib
import importlib
import os

from support.queues import NAME, PARTITIONS, Seen, consuming, queues
from support.serving import eventually


def watched_engine(cy, most):
    class Engine(queues(cy).MemoryEngine):
        """One that tells how many messages were put, and whether a line waits for room."""

        def __init__(self):
            super().__init__(most)
            self.put_count = 0
            self.line_waits = False
            self.declare(NAME, PARTITIONS)

        def put(self, *arguments):
            super().put(*arguments)
            self.put_count += 1

        async def room(self, *arguments):
            self.line_waits = True
            await super().room(*arguments)
            self.line_waits = False

    return Engine()


@contextlib.asynccontextmanager
async def fed(cy, monkeypatch, engine, application, lines):
    """A server that works on lines, none of which fails, until all are done."""
    feeding = importlib.import_module(f"{cy.__name__}.cli.feeding")
    reading, writing = os.pipe()
    monkeypatch.setattr(feeding, "STDIN", reading)
    os.write(writing, b"".join(line + b"\n" for line in lines))
    os.close(writing)
    try:
        async with consuming(cy, engine, application) as server, feeding.fed_by_lines(server, engine):
            yield server
            await engine.join()
        assert (server.stats()["retried"], engine.dead_letters(NAME)) == (0, [])
    finally:
        os.close(reading)


def test_the_application_has_room_to_publish(cy, run, monkeypatch):
    """However many lines there are."""

    async def main():
        engine, seen = watched_engine(cy, 10), []

        async def application(scope, receive, send):
            while True:
                seen.append((await receive())["body"])
                if len(seen) == 1:
                    await eventually(lambda: engine.line_waits)
                    for _ in range(5):
                        await send({"type": "queue.publish", "scope_id": "other", "body": b"published"})

        lines = [b"%d" % number for number in range(30)]
        async with fed(cy, monkeypatch, engine, application, lines):
            await eventually(lambda: len(seen) == 35)
        assert [body for body in seen if body != b"published"] == lines

    run(main())


def test_an_engine_for_one_message(cy, run, monkeypatch):
    """Its half is not less than that."""

    async def main():
        seen = Seen()
        async with fed(cy, monkeypatch, watched_engine(cy, 1), seen, [b"one", b"two"]):
            await eventually(lambda: seen.bodies == [b"one", b"two"])

    run(main())


def test_long_lines(cy, run, monkeypatch):
    """They are counted in bytes, too, with all that belongs to them."""
    monkeypatch.setattr(importlib.import_module(f"{cy.__name__}.cli.feeding"), "MOST_WAITING", 1000)

    async def main():
        engine, seen = watched_engine(cy, 100), Seen()
        lines = [b'{"body": "hold", "headers": {"x": "%s"}}' % (b"x" * 600)] * 5
        async with fed(cy, monkeypatch, engine, seen, lines):
            await eventually(lambda: engine.line_waits)
            assert engine.put_count == 2
            seen.release.set()
            await eventually(lambda: len(seen.messages) == 5)

    run(main())
