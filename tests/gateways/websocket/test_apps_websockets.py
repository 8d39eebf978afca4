"""WebSockets of Starlette, FastAPI, Quart and Django with Channels, and `websockets` as their client."""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import ssl
import sys

import pytest
from websockets.asyncio.client import connect, unix_connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus

from support.app_probe import Probe
from support.certificates import write_certificates
from support.loops import PATIENCE, passes
from support.real_clients import serving, url
from support.serving import in_time

FRAMEWORKS = ("starlette", "fastapi", "quart", "django")

pytestmark = [pytest.mark.usefixtures("quiet"), pytest.mark.few_combinations]


@pytest.fixture
def probe(tmp_path):
    return Probe(tmp_path / "none")


@pytest.fixture(params=FRAMEWORKS)
def application(request, probe):
    """The ASGI application of each framework in turn."""
    return importlib.import_module(f"support.apps_{request.param}").build(probe)


def only(*frameworks):
    """For these alone: the others have no such thing."""
    return pytest.mark.parametrize("application", frameworks, indirect=True)


def socket(server, path, scheme="ws", **options):
    options = {"proxy": None, "max_size": None, "open_timeout": PATIENCE / 2, **options}
    return connect(url(server, path, scheme), **options)


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["deflate", None])
def test_echo(cy, run, application, probe, compression):
    """Text, bytes and fragments, small and large, come back as they are; the end is told of."""

    async def main():
        async with serving(cy, application) as server:
            async with socket(server, "/ws/echo", compression=compression) as client:
                extensions = client.response.headers.get("Sec-WebSocket-Extensions", "")
                assert ("permessage-deflate" in extensions) == (compression is not None)
                # Quart takes an empty message of bytes for one of text.
                empty = () if type(application).__name__ == "Quart" else (b"",)
                for message in (*empty, "", "Grüße 🙂", bytes(range(256)), "x" * 500_000, bytes(500_000)):
                    await client.send(message)
                    assert await client.recv() == message
                await client.send(["in ", "three ", "parts"])
                assert await client.recv() == "in three parts"
                for number in range(100):
                    await client.send(str(number))
                assert [await client.recv() for _ in range(100)] == [str(number) for number in range(100)]
                await (await client.ping())
                assert server.stats()["websockets"] == 1
                await client.close(4002, "enough")
            await in_time(lambda: not server.application_instances)
        assert probe.events in (["closed 4002"], ["closed"])

    run(main())


def test_handshake(cy, run, application):
    """Path, query, cookies, subprotocols and headers arrive, those of the answer and the code of the end too."""

    async def main():
        async with serving(cy, application) as server:
            options = {"subprotocols": ["other", "chat"], "additional_headers": {"Cookie": "session=abc"}}
            async with socket(server, "/ws/rooms/b%C3%BCro?user=J%C3%BCrgen", **options) as client:
                assert client.subprotocol == "chat"
                assert client.response.headers["x-room"] == "open"
                assert json.loads(await client.recv()) == {
                    "room": "büro",
                    "user": "Jürgen",
                    "cookie": "abc",
                    "url": url(server, "/ws/rooms/lobby", "ws"),
                }
                with pytest.raises(ConnectionClosedError) as caught:
                    await client.recv()
                assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4001, "Schluß")

    run(main())


def test_refused(cy, run, application):
    """Closed before it was accepted: 403; what is not there: an answer too."""

    async def main():
        async with serving(cy, application) as server:
            for path in ("/ws/refuse", "/ws/missing"):
                if path == "/ws/missing" and type(application).__name__ == "ProtocolTypeRouter":
                    # Channels raises, which is answered 500.
                    continue
                with pytest.raises(InvalidStatus) as caught:
                    await socket(server, path)
                assert caught.value.response.status_code in (403, 404)
            await in_time(lambda: not server.application_instances)

    run(main())


