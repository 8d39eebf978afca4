"""Strictness of the HTTP gateway, byte for byte on raw sockets.

Each case of the corpus is sent whole, byte by byte, and with another request behind it, while a well-behaved client
of the same server is served. Whatever follows an ambiguous request must never be taken for another request.
"""

from __future__ import annotations

import asyncio

import pytest

from support.http_corpus_bodies import CHUNKS, CONNECTIONS, SIZES
from support.http_corpus_heads import CODINGS, HEADERS, HOSTS, LENGTHS, LINES, TARGETS, Case, get, post
from support.http_raw_client import RawClient, Recorder, raw_client, server_of, serving_http
from support.loops import PATIENCE
from support.serving import in_time

CORPUS = {
    "length": LENGTHS,
    "coding": CODINGS,
    "line": LINES,
    "target": TARGETS,
    "host": HOSTS,
    "header": HEADERS,
    "chunk": CHUNKS,
    "size": SIZES,
    "connection": CONNECTIONS,
}

AFTER = b"GET /after HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
MODES = WHOLE, TRAILING, BYTEWISE, TRAILING_BYTEWISE = "whole", "trailing", "byte by byte", "trailing, byte by byte"


async def converse(case: Case, client: RawClient, mode: str, expected: int) -> list:
    """Sends a case, and gives the final answers until the connection ends or as many as expected have come.

    Of a connection that goes on, one more request shows that both sides still agree on where requests begin.
    """
    data = case.data + AFTER if mode in (TRAILING, TRAILING_BYTEWISE) else case.data
    size = len(data) if mode in (WHOLE, TRAILING) else max(1, len(data) // 1000)
    sending = asyncio.create_task(client.send_in_pieces(data, size))
    heads = [outcome.requests for outcome in case.outcomes if outcome.open] or [()]
    answers = []
    while len(answers) < expected:
        number = len(answers)
        to_head = number < len(heads[0]) and heads[0][number][0] == "HEAD"
        answer = await client.answer(to_head=to_head)
        if answer is None:
            break
        answers.append(answer)
        if answer.closes:
            break
    ended = not answers or answers[-1].closes
    if ended:
        how, rest = await client.end()
        assert rest == b"", rest
        # Who asked for the end, and went on sending all the same, has no better one to claim (RFC 9112 section 9.6).
        assert how == "eof" or (answers and answers[-1].status == 200), "the answer could have been lost by the reset"
    await sending
    if not ended:
        last = await client.ask(LAST)
        assert last is not None and last.status == 200 and last.closes
        assert await client.end() == ("eof", b"")
    return answers


async def check(case: Case, application: Recorder, address, mode: str) -> None:
    del application.begun[:], application.requests[:], application.scopes[:]
    with_after = mode in (TRAILING, TRAILING_BYTEWISE)
    counts = [len(outcome.statuses) + (outcome.open and with_after) for outcome in case.outcomes]
    async with raw_client(address) as other, raw_client(address) as client:
        before = await other.get(b"/other")
        answers = await converse(case, client, mode, max(counts))
        after = await other.get(b"/other")
        assert (before.status, after.status) == (200, 200), "another client was not served"

    came = tuple(request for request in application.requests if request[1] not in (b"/other", b"/last"))
    statuses = tuple(answer.status for answer in answers)
    outcomes = [
        outcome._replace(statuses=(*outcome.statuses, 200), requests=(*outcome.requests, ("GET", b"/after", b"")))
        if outcome.open and with_after
        else outcome
        for outcome in case.outcomes
    ]
    got = (statuses, came, bool(answers) and not answers[-1].closes)
    assert got in [tuple(outcome) for outcome in outcomes], f"{mode}: {[answer.body for answer in answers]}"

    begun = [target for _, target in application.begun if target not in (b"/other", b"/last")]
    fits = [target for _, target, _ in came]
    if begun != fits:
        assert case.in_body and begun == [b"/"] and not fits, begun
    if case.headers is not None and 200 in statuses:
        (scope,) = [scope for scope in application.scopes if scope["raw_path"] == came[0][1]]
        assert tuple(map(tuple, scope["headers"])) == case.headers


@pytest.mark.slow
@pytest.mark.few_combinations
@pytest.mark.parametrize("group", CORPUS)
def test_corpus(cy, run, group):
    """Every case of the corpus has one of its right outcomes, however it is cut, and nobody else is affected."""
    wrong = []

    async def main():
        application = Recorder()
        server = server_of(cy, application)
        async with serving_http(server) as (address,):
            for case in CORPUS[group]:
                for mode in MODES if len(case.data) <= 1000 else MODES[:3]:
                    try:
                        async with asyncio.timeout(PATIENCE / 30):
                            await check(case, application, address, mode)
                    except (AssertionError, TimeoutError) as error:
                        wrong.append(f"{case.name}, {mode}: {error!r}")
            await in_time(lambda: not server.application_instances and not server.connections)

    run(main())
    assert not wrong, "\n".join(wrong)


def test_names_are_unique():
    """No two cases of the corpus have one name, so that none hides another."""
    for cases in CORPUS.values():
        assert len({case.name for case in cases}) == len(cases)
        assert len({case.data for case in cases}) == len(cases)


# ---- what needs a closer look --------------------------------------------------------------------------------------


@pytest.mark.few_combinations
@pytest.mark.parametrize("name", [b"X_Forwarded_For", b"x_forwarded_for", b"X-Forwarded_For"])
def test_underscores_spoof_nothing(cy, run, name):
    """A name with underscores reaches the application as it is, or not at all: never as the name with hyphens."""

    async def main():
        application = Recorder()
        async with serving_http(server_of(cy, application)) as (address,), raw_client(address) as client:
            answer = await client.get(b"/hdrs", name + b": 1.2.3.4", b"Connection: close")
        assert answer.status == 200
        (scope,) = application.scopes
        headers = [tuple(header) for header in scope["headers"]]
        assert (b"x-forwarded-for", b"1.2.3.4") not in headers
        assert [header for header in headers if header[1] == b"1.2.3.4"] in ([], [(name.lower(), b"1.2.3.4")])

    run(main())


@pytest.mark.few_combinations
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_continue_is_sent_when_the_body_is_wanted(cy, run, version):
    """100 Continue goes out once the application waits for the body, before the final answer, and to 1.1 alone."""

    async def main():
        application = Recorder()
        async with serving_http(server_of(cy, application)) as (address,), raw_client(address) as client:
            head = b"POST / HTTP/%b\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n" % version
            assert await client.send(head)
            if version == b"1.1":
                while not client.data.endswith(b"\r\n\r\n"):
                    assert await client.read_some()
                assert client.data.startswith(b"HTTP/1.1 100 ")
                assert application.requests == []
            answer = await client.ask(b"hello")
            assert client.interim == ([100] if version == b"1.1" else [])
            assert answer.status == 200
        assert application.requests == [("POST", b"/", b"hello")]

    run(main())


@pytest.mark.few_combinations
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_final_answer_in_place_of_continue(cy, run, version):
    """An application that answers without reading sends no 100; the connection cannot go on, or reads the body."""

    async def refuses(scope, receive, send):
        await send({"type": "http.response.start", "status": 403, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    async def main():
        async with serving_http(server_of(cy, refuses)) as (address,), raw_client(address) as client:
            head = b"POST / HTTP/%b\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 35\r\n\r\n" % version
            answer = await client.ask(head)
            assert (answer.status, client.interim) == (403, [])
            # The client may send the body or not; a request in its place must not be answered as one.
            await client.send(b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")
            if answer.closes:
                assert await client.end() == ("eof", b"")
            else:
                assert (await client.get()).status == 403

    run(main())


@pytest.mark.few_combinations
@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_unread_body_is_no_request(cy, run, framing):
    """A body that the application never read is not taken for the next request, whatever it looks like."""
    calls = []

    async def refuses(scope, receive, send):
        calls.append(scope["raw_path"])
        await send({"type": "http.response.start", "status": 403, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    body = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    if framing == "length":
        data = post(b"Content-Length: %d" % len(body), body=body)
    else:
        data = post(b"Transfer-Encoding: chunked", body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))

    async def main():
        async with serving_http(server_of(cy, refuses)) as (address,):
            for cut in (len(data), data.index(b"\r\n\r\n") + 4, data.index(b"GET"), len(data) - 10):
                del calls[:]
                async with raw_client(address) as client:
                    assert await client.send(data[:cut])
                    answer = await client.answer()
                    assert answer.status == 403
                    await client.send(data[cut:])
                    if answer.closes:
                        assert await client.end() == ("eof", b"")
                        assert calls == [b"/"]
                    else:
                        assert (await client.get(b"/next")).status == 403
                        assert calls == [b"/", b"/next"]

    run(main())


@pytest.mark.few_combinations
def test_a_fault_waits_for_the_answers_before_it(cy, run):
    """A refusal does not overtake the answers to the requests before it, nor cut them off."""
    release = asyncio.Event()

    async def slow(scope, receive, send):
        await release.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a" * 100_000})

    async def main():
        async with serving_http(server_of(cy, slow)) as (address,), raw_client(address) as client:
            assert await client.send(get() + b"nonsense\r\n\r\n" + AFTER)
            await asyncio.sleep(0.01)
            assert client.data == b""
            release.set()
            first, second = await client.answer(), await client.answer()
            assert (first.status, len(first.body), second.status) == (200, 100_000, 400)
            assert await client.end() == ("eof", b"")

    run(main())


@pytest.mark.few_combinations
@pytest.mark.parametrize("fault", [b"XX\r\n", b"5\r\nhelloXX"])
def test_a_fault_in_a_body_that_is_being_answered(cy, run, fault):
    """When the answer has begun, a fault in the request's body ends the connection: the answer is seen to be cut."""
    ended = []

    async def answers_first(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        while (message := await receive())["type"] != "http.disconnect":
            pass
        ended.append(message)

    async def main():
        async with serving_http(server_of(cy, answers_first)) as (address,), raw_client(address) as client:
            assert await client.send(post(b"Transfer-Encoding: chunked"))
            while not client.data.endswith(b"begun"):
                assert await client.read_some()
            await client.send(fault + b"0\r\n\r\n" + AFTER)
            _, data = await client.end()
            assert data.endswith(b"begun") and data.count(b"HTTP/1.1 ") == 1
        assert len(ended) == 1

    run(main())


# ---- responses -----------------------------------------------------------------------------------------------------

INJECTIONS = [
    pytest.param((b"x-a", b"b\r\nX-B: c"), id="CRLF in a value"),
    pytest.param((b"x-a", b"b\nX-B: c"), id="LF in a value"),
    pytest.param((b"x-a", b"b\rX-B: c"), id="CR in a value"),
    pytest.param((b"x-a", b"b\x00c"), id="NUL in a value"),
    pytest.param((b"x-a", b"b\r\n\r\n<html>"), id="a body in a value"),
    pytest.param((b"x-a", b"\r\n"), id="CRLF alone"),
    pytest.param((b"x-a\r\nx-b", b"c"), id="CRLF in a name"),
    pytest.param((b"x-a\n", b"c"), id="LF in a name"),
    pytest.param((b"x-a\x00", b"c"), id="NUL in a name"),
    pytest.param((b"x-a: b\r\nx-c", b"d"), id="a header in a name"),
    pytest.param((b"x a", b"c"), id="space in a name"),
    pytest.param((b"x:a", b"c"), id="colon in a name"),
    pytest.param((b"", b"c"), id="empty name"),
]


@pytest.mark.few_combinations
@pytest.mark.parametrize("header", INJECTIONS)
@pytest.mark.parametrize("first", [True, False], ids=["alone", "behind others"])
def test_nothing_is_injected_into_responses(cy, run, header, first):
    """A response header with CR, LF or NUL, or a name that is none, is answered with 500; nothing of it is written."""
    caught = []

    async def injects(scope, receive, send):
        if scope["path"] != "/inject":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body"})
            return
        headers = [header] if first else [(b"content-type", b"text/plain"), header, (b"x-z", b"z")]
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"secret"})
        except ValueError as error:
            caught.append(str(error))
            raise

    failed = []

    def application_exception(self, exception, details):
        failed.append(exception)

    async def main():
        server = server_of(cy, injects, application_exception=application_exception)
        async with serving_http(server) as (address,):
            async with raw_client(address) as client:
                assert await client.send(get(start=b"GET /inject HTTP/1.1"))
                answer = await client.answer()
                assert answer.status == 500
                assert not {b"x-a", b"x-b", b"x-c", b"x-z", b"content-type"} & {
                    name for name, value in answer.headers if value in (b"b", b"c", b"d", b"z", header[1])
                }
                assert b"secret" not in answer.body and b"<html>" not in answer.body
                if not answer.closes:
                    assert (await client.get()).status == 200
            async with raw_client(address) as client:
                assert (await client.get()).status == 200
        assert len(caught) == len(failed) == 1
        assert repr(header[0]) in caught[0] or repr(header[1]) in caught[0]

    run(main())


@pytest.mark.few_combinations
@pytest.mark.parametrize("status", [99, 1000, -1, 0, "200", "200 OK\r\nX-A: b", None, 200.5], ids=repr)
def test_status_is_a_number_of_three_digits(cy, run, status):
    """A status that is none is answered with 500."""

    async def wrong(scope, receive, send):
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"secret"})

    async def main():
        server = server_of(cy, wrong, application_exception=lambda self, exception, details: None)
        async with serving_http(server) as (address,), raw_client(address) as client:
            answer = await client.get()
            assert answer.status == 500
            assert answer.get(b"x-a") == b"" and b"secret" not in answer.body

    run(main())
