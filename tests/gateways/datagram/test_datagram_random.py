"""The same datagrams to a server on each twin: the same answers in the same order, the same failures and counters."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import example, given, strategies as st

from support.loops import passes
from support.property_model import effort
from support.serving import eventually
from support.udp import Client, server_of, serving_datagrams

pytestmark = pytest.mark.slow

CLIENTS = 4
#: What a datagram has the application do. More come to one client in one go than its queue holds.
WHAT = st.sampled_from(
    [
        b"echo",
        b"echo",
        b"",
        b"two",
        b"many",
        b"sleep",
        b"task",
        b"raise",
        b"return",
        b"cancel",
        b"cancel, sleep",
        b"long",
    ]
)
GOES = st.lists(st.lists(st.tuples(st.integers(0, CLIENTS - 1), WHAT), min_size=1, max_size=30), max_size=8)


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Does what each datagram says, and sends it back."""
    count = 0
    while True:
        data = (await receive())["data"]
        count += 1
        if data == b"raise":
            raise ValueError("on purpose")
        if data == b"return":
            return
        if data.startswith(b"cancel"):
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        if data.endswith(b"sleep"):
            await asyncio.sleep(0)
        if data == b"task":
            await asyncio.create_task(asyncio.sleep(0))
        for _ in range({b"two": 2, b"many": 40}.get(data, 1)):
            await send({"type": "datagram.send", "data": b"%d %s" % (count, data)})
        if data == b"":
            await send({"type": "datagram.send", "data": b""})


def answers(client: Client) -> list[bytes]:
    """What has come to the client by now."""
    found = []
    while True:
        try:
            found.append(client.socket.recv(100))
        except BlockingIOError:
            return found


async def history(cy: Any, gos: list[list[tuple[int, bytes]]]) -> list[Any]:
    """What comes of the datagrams on one twin, after each go."""
    told: list[Any] = []
    overrides = {
        "max_queue_size": 5,
        "max_datagram_size": 20,
        "application_exception": lambda self, error, details: told.append(repr(error)),
        "application_undelivered": lambda self, messages, details: told.extend(one["data"] for one in messages),
        "application_ended": lambda self, details, reason: told.append(reason),
    }
    server = server_of(cy, application, CLIENTS - 1, **overrides)
    after = []
    sent = 0
    async with serving_datagrams(server) as (address,):
        some = [Client(address) for _ in range(CLIENTS)]
        names = {client.address: number for number, client in enumerate(some)}
        for go in gos:
            for number, data in go:
                some[number].send(bytes(100) if data == b"long" else data)
            sent += len(go)
            await eventually(lambda: server.stats()["datagrams_received"] == sent)  # noqa: B023
            await passes(12)
            there = [names[scope_id] for scope_id in server.application_instances]
            after.append(([answers(client) for client in some], there, server.stats(), sorted(map(str, told))))
        for client in some:
            client.close()
    return after


@effort(40)
@given(gos=GOES)
@example([[(0, b"echo")], [(0, b"cancel")], [(0, b"echo")]])
@example([[(0, b"echo")], [(0, b"two"), (1, b"echo"), (2, b"echo"), (3, b"echo")], [(0, b"echo")]])
def check_agreement(run: Any, twins: list[Any], gos: list[list[tuple[int, bytes]]]) -> None:
    one, other = [run(history(cy, gos)) for cy in twins]
    assert one == other


def test_the_twins_agree(run: Any, twins: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    """Whatever clients send in one go, and whatever comes of it in the applications."""
    caplog.set_level("CRITICAL", "cyasgi")
    check_agreement(run, twins)