@only("starlette", "fastapi", "quart")
def test_denied(cy, run, application):
    """Refused with a response of the application's own."""

    async def main():
        async with serving(cy, application) as server:
            with pytest.raises(InvalidStatus) as caught:
                await socket(server, "/ws/deny")
            response = caught.value.response
            assert (response.status_code, response.headers["www-authenticate"]) == (401, "Basic")
            assert b"not you" in response.body

    run(main())


def test_error(cy, run, application, caplog, quiet):
    """An error after the handshake closes with 1011, unless the framework catches it, and is logged once."""
    expected = 1000 if type(application).__name__ == "Quart" else 1011

    async def main():
        async with serving(cy, application) as server:
            async with socket(server, "/ws/error") as client:
                await client.send("x")
                with pytest.raises(ConnectionClosed) as caught:
                    await client.recv()
                assert caught.value.rcvd.code == expected
            await in_time(lambda: not server.application_instances)
        (record,) = [one for one in caplog.records if one.exc_info and one.exc_info[0] is ZeroDivisionError]
        record.exc_info = record.args = None
        gc.collect()
        quiet.append(record)

    run(main())


@pytest.mark.slow
def test_slow_client(cy, run, application, probe):
    """An application that sends faster than its client receives waits; nothing is lost."""
    sent = []

    async def parts():
        for number in range(400):
            sent.append(number)
            yield bytes([number % 256]) * 50_000

    async def main():
        probe.parts = parts
        async with serving(cy, application) as server:
            client = await socket(server, "/ws/push", max_queue=1, compression=None)
            before = -1
            while before < len(sent):
                # Until it has sent nothing for so many turns of the loop.
                before = len(sent)
                await passes(200)
            assert len(sent) < 400
            received = [message async for message in client]
            assert client.close_code == 1000
        assert received == [bytes([number % 256]) * 50_000 for number in range(400)]

    run(main())


def test_client_that_is_lost(cy, run, application, probe):
    """The application hears of it."""

    async def main():
        async with serving(cy, application) as server:
            client = await socket(server, "/ws/echo")
            await client.send("x")
            assert await client.recv() == "x"
            client.transport.abort()
            await client.wait_closed()
            await in_time(lambda: probe.events in (["closed 1006"], ["closed"]))
            await in_time(lambda: not server.application_instances)

    run(main())


def test_server_that_stops(cy, run, application, probe):
    """Sockets are closed with 1012, and the application hears of it."""

    async def main():
        async with serving(cy, application) as server:
            client = await socket(server, "/ws/echo")
            await client.send("x")
            assert await client.recv() == "x"
        with pytest.raises(ConnectionClosed) as caught:
            await client.recv()
        assert caught.value.rcvd.code == 1012
        await client.wait_closed()
        assert probe.events in (["closed 1012"], ["closed"])

    run(main())


@pytest.mark.slow
@only("starlette")
def test_many_at_once(cy, run, application):
    """Each socket has its own messages back."""

    async def main():
        async with serving(cy, application) as server:

            async def talk(number):
                async with socket(server, "/ws/echo") as client:
                    for count in range(10):
                        await client.send(f"{number} {count}")
                        assert await client.recv() == f"{number} {count}"

            await asyncio.gather(*(talk(number) for number in range(50)))

    run(main())


@only("starlette")
@pytest.mark.parametrize(
    "where",
    [
        "tls",
        pytest.param("unix", marks=pytest.mark.skipif(sys.platform == "win32", reason="no Unix sockets here")),
    ],
)
def test_elsewhere(cy, run, application, tmp_path, where):
    """The same over TLS and over a Unix socket."""
    write_certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    path = str(tmp_path / "socket")

    async def main():
        if where == "tls":
            trusted = ssl.create_default_context(cafile=tmp_path / "ca.pem")
            server_options = {"tls": context}
        else:
            server_options = {"binds": f"unix:{path}"}
        async with serving(cy, application, **server_options) as server:
            if where == "tls":
                opening = socket(server, "/ws/echo", "wss", ssl=trusted)
            else:
                opening = unix_connect(path, "ws://server/ws/echo")
            async with opening as client:
                for message in ("hello", bytes(200_000)):
                    await client.send(message)
                    assert await client.recv() == message

    run(main())
