"""join(received=True): until the application has received and finished all, without a word of its own."""

from __future__ import annotations

import asyncio

import pytest

from support.instances import make, silent
from support.loops import passes
from support.serving import eventually


def test_nobody_calls_task_done(cy, run):
    async def main():
        seen = []

        async def application(scope, receive, send):
            while True:
                message = await receive()
                await passes(3)
                seen.append(message)

        server = silent(cy, application)
        instance = make(server)
        for number in range(3):
            instance.put_nowait(number)
        await instance.join(received=True)
        assert seen == [0, 1, 2]
        await instance.join(received=True)
        server.delete_application_instance("id")

    run(main())


def test_several_wait(cy, run):
    async def main():
        server = silent(cy)
        instance = make(server)
        waiting = [asyncio.create_task(instance.join(received=True)) for _ in range(3)]
        waiting[1].cancel()
        instance.put_nowait("one")
        done, _ = await asyncio.wait(waiting)
        assert [task.cancelled() for task in waiting] == [False, True, False]
        assert len(done) == 3
        server.delete_application_instance("id")

    run(main())


@pytest.mark.parametrize("message", ["return", "fail", "busy"])
def test_the_end_is_enough(cy, run, message):
    """An instance that has ended receives nothing more: who waits goes on when the rest was handed to the hook."""

    async def main():
        server = silent(cy)
        instance = make(server)
        instance.put_nowait(message)
        instance.put_nowait("left")
        waiting = asyncio.create_task(instance.join(received=True))
        await passes(5)
        assert not waiting.done()
        server.delete_application_instance("id")
        await waiting
        assert instance.ended
        await instance.join(received=True)

    run(main())


def test_task_done_is_another_matter(cy, run):
    async def main():
        server = silent(cy)
        instance = make(server)
        instance.put_nowait("one")
        joining = asyncio.create_task(instance.join())
        await instance.join(received=True)
        await passes(3)
        assert not joining.done()
        instance.task_done()
        await joining
        server.delete_application_instance("id")

    run(main())


def test_many_that_give_up_leave_nothing(cy, run):
    async def main():
        server = silent(cy)
        instance = make(server)
        instance.put_nowait("busy")
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(instance.join(received=True), 0.001)
        server.delete_application_instance("id")
        await eventually(lambda: instance.ended)

    run(main())
