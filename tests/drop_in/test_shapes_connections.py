"""Servers of connections as the documented API shows them, for several clients at a time: HTTP and WebSocket. They
use it as it is documented: awaited calls, `instance["application"]`."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys

import pytest

from support.loops import PATIENCE
from support.serving import in_time

try:
    from websockets.asyncio.client import connect
    from websockets.asyncio.server import serve
except ImportError:  # before version 13
    from websockets.client import connect
    from websockets.server import serve
from websockets.exceptions import ConnectionClosed

from support.shapes import running


@pytest.fixture(autouse=True)
def _cancelled_connections(run):
    """asyncio up to 3.12.1 asks the task of a connection for its exception though it was cancelled, and complains."""
    yield
    if sys.version_info < (3, 12, 3):
        run.complaints[:] = [
            context
            for context in run.complaints
            if not ("StreamReaderProtocol" in context["message"] and "exception" in context)
            or not isinstance(context["exception"], asyncio.CancelledError)
        ]


# ---- HTTP ----------------------------------------------------------------------------------------------------------


def http_server(cy, application, **attributes):
    """One instance for each connection; the caller runs the application, once for each request on it."""

    class HTTPServer(cy.StatelessServer):
        def __init__(self, application, max_applications=1000):
            super().__init__(application, max_applications)
            self.address = asyncio.get_running_loop().create_future()
            self.told = []

        async def handle(self):
            listener = await asyncio.start_server(self.handle_connection, "127.0.0.1", 0)
            self.address.set_result(listener.sockets[0].getsockname())
            await listener.serve_forever()

        async def handle_connection(self, reader, writer):
            scope_id = "{}:{}".format(*writer.get_extra_info("peername"))
            instance = None
            try:
                while line := await reader.readline():
                    method, target, _ = line.decode("ascii").split()
                    headers = []
                    while (line := await reader.readline()) not in (b"", b"\r\n"):
                        name, _, value = line.partition(b":")
                        headers.append((name.strip().lower(), value.strip()))
                    body = await reader.readexactly(int(dict(headers).get(b"content-length", 0)))
                    scope = {"type": "http", "method": method, "path": target, "headers": headers}
                    if instance is None:
                        instance = await self.get_or_create_application_instance(scope_id, scope)
                    instance["scope"] = scope
                    await self.answer(instance, body, writer)
            except cy.InstanceDeleted:
                self.told.append(scope_id)
            except Exception as error:
                await self.application_exception(error, instance)
            finally:
                await self.delete_application_instance(scope_id)
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()

        async def answer(self, instance, body, writer):
            messages = iter([{"type": "http.request", "body": body}, {"type": "http.disconnect"}])

            async def receive():
                return next(messages)

            async def send(message):
                await self.application_send({"writer": writer}, message)

            await instance["application"](instance["scope"], receive, send)

        async def application_send(self, scope, message):
            writer = scope["writer"]
            if message["type"] == "http.response.start":
                writer.write(b"HTTP/1.1 %d \r\n" % message["status"])
                for header in message["headers"]:
                    writer.write(b"%b: %b\r\n" % header)
                writer.write(b"\r\n")
            else:
                writer.write(message["body"])
                await writer.drain()

        async def application_exception(self, exception, application_details):
            self.told.append((str(exception), application_details["scope"]["path"]))

    for name, value in attributes.items():
        setattr(HTTPServer, name, value)
    return HTTPServer(application, attributes.get("limit", 1000))


async def mirror(scope, receive, send):
    """Answers with method, path and body; fails for /fail, and for /wait waits until it is cancelled."""
    message = await receive()
    if scope["path"] == "/fail":
        raise RuntimeError("on purpose")
    if scope["path"] == "/wait":
        await asyncio.get_running_loop().create_future()
    body = f"{scope['method']} {scope['path']} ".encode() + message["body"]
    await asyncio.sleep(0)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


class Browser:
    """An HTTP client on one connection."""

    @classmethod
    async def open(cls, server):
        self = cls()
        self.reader, self.writer = await asyncio.open_connection(*await server.address)
        return self

    def ask(self, target, body=b"", method="POST"):
        head = f"{method} {target} HTTP/1.1\r\nHost: example\r\nContent-Length: {len(body)}\r\n\r\n"
        self.writer.write(head.encode() + body)

    async def answer(self):
        async with asyncio.timeout(PATIENCE / 2):
            head = await self.reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            return await self.reader.readexactly(int(head.rpartition(b"content-length:")[2]))

    async def ended(self):
        """Whether the server has closed the connection, without a word more."""
        async with asyncio.timeout(PATIENCE / 2):
            return await self.reader.read() == b""

    async def close(self):
        self.writer.close()
        await self.writer.wait_closed()


@pytest.mark.slow
def test_http(cy, run):
    """HTTP: many connections at a time, many requests on each, by one instance each, which ends with its connection."""

    async def main():
        server = http_server(cy, mirror)
        async with running(server):

            async def one_client(number):
                browser = await Browser.open(server)
                for request in range(10):
                    body = b"%d" % request * number
                    browser.ask(f"/{number}", body)
                    assert await browser.answer() == b"POST /%d " % number + body
                await browser.close()

            await asyncio.gather(*map(one_client, range(20)))
            await in_time(lambda: not server.application_instances)
        stats = server.stats()
        assert (stats["created"], stats["finished"], stats["failed"], stats["cancelled"]) == (20, 200, 0, 0)

    run(main())


def test_http_pipelined(cy, run):
    """HTTP: requests that come before the answers to those before are answered in order."""

    async def main():
        server = http_server(cy, mirror)
        async with running(server):
            browser = await Browser.open(server)
            for number in range(10):
                browser.ask(f"/{number}", method="GET")
            assert [await browser.answer() for _ in range(10)] == [b"GET /%d " % number for number in range(10)]
            await browser.close()

    run(main())


def test_http_application_fails(cy, run):
    """HTTP: an application that fails raises in its caller, who reports it with the instance; others are served."""

    async def main():
        server = http_server(cy, mirror)
        async with running(server):
            failing, other = await Browser.open(server), await Browser.open(server)
            other.ask("/other")
            await other.answer()
            failing.ask("/fail")
            assert await failing.ended()
            other.ask("/other")
            assert await other.answer() == b"POST /other "
            await failing.close()
            await other.close()
        assert server.told == [("on purpose", "/fail")]
        assert server.stats()["failed"] == 1

    run(main())


def test_http_at_the_limit(cy, run):
    """HTTP: at the limit the request least recently begun gives way: its caller hears of it, and closes."""

    async def main():
        server = http_server(cy, mirror, limit=2)
        async with running(server):
            browsers = [await Browser.open(server) for _ in range(3)]
            for count, browser in enumerate(browsers):
                browser.ask("/wait")
                await in_time(lambda count=count: server.stats()["created"] == count + 1)
            assert await browsers[0].ended()
            assert len(server.application_instances) == 2
            for browser in browsers:
                await browser.close()
        assert len(server.told) == 3
        assert (server.stats()["evicted"], server.stats()["cancelled"]) == (1, 3)

    run(main())


# ---- WebSocket -----------------------------------------------------------------------------------------------------


def close_code(connection):
    """The code a connection was closed with, in every version of the library."""
    return connection.protocol.close_code if hasattr(connection, "protocol") else connection.close_code


def websocket_server(cy, application):
    """One instance for each socket, run beside the connection's handler; handle() returns once it listens."""

    class WebSocketServer(cy.StatelessServer):
        def __init__(self, application, max_applications=1000):
            super().__init__(application, max_applications)
            self.address = asyncio.get_running_loop().create_future()
            self.numbers = itertools.count()

        async def handle(self):
            self.listener = await serve(self.handle_websocket, "127.0.0.1", 0)
            self.address.set_result("ws://{}:{}/".format(*self.listener.sockets[0].getsockname()))

        async def handle_websocket(self, websocket):
            scope_id = next(self.numbers)
            scope = {"type": "websocket", "socket": websocket}
            instance = await self.get_or_create_application_instance(scope_id, scope)

            async def send(message):
                await self.application_send(scope, message)

            application = asyncio.create_task(instance["application"](scope, instance.get, send))
            try:
                instance.put_nowait({"type": "websocket.connect"})
                try:
                    async for message in websocket:
                        key = "text" if isinstance(message, str) else "bytes"
                        await instance.put({"type": "websocket.receive", key: message})
                except ConnectionClosed:
                    pass
                finally:
                    instance.put_nowait({"type": "websocket.disconnect", "code": close_code(websocket)})
                await application
            finally:
                application.cancel()
                await self.delete_application_instance(scope_id)

        async def application_send(self, scope, message):
            if message["type"] == "websocket.send":
                await scope["socket"].send(message.get("text", message.get("bytes")))
            elif message["type"] == "websocket.close":
                await scope["socket"].close(message["code"])

    return WebSocketServer(application)


