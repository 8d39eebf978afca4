"""Retries: a run that failed before it sent anything is repeated on another application, with all that it had read."""

from __future__ import annotations

import asyncio
import logging

import pytest

from cyasgi.balancing import LoadBalancer
from support.balancing import CUSTOM, DATAGRAM, EMPTY, HTTP, POST, WEBSOCKET, Client, answering, ask, failing, tallies
from support.loops import passes

PUT = {**HTTP, "method": "PUT"}
CONNECT = {"type": "websocket.connect"}


def part(body, more_body=True):
    return {"type": "http.request", "body": body, "more_body": more_body}


class Reading:
    """An application that reads so many messages, then fails; or reads a whole request and sends its body back."""

    def __init__(self, count=None, spoil=False):
        self.count = count
        self.spoil = spoil
        self.seen = []

    async def __call__(self, scope, receive, send):
        while len(self.seen) != self.count:
            message = await receive()
            self.seen.append(dict(message))
            if self.spoil:
                message.clear()
            elif not message.get("more_body"):
                break
        if self.count is not None:
            raise ZeroDivisionError("it failed")
        await answering("".join(message["body"].decode() for message in self.seen))(scope, receive, send)


@pytest.mark.slow
def test_repeated_on_another(caplog):
    """The client notices nothing; the failure is logged with its traceback, and counted."""

    async def main():
        balancer = LoadBalancer({"a": failing(), "b": answering("b")})
        assert (await ask(balancer)).status == (200, b"b")
        assert tallies(balancer) == {"a": (0, 0, 1, 0), "b": (0, 1, 0, 0)}
        assert balancer.stats()["retried"] == 1

    with caplog.at_level(logging.WARNING, "cyasgi.balancing"):
        asyncio.run(main())
    (record,) = caplog.records
    assert (
        "application 'a' failed (ZeroDivisionError('it failed')) before it sent anything; asking 'b'" in record.message
    )
    assert record.exc_info[0] is ZeroDivisionError


def test_no_answer_is_repeated(caplog):
    """An application that returns without an answer is as one that fails."""

    async def silent(scope, receive, send):
        pass

    async def main():
        balancer = LoadBalancer({"a": silent, "b": answering("b")})
        assert (await ask(balancer)).status == (200, b"b")
        assert tallies(balancer)["a"] == (0, 0, 1, 0)

    with caplog.at_level(logging.WARNING, "cyasgi.balancing"):
        asyncio.run(main())
    assert "application 'a' failed (no answer) before it sent anything; asking 'b'" in caplog.text


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("spoil", [False, True])
def test_what_was_read_is_read_again(count, spoil):
    """The next application reads the request from its beginning, whatever the first one made of the messages."""

    async def main():
        first, second = Reading(count, spoil), Reading()
        balancer = LoadBalancer([first, second])
        client = await ask(balancer, PUT, part(b"a"), part(b"b"), part(b"c"), part(b"d", False))
        assert client.status == (200, b"abcd")
        assert first.seen == second.seen[:count]

    asyncio.run(main())


def test_a_third_one_reads_it_too():
    """Whoever comes next reads all, whichever of those before had read it first."""

    async def main():
        balancer = LoadBalancer([Reading(1), Reading(3, spoil=True), Reading(2), Reading()], max_attempts=4)
        client = await ask(balancer, PUT, part(b"a"), part(b"b"), part(b"c"), part(b"d", False))
        assert client.status == (200, b"abcd")
        assert balancer.stats()["retried"] == 3

    asyncio.run(main())


@pytest.mark.parametrize(("limit", "repeated"), [(2 * 256 + 200 + 2 * 12, True), (2 * 256 + 200 + 2 * 12 - 1, False)])
def test_bound_of_what_is_kept(limit, repeated):
    """More than max_replay bytes are not kept, and then the run is not repeated: a body is never passed on in part."""

    async def main():
        second = Reading()
        balancer = LoadBalancer([Reading(2), second], max_replay=limit)
        client = Client(part(b"a" * 100), part(b"b" * 100), part(b"c", False))
        if repeated:
            await balancer(PUT, client.receive, client.send)
            assert client.status == (200, b"a" * 100 + b"b" * 100 + b"c")
        else:
            with pytest.raises(ZeroDivisionError):
                await balancer(PUT, client.receive, client.send)
            assert second.seen == []

    asyncio.run(main())


