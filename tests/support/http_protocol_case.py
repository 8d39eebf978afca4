"""One case for `HTTPProtocol`: an application that sends given messages, and a connection in memory."""

from __future__ import annotations

from support.http_connection import Connection, response

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
HELLO = response()
HEAD_200 = b"HTTP/1.1 200 OK\r\n"


def answer(body, kind=b""):
    return response(body, kind=kind)


def closing(body, kind=b"content-type: text/plain\r\n"):
    """A response after which the connection is closed."""
    return b"HTTP/1.1 200 OK\r\n%scontent-length: %d\r\nconnection: close\r\n\r\n%s" % (kind, len(body), body)


def sending(*messages, received=None):
    """An application that sends these messages, and then notes what it receives."""

    async def application(scope, receive, send):
        for message in messages:
            await send(message)
        while received is not None and {"type": "http.disconnect"} not in received:
            received.append(await receive())

    return application


def start(status=200, headers=(), **more):
    return {"type": "http.response.start", "status": status, "headers": list(headers), **more}


def part(data=b"", more=False):
    return {"type": "http.response.body", "body": data, "more_body": more}


def case(cy, run, application, test, **settings):
    """Runs a test with a connection to a server of this application."""

    async def main():
        connection = Connection(cy, application, **settings)
        try:
            await test(connection)
        finally:
            await connection.end()
        assert connection.server.stats()["undelivered"] == 0

    run(main())
