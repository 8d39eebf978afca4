"""The ASGI applications that servers are put under load with, each at `benchmarks.applications:<name>`."""

from __future__ import annotations

from typing import Any

from benchmarks.workload import Receive, Send

ANSWER = b"Hello, world!"
PART = bytes(range(256)) * 256
PARTS = 16
#: What is posted; 100 KiB, and letters alone since it stands in a script of the load generator's.
POSTED = b"abcdefghij" * 10_240

START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}


def start(length: int) -> dict[str, Any]:
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % length)]
    return {"type": "http.response.start", "status": 200, "headers": headers}


async def answer(scope: Any, receive: Receive, send: Send) -> None:
    """Thirteen bytes, whatever was asked for."""
    await send(start(len(ANSWER)))
    await send({"type": "http.response.body", "body": ANSWER})


async def stream(scope: Any, receive: Receive, send: Send) -> None:
    """1 MiB in parts of 64 KiB."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    for _ in range(PARTS):
        await send({"type": "http.response.body", "body": PART, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def echo(scope: Any, receive: Receive, send: Send) -> None:
    """The body of the request, once all of it is there."""
    parts = []
    more = True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    body = b"".join(parts)
    await send(start(len(body)))
    await send({"type": "http.response.body", "body": body})


async def websocket(scope: Any, receive: Receive, send: Send) -> None:
    """Sends every message of a WebSocket back."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        if (data := message.get("bytes")) is not None:
            await send({"type": "websocket.send", "bytes": data})
        else:
            await send({"type": "websocket.send", "text": message["text"]})


async def lines(scope: Any, receive: Any, send: Any) -> None:
    """Sends back each line of a stream."""
    if scope["type"] != "stream":
        raise ValueError(scope["type"])
    while (message := await receive())["type"] != "stream.disconnect":
        if message["type"] == "stream.receive":
            await send({"type": "stream.send", "data": message["data"]})
