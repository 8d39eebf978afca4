"""What Starlette and FastAPI do behind a response: middleware, background tasks, dependencies; with clients that stay
and clients that leave."""

from __future__ import annotations

import asyncio
import contextlib
import gc

import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from support.real_clients import client, serving
from support.serving import in_time

pytestmark = [pytest.mark.usefixtures("quiet"), pytest.mark.few_combinations]


class Adding(BaseHTTPMiddleware):
    """The middleware that most applications write: it takes the response of the application inside and sends it on."""

    async def dispatch(self, request, call_next):
        response = await call_next(request)
        response.headers["x-added"] = "yes"
        return response


@contextlib.asynccontextmanager
async def leaving(server, path, begun):
    """A client that has asked, and leaves at the end of the block; `begun` is set when the application is at work."""
    reader, writer = await asyncio.open_connection(*server.addresses[0])
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await begun.wait()
    yield reader
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


@pytest.mark.slow
@pytest.mark.parametrize("middleware", [(), (Middleware(Adding),), (Middleware(Adding), Middleware(GZipMiddleware))])
def test_middleware(cy, run, middleware):
    """Pages, streams and bodies through middleware."""

    async def page(request):
        return PlainTextResponse((await request.body()) * 1000)

    async def stream(request):
        async def parts():
            for number in range(100):
                yield f"{number} " * 100

        return StreamingResponse(parts(), media_type="text/plain")

    async def main():
        routes = [Route("/page", page, methods=["POST"]), Route("/stream", stream)]
        async with serving(cy, Starlette(routes=routes, middleware=middleware)) as server, client(server) as http:
            for _ in range(3):
                response = await http.post("/page", content=b"hello ")
                assert response.text == "hello " * 1000
                assert response.headers.get("x-added") == ("yes" if middleware else None)
                assert response.headers.get("content-encoding") == ("gzip" if len(middleware) > 1 else None)
                response = await http.get("/stream")
                assert response.text == "".join(f"{number} " * 100 for number in range(100))
            assert server.stats()["connections_total"] == 1

    run(main())


@pytest.mark.parametrize("middleware", [(), (Middleware(Adding),)])
def test_background_task_of_a_client_that_left(cy, run, middleware):
    """It runs, whether the client has waited for the response or not."""
    events = []
    begun = asyncio.Event()
    gate = asyncio.Event()

    async def background():
        await asyncio.sleep(0)
        events.append("background")

    async def page(request):
        begun.set()
        await gate.wait()
        return PlainTextResponse("late", background=BackgroundTask(background))

    async def main():
        async with serving(cy, Starlette(routes=[Route("/", page)], middleware=middleware)) as server:
            async with leaving(server, "/", begun):
                pass
            await in_time(lambda: server.stats()["connections_total"] == 1)
            gate.set()
            await in_time(lambda: events == ["background"])
            await in_time(lambda: not server.application_instances)

    run(main())


def test_dependency_of_a_client_that_left(cy, run):
    """What FastAPI opened for a request is closed as after any other: nothing is rolled back."""
    events = []
    begun = asyncio.Event()
    gate = asyncio.Event()

    async def session():
        try:
            yield "session"
        except BaseException:
            events.append("rolled back")
            raise
        else:
            events.append("committed")

    app = FastAPI()

    @app.get("/")
    async def page(session: str = Depends(session)):
        begun.set()
        await gate.wait()
        return {}

    async def main():
        async with serving(cy, app) as server:
            async with leaving(server, "/", begun):
                pass
            gate.set()
            await in_time(lambda: not server.application_instances)
            assert events == ["committed"]

    run(main())


@pytest.mark.slow
@pytest.mark.parametrize("idle", [False, True])
def test_stream_through_middleware_of_a_client_that_left(cy, run, idle):
    """It ends, whether it has something to send or not."""
    events = []
    begun = asyncio.Event()

    async def stream(request):
        async def parts():
            try:
                yield b"begun"
                begun.set()
                while True:
                    if idle:
                        await asyncio.get_running_loop().create_future()
                    await asyncio.sleep(0)
                    yield bytes(1000)
            finally:
                events.append("closed")

        return StreamingResponse(parts())

    async def main():
        application = Starlette(routes=[Route("/", stream)], middleware=[Middleware(Adding)])
        async with serving(cy, application) as server:
            async with leaving(server, "/", begun) as reader:
                assert b"begun" in await reader.readuntil(b"begun")
            await in_time(lambda: not server.application_instances)
            # Starlette leaves a generator that was not waiting to the collector.
            gc.collect()
            await in_time(lambda: events == ["closed"])

    run(main())
