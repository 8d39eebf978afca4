"""Messages between the supervising process and a worker, whatever the other side does."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest

from cyasgi.workers.channel import MAX_MESSAGE, MAX_WAITING, Channel
from support.loops import PATIENCE
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


def test_the_last_words_of_who_has_ended(run, pair):
    """What was sent before the end is handled at once, if it is asked for."""

    async def main():
        got, ended = [], []
        channel = Channel(pair[0], lambda: ended.append(True))
        channel.handlers["one"] = lambda message: got.append(message["value"])
        other = Channel(pair[1], lambda: None)
        values = ["x" * 30_000] * 5
        for value in values:
            assert other.send("one", value=value)
        other.close()
        channel.read_rest()
        assert got == values and ended == [True]
        channel.read_rest()

    run(main())


def test_what_waits_at_the_end(run, pair):
    """More than the system takes at once is sent before the channel is closed."""
    received = []

    def read():
        while data := pair[0].recv(65_536):
            received.append(data)

    async def main():
        channel = Channel(pair[1], lambda: None)
        for _ in range(20):
            assert channel.send("one", value="x" * 60_000)
        reader.start()
        channel.finish(PATIENCE)
        assert not channel.open

    reader = threading.Thread(target=read)
    run(main())
    reader.join()
    assert [len(line) for line in b"".join(received).splitlines()] == [
        len('{"kind": "one", "value": ""}') + 60_000
    ] * 20


def test_who_goes_on_for_ever(run, pair):
    """Another process may have the other end: what is read of it at a time is bounded."""

    async def main():
        got = []
        channel = Channel(pair[0], lambda: None)

        def more(message):
            got.append(message)
            pair[1].send(b'{"kind": "more"}\n')

        channel.handlers["more"] = more
        pair[1].send(b'{"kind": "more"}\n')
        channel.read_rest()
        assert 1 < len(got) < 1000
        channel.close()

    run(main())


def test_last_words_to_who_does_not_read(run, pair):
    """They are given up after a while."""

    async def main():
        channel = Channel(pair[0], lambda: None)
        while channel.send("x", value="x" * 100_000):
            pass
        channel.finish(0.01)
        assert not channel.open

    run(main())
