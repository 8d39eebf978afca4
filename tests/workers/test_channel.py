"""Messages between the supervising process and a worker, whatever the other side does."""

from __future__ import annotations

import contextlib
import socket

import pytest

from cyasgi.workers.channel import MAX_MESSAGE, MAX_WAITING, Channel
from support.serving import in_time


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


def test_messages(run, pair):
    """Messages of any size arrive in order, each at the handler of its kind; unknown kinds are ignored."""

    async def main():
        got = []
        sender, receiver = (Channel(sock, lambda: got.append("end")) for sock in pair)
        receiver.handlers["one"] = lambda message: got.append(message["value"])
        values = ["", "line\nbreak", "ä" * 100_000, None, 5]
        for value in values:
            assert sender.send("other", value=value)
            assert sender.send("one", value=value)
        await in_time(lambda: len(got) == len(values))
        assert got == values
        sender.close()
        await in_time(lambda: got[-1] == "end")
        assert not receiver.open
        assert not receiver.send("one")

    run(main())


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\n",
        b"[]\n",
        b"{}\n",
        b'{"kind": 5}\n',
        b"\xff\n",
        b"[" * 100_000 + b"\n",
        b"x" * (MAX_MESSAGE + 100_000),
    ],
    ids=["text", "list", "no-kind", "number", "bytes", "deep", "long"],
)
def test_what_is_no_message(run, pair, sent):
    """The channel ends, once, and keeps no more of it than a message may have."""

    async def main():
        ended = []
        channel = Channel(pair[0], lambda: ended.append(True))
        pair[1].setblocking(False)
        left = memoryview(sent)

        def ends():
            nonlocal left
            with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
                left = left[pair[1].send(left) :] if left else left
            return ended

        await in_time(ends)
        assert ended == [True]
        assert not channel.open

    run(main())


def test_who_does_not_read(run, pair):
    """What the other side does not take waits up to a bound; more is dropped, and the sender never waits."""

    async def main():
        channel = Channel(pair[0], lambda: None)
        sent = 0
        while channel.send("x", value="x" * 100_000):
            sent += 1
            assert sent * 100_000 < 2 * MAX_WAITING
        assert not channel.send("y", value="y" * (MAX_MESSAGE + 1))
        other = Channel(pair[1], lambda: None)
        count = []
        other.handlers["x"] = count.append
        await in_time(lambda: len(count) == sent)
        assert channel.send("x")
        await in_time(lambda: len(count) == sent + 1)
        channel.close()
        other.close()

    run(main())


def test_who_has_gone(run, pair):
    """Sending to a side that is gone does nothing, and the end is told by reading."""

    async def main():
        ended = []
        channel = Channel(pair[0], lambda: ended.append(True))
        pair[1].close()
        channel.send("x")
        channel.send("x")
        await in_time(lambda: ended)
        channel.close()

    run(main())