def test_bound_of_all_that_is_kept():
    """What is kept for all runs together is bounded too, and given back when they end or begin to answer."""

    async def main():
        balancer = LoadBalancer([Reading(1), Reading()], max_replay_total=2 * (256 + len("http.request")) + 100)
        budget = balancer._budget
        waiting = [Client(part(b"")) for _ in range(3)]
        tasks = [asyncio.create_task(balancer(PUT, client.receive, client.send)) for client in waiting]
        await passes(3)
        # The first run of the first failed, and was repeated; the second and third wait for more of the body.
        assert 0 < budget.used <= budget.total
        client = Client(part(b"x" * 200, False))
        with pytest.raises(ZeroDivisionError):
            await LoadBalancer([Reading(1), Reading()], max_replay_total=100)(PUT, client.receive, client.send)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert budget.used == 0
        assert (await ask(balancer, PUT, part(b"", False))).status[0] == 200
        assert budget.used == 0

    asyncio.run(main())


@pytest.mark.parametrize("scope", [PUT, POST], ids=["answered", "not repeatable"])
def test_kept_for_no_longer_than_needed(run, scope):
    """Nothing is kept of what will not be read again: it was answered, may not be repeated, or there is nobody else."""

    async def main():
        go = asyncio.Event()

        async def application(scope, receive, send):
            await receive()
            if scope["method"] == "PUT":
                await send({"type": "http.response.start", "status": 200, "headers": []})
            await go.wait()

        for applications in ([application, application], [application]):
            balancer = LoadBalancer(applications)
            client = Client(part(b"x" * 1000))
            task = asyncio.create_task(balancer(scope, client.receive, client.send))
            await passes(3)
            assert not client.messages and balancer._budget.used == 0
            task.cancel()
            await asyncio.wait([task])

    run(main())


def test_nothing_kept():
    """With max_replay=0 a run is repeated only if it has read nothing."""

    async def main():
        balancer = LoadBalancer([failing(), answering("b"), Reading(1), answering("d")], max_replay=0)
        assert (await ask(balancer, HTTP, EMPTY)).status == (200, b"b")
        with pytest.raises(ZeroDivisionError):
            await ask(balancer, HTTP, EMPTY)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("scope", "reads", "repeated"),
    [
        *[({**HTTP, "method": method}, 1, True) for method in ("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE")],
        *[({**HTTP, "method": method}, 0, False) for method in ("POST", "PATCH", "CONNECT", "get", "")],
        (WEBSOCKET, 1, True),
        (DATAGRAM, 1, True),
        (CUSTOM, 0, True),
        (CUSTOM, 1, False),
        ({}, 0, True),
        ({}, 1, False),
    ],
    ids=lambda value: f"{value.get('type')} {value.get('method')}" if isinstance(value, dict) else str(value),
)
def test_what_may_be_repeated(scope, reads, repeated):
    """Idempotent requests, handshakes, datagrams; of what is not known, only what nobody has read."""

    async def main():
        calls = []

        async def application(scope, receive, send):
            calls.append(await receive() if reads else None)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await ask(LoadBalancer([application] * 3), scope, {"type": "any"})
        assert calls == ([{"type": "any"} if reads else None] * (2 if repeated else 1))

    asyncio.run(main())


def test_own_methods():
    """The methods that may be repeated can be chosen."""

    async def main():
        balancer = LoadBalancer([failing(), answering("b")], retry_methods=["POST"])
        assert (await ask(balancer, POST)).status == (200, b"b")
        with pytest.raises(ZeroDivisionError):
            await ask(balancer, HTTP)

    asyncio.run(main())


def test_own_rule():
    """may_retry() may say otherwise, by the scope and whether anything was read."""

    class Balancer(LoadBalancer):
        def may_retry(self, scope, has_read):
            return scope["safe"]

    async def main():
        for safe in (True, False):
            balancer = Balancer([Reading(1), Reading()])
            client = Client(EMPTY)
            try:
                await balancer({**POST, "safe": safe}, client.receive, client.send)
            except ZeroDivisionError:
                assert not safe
            assert bool(client.sent) is safe

    asyncio.run(main())


SENT = [
    (HTTP, {"type": "http.response.start", "status": 200, "headers": []}),
    (HTTP, {"type": "http.response.push", "path": "/style.css", "headers": []}),
    (WEBSOCKET, {"type": "websocket.accept"}),
    (DATAGRAM, {"type": "datagram.send", "data": b""}),
    (CUSTOM, None),
]


@pytest.mark.parametrize(("scope", "message"), SENT, ids=[scope["type"] for scope, _ in SENT])
@pytest.mark.parametrize("refused", [False, True], ids=["sent", "refused"])
def test_not_once_anything_was_sent(scope, message, refused):
    """After the first message, even one that the server refused, nobody else is asked; it is a failure all the same."""

    async def main():
        async def send(message):
            if refused:
                raise ValueError("no such message")

        balancer = LoadBalancer([failing(after=[message]), answering("b")])
        with pytest.raises(ValueError if refused else ZeroDivisionError):
            await balancer(scope, Client().receive, send)
        assert tallies(balancer) == {"0": (0, 0, 1, 0), "1": (0, 0, 0, 0)}

    asyncio.run(main())


