"""Too few file descriptors: accepting rests, those who are connected are served, and the number of connections is the
system's where that is less than ours."""

from __future__ import annotations

import asyncio
import importlib
import logging
import subprocess
import sys
import textwrap

import pytest

from support.certificates import write_certificates
from support.http_raw_client import LONG, RawClient, raw_client, server_of, serving_http
from support.loops import LOOPS, PATIENCE
from support.serving import environment, in_time
from support.udp import Command

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such limit there")

VICTIM = """
    import asyncio, logging, os, socket, ssl, sys, time
    from cyasgi.gateways.http import HTTPServer

    attempts = 0
    accept = socket.socket.accept
    held = []

    def counted(self):
        global attempts
        attempts += 1
        return accept(self)

    socket.socket.accept = counted

    async def application(scope, receive, send):
        path = scope["path"]
        if path == "/fill":
            try:
                while True:
                    held.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                pass
        elif path == "/free":
            while held:
                os.close(held.pop())
        body = b"%d" % attempts
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    class Server(HTTPServer):
        lifespan = "off"
        first_byte_timeout = keep_alive_timeout = 60.0
        shutdown_timeout = 0.1

        async def handle(self):
            telling = asyncio.create_task(self.tell())
            try:
                await super().handle()
            finally:
                telling.cancel()

        async def tell(self):
            while not self.serving:
                await asyncio.sleep(0.001)
            os.write(1, b"%d\\n" % self.addresses[0][1])

    logging.basicConfig(level=logging.INFO)
    context = None
    if len(sys.argv) > 2:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*sys.argv[2:])
    server = Server(application, binds=("127.0.0.1", 0), ssl=context)
    if sys.argv[1] == "asyncio":
        asyncio.run(server.arun())
    else:
        server.run()
"""

SHORT_OF = "no further connection can be accepted for now: Too many open files; "


class Victim:
    """A server in a process of its own that may have 120 files open, and fills that at /fill."""

    def __init__(self, cy, tmp_path, loop, *files):
        script = tmp_path / "victim.py"
        script.write_text(textwrap.dedent(VICTIM), encoding="utf-8")
        command = 'ulimit -n 120; exec "$@"', "-", sys.executable, "-W", "error", str(script), loop, *files
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", *command],
            env=environment(CYASGI_BACKEND=cy.backend),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def __enter__(self):
        self.address = "127.0.0.1", int(self.process.stdout.readline())
        return self

    def end(self):
        """Ends it; gives what it has logged."""
        self.process.terminate()
        return self.process.communicate(timeout=PATIENCE)[1].decode().splitlines()

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
def test_no_descriptor_is_left(cy, tmp_path, loop):
    """A line a second at most, hardly any attempt to accept, answers to those who are connected; then it goes on."""

    async def main(address):
        async with raw_client(address) as connected:
            assert (await connected.get(b"/fill")).status == 200
            others = [await RawClient(address).connect() for _ in range(30)]
            before = int((await connected.get(b"/")).body)
            for _ in range(25):
                await asyncio.sleep(0.1)
                assert (await connected.get(b"/")).status == 200
            attempts = int((await connected.get(b"/")).body) - before
            assert (await connected.get(b"/free")).status == 200
            if loop == "asyncio":
                # They have waited in the system's queue.
                assert [(await other.get(b"/")).status for other in others] == [200] * 30
            for other in others:
                other.close()
            async with raw_client(address) as another:
                assert (await another.get(b"/")).status == 200
        return attempts

    with Victim(cy, tmp_path, loop) as victim:
        attempts = asyncio.run(asyncio.wait_for(main(victim.address), PATIENCE / 2))
        lines = victim.end()
    assert attempts <= 6
    told = [line for line in lines if SHORT_OF in line]
    assert 2 <= len(told) <= 5, lines
    assert told[0].endswith("; 1 is open")
    assert len(lines) <= 10, lines


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
def test_no_descriptor_is_left_with_tls(cy, tmp_path, loop):
    """The same where a connection waits for its handshake."""
    write_certificates(tmp_path)

    async def main(address):
        clients = [await RawClient(address).connect() for _ in range(200)]
        await asyncio.sleep(2.5)
        for client in clients:
            client.close()

    with Victim(cy, tmp_path, loop, str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")) as victim:
        asyncio.run(asyncio.wait_for(main(victim.address), PATIENCE / 2))
        lines = victim.end()
    assert len(lines) <= 10, lines
    assert not [line for line in lines if "Traceback" in line]


# ---- max_connections -----------------------------------------------------------------------------------------------


def descriptors(cy):
    return importlib.import_module(f"{cy.__name__}.gateways.net.descriptors")


async def hello(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})


