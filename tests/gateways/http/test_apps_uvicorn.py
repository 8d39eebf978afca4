"""The HTTP gateway as uvicorn's protocol, with a real application and real clients."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import importlib
import os
import random
import re
import signal
import subprocess
import sys
import threading

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from support import apps_starlette
from support.app_probe import Probe
from support.loops import PATIENCE
from support.real_clients import NO_TLS, program, tool
from support.serving import environment, in_time

DATA = random.Random(6).randbytes(2_000_000)
SHA256 = hashlib.sha256(DATA).hexdigest()

pytestmark = [pytest.mark.usefixtures("quiet"), pytest.mark.few_combinations]


@pytest.fixture
def probe(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(DATA)
    return Probe(path)


@contextlib.asynccontextmanager
async def under_uvicorn(cy, application, **options):
    """A uvicorn server with our protocol in this loop; gives its address as host:port."""
    protocol = importlib.import_module(f"{cy.__name__}.gateways.uvicorn").Protocol
    # Its first choice for WebSockets imports a part of `websockets` that is deprecated.
    options = {"log_config": None, "ws": "websockets-sansio", "port": 0, **options}
    server = uvicorn.Server(uvicorn.Config(application, http=protocol, **options))
    # serve() without the signal handlers, which the tests' own process keeps.
    running = asyncio.create_task(server._serve())
    await in_time(lambda: server.started or running.done())
    try:
        host, port = server.servers[0].sockets[0].getsockname()
        yield f"{host}:{port}"
        assert not running.done()
    finally:
        server.should_exit = True
        await running
    assert not server.server_state.connections
    assert not server.server_state.tasks


@contextlib.asynccontextmanager
async def client(address):
    options = {"limits": httpx.Limits(max_connections=1), "timeout": PATIENCE / 2}
    async with httpx.AsyncClient(base_url=f"http://{address}", verify=NO_TLS, trust_env=False, **options) as one:
        yield one


@pytest.mark.slow
def test_pages_streams_and_uploads(cy, run, probe):
    """All that the gateway does of itself, by one connection."""

    async def main():
        async with under_uvicorn(cy, apps_starlette.build(probe)) as address, client(address) as http:
            response = await http.get("/page")
            assert (response.text, response.headers["server"]) == ("Grüße, Welt", "uvicorn")
            assert (await http.get("/stream")).text == "one\ntwo\nthree\n"
            assert (await http.get("/file")).content == DATA
            assert (await http.head("/file")).headers["content-length"] == str(len(DATA))
            assert (await http.post("/raw", content=DATA)).json() == {"size": len(DATA), "sha256": SHA256}
            form = {"files": {"file": ("name", DATA)}, "data": {"note": "x"}}
            assert (await http.post("/form", **form)).json()["sha256"] == SHA256
            assert (await http.get("/nothing")).status_code == 204
            assert (await http.get("/redirect", follow_redirects=True)).text == "Grüße, Welt"
            assert (await http.get("/background")).text == "later"
            await in_time(lambda: "background" in probe.events)

    run(main())


@pytest.mark.slow
def test_error(cy, run, probe, caplog):
    """500, told once on uvicorn's logger, and the connection goes on."""

    async def main():
        async with under_uvicorn(cy, apps_starlette.build(probe)) as address, client(address) as http:
            assert (await http.get("/error")).status_code == 500
            assert (await http.get("/page")).status_code == 200
        (record,) = [one for one in caplog.records if one.exc_info]
        assert (record.name, record.getMessage()) == ("uvicorn.error", "Exception in ASGI application\n")
        record.exc_info = None
        gc.collect()

    run(main())


@pytest.mark.slow
def test_client_that_leaves(cy, run, probe, monkeypatch):
    """The stream ends, and nobody complains."""
    monkeypatch.setattr(importlib.import_module(f"{cy.__name__}.gateways.http.connection"), "HALF_CLOSED", 0.1)

    async def parts():
        yield b"begun"
        await asyncio.get_running_loop().create_future()

    async def main():
        probe.parts = parts
        async with under_uvicorn(cy, apps_starlette.build(probe)) as address:
            async with client(address) as http, http.stream("GET", "/stream") as response:
                async for _ in response.aiter_raw():
                    break
            await in_time(lambda: probe.events == ["stream closed"])

    run(main())


@pytest.mark.slow
def test_lifespan(cy, run):
    """uvicorn runs the lifespan, and requests have its state."""
    events = []

    @contextlib.asynccontextmanager
    async def lifespan(app):
        events.append("start")
        yield {"greeting": "hello"}
        events.append("stop")

    async def page(request):
        return PlainTextResponse(request.state.greeting)

    async def main():
        application = Starlette(routes=[Route("/", page)], lifespan=lifespan)
        async with under_uvicorn(cy, application) as address, client(address) as http:
            assert (await http.get("/")).text == "hello"
            assert events == ["start"]
        assert events == ["start", "stop"]

    run(main())


@pytest.mark.slow
def test_socket(cy, run, probe):
    """A request for a WebSocket is handed on to uvicorn's own protocol for them."""

    async def main():
        async with under_uvicorn(cy, apps_starlette.build(probe)) as address, client(address) as http:
            assert (await http.get("/page")).status_code == 200
            async with connect(f"ws://{address}/ws/echo", proxy=None) as socket:
                for message in ("Grüße", bytes(100_000)):
                    await socket.send(message)
                    assert await socket.recv() == message
            await in_time(lambda: probe.events == ["closed 1000"])
            async with connect(
                f"ws://{address}/ws/rooms/a?user=b", additional_headers={"Cookie": "session=c"}
            ) as socket:
                assert '"user":"b"' in await socket.recv()
                with pytest.raises(ConnectionClosed):
                    await socket.recv()
                assert socket.close_code == 4001

    run(main())


APPLICATION = """
import asyncio

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body = b""
    more = True
    while more:
        message = await receive()
        body += message["body"]
        more = message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%d bytes" % len(body)})
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM")
def test_command(cy, tmp_path):
    """uvicorn's command with our protocol, in a process of its own: it serves curl, and ends by SIGTERM in order."""
    (tmp_path / "application.py").write_text(APPLICATION)
    process = subprocess.Popen(
        [
            *(sys.executable, "-W", "error", "-m", "uvicorn", "application:app"),
            *("--http", "cyasgi.gateways.uvicorn:Protocol", "--ws", "none", "--port", "0"),
        ],
        cwd=tmp_path,
        env=environment(CYASGI_BACKEND=cy.backend),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        # A command that does not come up shall not hold the test for ever.
        alarm = threading.Timer(PATIENCE, process.kill)
        alarm.start()
        try:
            lines = []
            for line in process.stderr:
                lines.append(line)
                if found := re.search(r"running on (http://\S+)", line):
                    break
            assert lines and found, lines
            url = found[1]
            done = asyncio.run(program(tool("curl"), "-q", "-sSi", "--data-binary", "@-", url, data=DATA))
            assert done.stdout.endswith(b"\r\n\r\n2000000 bytes"), done
            assert b"\r\nserver: uvicorn\r\n" in done.stdout
            process.send_signal(signal.SIGTERM)
            output, complaints = process.communicate(timeout=PATIENCE / 2)
        finally:
            alarm.cancel()
            process.kill()
    assert '"POST / HTTP/1.1" 200' in output
    assert "Finished server process" in complaints
    assert process.returncode in (0, -signal.SIGTERM)
    assert "Traceback" not in complaints, os.linesep.join(lines)
