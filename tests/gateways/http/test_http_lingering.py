"""A request that is refused before it has come: the answer reaches a client that writes before it reads."""

from __future__ import annotations

import asyncio
import http.client
import importlib

import pytest

from support.certificates import write_certificates
from support.http_connection import http as http_of, serving
from support.loops import PATIENCE
from support.streams import contexts_of

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n"


async def refuses(scope, receive, send):
    """Answers without having read the body."""
    await send({"type": "http.response.start", "status": 403, "headers": []})
    await send({"type": "http.response.body", "body": b"no"})


def server_of(cy, monkeypatch, ssl=None, **constants):
    protocol = importlib.import_module(f"{cy.__name__}.gateways.http.connection")
    for name, value in constants.items():
        monkeypatch.setattr(protocol, name, value)
    settings = {"lifespan": "off", "max_body_size": 1000}
    return type("Server", (http_of(cy).HTTPServer,), settings)(refuses, binds="127.0.0.1:0", ssl=ssl)


async def send_on(writer, seconds, part=b"x" * 1000):
    """Sends a part now and then, for so long; gives whether the connection was kept."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + seconds
    try:
        while loop.time() < ends:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.02)
    except ConnectionError:
        return False
    return True


@pytest.mark.slow
def test_the_answer_waits_while_bytes_come(cy, run, monkeypatch):
    """Several times as long as a silent client is given."""

    async def main():
        async with serving(server_of(cy, monkeypatch, LINGER=0.1)) as (address,):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(HEAD)
            assert await send_on(writer, 0.6)
            assert (await reader.read()).startswith(b"HTTP/1.1 413 ")
            writer.close()

    run(main())


@pytest.mark.slow
def test_a_silent_client_is_not_waited_for(cy, run, monkeypatch):
    async def main():
        server = server_of(cy, monkeypatch, LINGER=0.1)
        async with serving(server) as (address,):
            _, writer = await asyncio.open_connection(*address)
            writer.write(HEAD)
            async with asyncio.timeout(PATIENCE / 2):
                while not server.connections_total or server.connections:
                    await asyncio.sleep(0.01)
            writer.close()

    run(main())


@pytest.mark.slow
@pytest.mark.parametrize("constants", [{"LINGER_TIME": 0.3}, {"LINGER_BYTES": 10_000}], ids=["time", "bytes"])
def test_a_client_that_never_stops_is_cut(cy, run, monkeypatch, constants):
    """There is a bound to the time, and one to the bytes."""

    async def main():
        async with serving(server_of(cy, monkeypatch, LINGER=0.1, **constants)) as (address,):
            _, writer = await asyncio.open_connection(*address)
            writer.write(HEAD)
            assert not await send_on(writer, PATIENCE / 2)
            writer.close()

    run(main())


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("size", [100_000, 30_000_000])
def test_a_client_that_writes_first(cy, run, monkeypatch, tmp_path, size, tls):
    """Python's own one sends the whole body before it looks for an answer."""
    served = trusting = None
    if tls:
        write_certificates(tmp_path)
        served, trusting = contexts_of(tmp_path)

    def upload(address):
        if tls:
            connection = http.client.HTTPSConnection(*address, timeout=PATIENCE / 2, context=trusting)
        else:
            connection = http.client.HTTPConnection(*address, timeout=PATIENCE / 2)
        connection.request("POST", "/", body=bytes(size))
        response = connection.getresponse()
        connection.close()
        return response.status

    async def main():
        async with serving(server_of(cy, monkeypatch, served)) as (address,):
            assert await asyncio.to_thread(upload, address) == 413

    run(main())