def repeating(codes):
    """An echo that closes when told to, and appends the codes of its ends to a list."""

    async def application(scope, receive, send):
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] != "websocket.disconnect":
            if message.get("text") == "close":
                await send({"type": "websocket.close", "code": 4321})
            else:
                await send({**message, "type": "websocket.send"})
        codes.append(message["code"])

    return application


@pytest.mark.slow
def test_websocket(cy, run):
    """WebSocket: sockets at the same time, text and bytes; an orderly end reaches the application, which returns."""

    async def main():
        codes = []
        server = websocket_server(cy, repeating(codes))
        async with running(server):
            address = await server.address

            async def one_client(number):
                async with connect(address) as client:
                    for count in range(20):
                        data = f"{number}.{count}"
                        await client.send(data)
                        assert await client.recv() == data
                        await client.send(data.encode())
                        assert await client.recv() == data.encode()

            await asyncio.gather(*map(one_client, range(10)))
            await in_time(lambda: not server.application_instances)
            assert codes == [1000] * 10
        assert (server.stats()["created"], server.stats()["finished"]) == (10, 10)

    run(main())


def test_websocket_closed_by_the_application(cy, run):
    """WebSocket: an application may close its socket, with a code of its own."""

    async def main():
        codes = []
        server = websocket_server(cy, repeating(codes))
        async with running(server), connect(await server.address) as client:
            await client.send("close")
            with pytest.raises(ConnectionClosed):
                await client.recv()
            assert close_code(client) == 4321
            await in_time(lambda: not server.application_instances)
        assert codes == [4321]

    run(main())


@pytest.mark.slow
def test_websocket_listener_keeps_the_server_going(cy, run):
    """WebSocket: handle() has returned, the server goes on until its listener is closed, and then ends by itself."""

    async def main():
        codes = []
        server = websocket_server(cy, repeating(codes))
        task = asyncio.create_task(server.arun())
        async with connect(await server.address) as client:
            await client.send("x")
            assert await client.recv() == "x"
        await in_time(lambda: codes == [1000])
        assert not task.done()
        server.listener.close()
        await asyncio.wait_for(task, PATIENCE / 2)
        assert not server.application_instances

    run(main())
