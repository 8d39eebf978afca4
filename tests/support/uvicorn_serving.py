"""An application served by uvicorn, with cyasgi's class as its HTTP protocol."""

from __future__ import annotations

import asyncio
import contextlib
import importlib

import pytest

from support.serving import in_time

uvicorn = pytest.importorskip("uvicorn")


def protocol(cy):
    return importlib.import_module(f"{cy.__name__}.gateways.uvicorn").Protocol


@contextlib.asynccontextmanager
async def under_uvicorn(cy, application, **options):
    """A uvicorn server with our protocol; gives it and its address."""
    options = {"host": "127.0.0.1", "port": 0, "log_config": None, "lifespan": "off", "ws": "none", **options}
    options.setdefault("http", protocol(cy))
    server = uvicorn.Server(uvicorn.Config(application, **options))
    running = asyncio.create_task(server._serve())
    await in_time(lambda: server.started or running.done())
    try:
        yield server, server.servers[0].sockets[0].getsockname()
    finally:
        server.should_exit = True
        await running