def test_fewer_connections_than_asked_for(cy, run, monkeypatch, caplog):
    """The limit of open files is that of connections too, for all servers together, and the start says so."""
    module = descriptors(cy)
    monkeypatch.setattr(module, "descriptor_limit", lambda: 40)
    monkeypatch.setattr(importlib.import_module(f"{cy.__name__}.gateways.net.capacity"), "descriptor_limit", lambda: 40)
    monkeypatch.setattr(module, "open_descriptors", lambda: 20)

    async def main():
        first, second = (server_of(cy, hello, **LONG) for _ in range(2))
        async with serving_http(first) as (address,), serving_http(second) as (other,):
            clients = []
            for one in (address, other, address, other):
                clients.append(await RawClient(one).connect())
                assert (await clients[-1].get(b"/")).status == 200
            for one, server in ((address, first), (other, second)):
                async with raw_client(one) as client:
                    assert (await client.answer()).status == 503
                assert server.refused == 1
            # Those that were refused are gone in a moment.
            await in_time(lambda: first.connections_left() == 0)
            clients.pop().close()
            await in_time(lambda: first.connections_left() == 1)
            async with raw_client(address) as client:
                assert (await client.get(b"/")).status == 200
            for client in clients:
                client.close()

    run(main())
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    text = "at most 4 connections are served at a time, and not max_connections=10000: the limit of open files is 40"
    assert warnings == [f"{text} (ulimit -n)"] * 2


@pytest.mark.parametrize(
    ("limit", "files", "room"), [(None, 20, None), (40, 20, 4), (1024, 20, 876), (20_000, 20, 19_724), (20, 20, 1)]
)
def test_room_for_connections(cy, monkeypatch, limit, files, room):
    """An eighth of the limit, 16 to 256, is the application's."""
    module = descriptors(cy)
    monkeypatch.setattr(module, "descriptor_limit", lambda: limit)
    monkeypatch.setattr(module, "open_descriptors", lambda: files)
    assert module.room_for_connections() == room


LIMIT_APP = """
    import resource

    async def application(scope, receive, send):
        body = b"%d" % resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})
"""


@pytest.mark.slow
@pytest.mark.parametrize("hard", [None, 200])
def test_the_command_raises_the_limit(cy, tmp_path, hard):
    """As far as it is needed and allowed; where that is too little, the start says so in one line."""
    import resource

    if hard is None and 0 <= resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 1000:
        pytest.skip("too low a limit here")
    (tmp_path / "app.py").write_text(textwrap.dedent(LIMIT_APP), encoding="utf-8")
    arguments = "--http", "127.0.0.1:0", "--max-connections", "500", "--lifespan", "off", "app:application"
    limits = "ulimit -S -n 150" + ("" if hard is None else f"; ulimit -H -n {hard}")
    prefix = "/bin/sh", "-c", limits + '; exec "$@"', "-"

    async def ask(address):
        async with raw_client(address) as client:
            return int((await client.get(b"/")).body)

    with Command("serve", *arguments, cwd=tmp_path, backend=cy.backend, prefix=prefix) as command:
        match = command.until(r"listening on http://(.+?):(\d+)$")
        limit = asyncio.run(ask((match[1], int(match[2]))))
    told = [line for line in command.lines if "connections are served at a time" in line]
    if hard is None:
        assert 500 + 256 < limit < 900
        assert told == []
    else:
        assert limit == 200
        assert len(told) == 1 and told[0].endswith("the limit of open files is 200 (ulimit -n)")
