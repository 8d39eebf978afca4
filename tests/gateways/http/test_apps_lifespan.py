"""The lifespan of real applications: started before the first request, stopped after the last, with state between."""

from __future__ import annotations

import asyncio
import contextlib
import importlib

import pytest
from fastapi import FastAPI, Request
from quart import Quart
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from websockets.asyncio.client import connect

from support import apps_django
from support.app_probe import Probe
from support.loops import PATIENCE
from support.real_clients import client, serving, url
from support.serving import in_time

pytestmark = [pytest.mark.usefixtures("quiet"), pytest.mark.few_combinations]


def around(events, error=None):
    """A lifespan as Starlette and FastAPI take it, that notes what happens; it fails with this error."""

    @contextlib.asynccontextmanager
    async def lifespan(app):
        await asyncio.sleep(0)
        events.append("start")
        if error is not None:
            raise error
        yield {"greeting": "hello", "seen": []}
        await asyncio.sleep(0)
        events.append("stop")

    return lifespan


def starlette(events, error=None):
    async def page(request):
        request.state.seen.append("page")
        request.state.own = "not for others"
        return PlainTextResponse(f"{request.state.greeting} {len(request.state.seen)}")

    async def socket(socket):
        await socket.accept()
        assert not hasattr(socket.state, "own")
        await socket.send_text(f"{socket.state.greeting} {len(socket.state.seen)}")
        await socket.close()

    routes = [Route("/page", page), WebSocketRoute("/socket", socket)]
    return Starlette(routes=routes, lifespan=around(events, error))


def fastapi(events, error=None):
    app = FastAPI(lifespan=around(events, error))

    @app.get("/page", response_class=PlainTextResponse)
    async def page(request: Request):
        request.state.seen.append("page")
        return f"{request.state.greeting} {len(request.state.seen)}"

    return app


def quart(events, error=None):
    app = Quart(__name__)
    seen = []

    @app.before_serving
    async def start():
        events.append("start")
        if error is not None:
            raise error

    @app.after_serving
    async def stop():
        events.append("stop")

    @app.get("/page")
    async def page():
        seen.append("page")
        return f"hello {len(seen)}"

    return app


BUILDERS = (starlette, fastapi, quart)


@pytest.fixture(params=BUILDERS, ids=lambda builder: builder.__name__)
def build(request):
    return request.param


@pytest.mark.slow
def test_start_state_and_stop(cy, run, build):
    """Started once before the first request; what it keeps is every request's; stopped once at the end."""
    events = []

    async def main():
        async with serving(cy, build(events)) as server, client(server) as http:
            assert events == ["start"]
            for number in range(1, 4):
                assert (await http.get("/page")).text == f"hello {number}"
            assert events == ["start"]
        assert events == ["start", "stop"]

    run(main())


def test_sockets_have_the_state_too(cy, run):
    """Each request and each socket has a copy: what one writes into its own is not seen by others."""

    async def main():
        async with serving(cy, starlette([])) as server, client(server) as http:
            assert (await http.get("/page")).text == "hello 1"
            async with connect(url(server, "/socket", "ws"), proxy=None) as socket:
                assert await socket.recv() == "hello 1"

    run(main())


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_failing_to_start(cy, run, build, caplog, mode):
    """The server does not serve, and says why; it listens no more."""
    gateway = importlib.import_module(f"{cy.__name__}.gateways.http")
    lifespan = importlib.import_module(f"{cy.__name__}.gateways.lifespan")
    events = []

    async def main():
        server = gateway.HTTPServer(build(events, RuntimeError("no database")), binds=("127.0.0.1", 0))
        server.lifespan = mode
        with pytest.raises(lifespan.LifespanError, match="no database"):
            await asyncio.wait_for(server.arun(), PATIENCE / 2)
        assert events == ["start"]
        assert server.addresses == []

    run(main())


def test_requests_end_before_it_stops(cy, run):
    """A request at work when the server is stopped still finds what the lifespan opened."""
    events = []
    begun = asyncio.Event()
    gate = asyncio.Event()

    async def slow(request):
        begun.set()
        await gate.wait()
        events.append("answered")
        return PlainTextResponse(request.state.greeting)

    async def main():
        app = Starlette(routes=[Route("/slow", slow)], lifespan=around(events))
        server = importlib.import_module(f"{cy.__name__}.gateways.http").HTTPServer(app, binds=("127.0.0.1", 0))
        server.bind()
        running = asyncio.create_task(server.arun())
        await in_time(lambda: server.serving)
        async with client(server) as http:
            asking = asyncio.create_task(http.get("/slow"))
            await begun.wait()
            server.stop()
            await in_time(lambda: not server.serving)
            assert events == ["start"]
            gate.set()
            response = await asking
            assert (response.text, response.headers["connection"]) == ("hello", "close")
            await running
            assert events == ["start", "answered", "stop"]

    run(main())


@pytest.mark.parametrize("mode", ["auto", "off"])
def test_django_has_none(cy, run, tmp_path, mode):
    """Django knows no lifespan: it is served all the same, and nobody is told of an error."""

    async def main():
        application = apps_django.build(Probe(tmp_path / "none"))
        async with serving(cy, application, lifespan=mode) as server, client(server) as http:
            assert (await http.get("/thread")).text == "from a thread"

    run(main())


def test_django_with_lifespan_on(cy, run, tmp_path):
    """With "on" it is an error that an application has none."""
    gateway = importlib.import_module(f"{cy.__name__}.gateways.http")
    lifespan = importlib.import_module(f"{cy.__name__}.gateways.lifespan")

    async def main():
        server = gateway.HTTPServer(apps_django.build(Probe(tmp_path / "none")), binds=("127.0.0.1", 0))
        server.lifespan = "on"
        with pytest.raises(lifespan.LifespanError, match="takes no part"):
            await asyncio.wait_for(server.arun(), PATIENCE / 2)

    run(main())
