"""For tests with real applications and clients: an HTTP server at work, httpx clients, and programs of the system."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import shutil
import ssl
import subprocess
import sys

import httpx
import pytest

from support.loops import PATIENCE
from support.serving import in_time

#: Made once: httpx reads all certificates of the system for each client that is not given one.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def gateway(cy):
    """The module of the HTTP gateway that belongs to this twin."""
    return importlib.import_module(f"{cy.__name__}.gateways.http")


@contextlib.asynccontextmanager
async def serving(cy, application, *, binds=("127.0.0.1", 0), tls=None, max_applications=1000, **settings):
    """A server with these settings at work in this loop; it must go on until it is stopped, and leave nothing."""
    before = asyncio.all_tasks()
    server_class = type("Server", (gateway(cy).HTTPServer,), settings)
    server = server_class(application, max_applications, binds=binds, ssl=tls)
    server.bind()
    running = asyncio.create_task(server.arun())
    try:
        await in_time(lambda: server.serving or running.done())
        async with asyncio.timeout(PATIENCE / 2):
            yield server
        assert not running.done(), f"the server ended: {running!r}"
    finally:
        server.stop()
        await running
    assert not server.application_instances
    assert not server.connections
    await in_time(lambda: asyncio.all_tasks() <= before)


def url(server, path="", scheme="http"):
    """The URL of a path on the first of the server's addresses."""
    host, port = server.addresses[0]
    return f"{scheme}://{host}:{port}{path}"


@contextlib.asynccontextmanager
async def client(server, **options):
    """An httpx client of the server that keeps one connection at most."""
    options = {"limits": httpx.Limits(max_connections=1), "timeout": PATIENCE / 2, **options}
    async with httpx.AsyncClient(base_url=url(server), verify=NO_TLS, trust_env=False, **options) as one:
        yield one


def tool(*names):
    """The path of the first of these programs that is there; without any of them the test is skipped, or fails in CI.

    CI has them on Linux alone.
    """
    for name in names:
        found = shutil.which(name)
        if found:
            return found
    assert not (os.environ.get("CI") == "true" and sys.platform == "linux"), f"none of {names} is there"
    pytest.skip(f"{names[0]} is not installed")


async def program(*arguments, data=None):
    """Runs a program beside the loop; gives the completed process, with what it wrote as bytes."""
    return await asyncio.to_thread(
        subprocess.run, arguments, input=data, capture_output=True, timeout=PATIENCE / 2, check=False
    )