def test_the_last_failure_is_raised():
    """When all that may be asked have failed, the server learns what the last one raised."""

    async def main():
        balancer = LoadBalancer([failing(KeyError(number)) for number in range(4)], max_attempts=3)
        with pytest.raises(KeyError, match="2") as caught:
            await ask(balancer)
        assert caught.value.__context__ is None
        balancer = LoadBalancer([failing()], max_attempts=3)
        with pytest.raises(ZeroDivisionError):
            await ask(balancer)
        assert balancer.stats()["retried"] == 0

    asyncio.run(main())


def test_only_those_that_are_well_are_asked():
    """A retry goes to none whose circuit breaker is open."""

    async def main():
        balancer = LoadBalancer([failing(), failing(), answering("c")], failure_threshold=1, failure_window=1)
        with pytest.raises(ZeroDivisionError):
            await ask(balancer)
        assert [(await ask(balancer)).status for _ in range(2)] == [(200, b"c")] * 2
        assert balancer.stats()["refused"] == 0

    asyncio.run(main())


def test_not_while_the_failed_run_still_reads(run):
    """A reader that outlives the run would take a message from the next one: then nobody is asked."""

    async def main():
        readers = []

        async def leaking(scope, receive, send):
            readers.append(asyncio.create_task(receive()))
            await passes(2)
            raise ZeroDivisionError

        balancer = LoadBalancer([leaking, answering("b")])
        with pytest.raises(ZeroDivisionError):
            await ask(balancer)
        readers[0].cancel()
        await asyncio.wait(readers)

    run(main())


def test_what_outlives_a_failed_run_disturbs_nobody():
    """Tasks of an application that was replaced can neither read nor send any more."""

    async def main():
        kept = []

        async def leaking(scope, receive, send):
            kept.extend((receive, send))
            raise ZeroDivisionError

        client = await ask(LoadBalancer([leaking, Reading()]), HTTP, EMPTY)
        assert client.status == (200, b"")
        receive, send = kept
        for call in (receive(), send({"type": "http.response.body"})):
            with pytest.raises(RuntimeError, match="another application serves the scope"):
                await call
        assert len(client.sent) == 2

    asyncio.run(main())


def test_scopes_are_copies():
    """What an application does to its scope is not seen by the next one, nor by the server."""

    async def main():
        async def meddling(scope, receive, send):
            scope["state"]["user"] = "nobody"
            scope.clear()
            raise ZeroDivisionError

        seen = []

        async def noting(scope, receive, send):
            seen.append(scope)
            await answering("b")(scope, receive, send)

        scope = {**HTTP, "state": {"server": 1}}
        await ask(LoadBalancer([meddling, noting]), scope)
        assert seen == [scope] == [{**HTTP, "state": {"server": 1}}]
        assert seen[0] is not scope

    asyncio.run(main())


def test_a_client_that_has_gone_is_nobodys_failure():
    """What an application raises after its client has gone counts for nothing and is not repeated."""

    async def reading(scope, receive, send):
        await receive()
        raise ZeroDivisionError

    async def sending(scope, receive, send):
        try:
            await answering("a")(scope, receive, send)
        except OSError:
            raise ZeroDivisionError from None

    async def main():
        for scope, application, client in (
            (HTTP, reading, Client({"type": "http.disconnect"})),
            (WEBSOCKET, reading, Client({"type": "websocket.disconnect", "code": 1006})),
            (HTTP, reading, Client(then=ConnectionError())),
            (HTTP, sending, Client(breaks_at=1)),
            (HTTP, sending, Client(breaks_at=2)),
        ):
            balancer = LoadBalancer([application, answering("b")])
            with pytest.raises((ZeroDivisionError, ConnectionError)):
                await balancer(scope, client.receive, client.send)
            assert tallies(balancer) == {"0": (0, 0, 0, 1), "1": (0, 0, 0, 0)}

    asyncio.run(main())


def test_leaving_with_the_client_is_no_failure():
    """An application that returns without an answer because its client has gone has not failed."""

    async def main():
        async def waiting(scope, receive, send):
            while (await receive())["type"] != "http.disconnect":
                pass

        balancer = LoadBalancer([waiting, answering("b")])
        client = await ask(balancer, HTTP, EMPTY, {"type": "http.disconnect"})
        assert client.sent == []
        assert tallies(balancer) == {"0": (0, 0, 0, 1), "1": (0, 0, 0, 0)}

    asyncio.run(main())
