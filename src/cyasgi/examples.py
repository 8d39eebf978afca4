"""Small ASGI applications to start with.

``cyasgi serve --http 127.0.0.1:8000 cyasgi.examples:hello`` serves a page with a text field that is echoed over a
WebSocket; ``cyasgi serve --udp 127.0.0.1:9999 cyasgi.examples:echo`` and the others serve datagrams.
"""

from __future__ import annotations

import time

from ._types import Message as Message, Receive, Scope, Send


def _datagrams_only(scope: Scope) -> None:
    # The ASGI specification asks applications to raise an error for scopes that they do not know.
    if scope["type"] != "datagram":
        raise ValueError(f"this application serves datagrams only, not {scope['type']!r}")


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Send back whatever is received (RFC 862)."""
    _datagrams_only(scope)
    while True:
        message = await receive()
        await send({"type": "datagram.send", "data": message["data"]})


async def counter(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the number of datagrams from this client so far; each client has an instance of its own."""
    _datagrams_only(scope)
    count = 0
    while True:
        await receive()
        count += 1
        await send({"type": "datagram.send", "data": b"%d\n" % count})


async def daytime(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer every datagram with the time in UTC (RFC 867)."""
    _datagrams_only(scope)
    while True:
        await receive()
        await send({"type": "datagram.send", "data": time.strftime("%Y-%m-%dT%H:%M:%SZ\r\n", time.gmtime()).encode()})


async def discard(scope: Scope, receive: Receive, send: Send) -> None:
    """Receive, and never answer (RFC 863)."""
    _datagrams_only(scope)
    while True:
        await receive()


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>cyasgi</title>
<h1>Hello from cyasgi</h1>
<p><label>Say something: <input id="said" autofocus></label></p>
<p>It comes back: <output id="heard"></output></p>
<script>
  const socket = new WebSocket(location.href.replace(/^http/, "ws"));
  socket.onmessage = event => { document.getElementById("heard").textContent = event.data; };
  document.getElementById("said").oninput = event => socket.send(event.target.value);
</script>
"""


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer HTTP requests with a page, and send back what is received over a WebSocket."""
    if scope["type"] == "lifespan":
        await _live(receive, send)
    elif scope["type"] == "websocket":
        await _echo_messages(receive, send)
    elif scope["type"] == "http":
        await _answer(scope, send)
    else:
        raise ValueError(f"this application serves only HTTP and WebSockets, not {scope['type']!r}")


async def _live(receive: Receive, send: Send) -> None:
    # A real application opens its database here.
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def _echo_messages(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "bytes": message.get("bytes"), "text": message.get("text")})


async def _answer(scope: Scope, send: Send) -> None:
    allowed = scope["method"] in ("GET", "HEAD")
    body = PAGE.encode() if allowed else b"This page can only be read.\n"
    headers = [
        (b"content-type", b"text/html; charset=utf-8" if allowed else b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
    ]
    if not allowed:
        headers.append((b"allow", b"GET, HEAD"))
    await send({"type": "http.response.start", "status": 200 if allowed else 405, "headers": headers})
    await send({"type": "http.response.body", "body": body})
