"""Small ASGI applications to start with.

``cyasgi serve --http 127.0.0.1:8000 cyasgi.examples:hello`` serves a page with a text field that is echoed over a
WebSocket; ``cyasgi serve --udp 127.0.0.1:9999 cyasgi.examples:echo`` and others serve datagrams; with ``--tcp``,
``cyasgi.examples:chat`` serves whoever comes by ``nc 127.0.0.1 7000``.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Hashable

from ._types import Message as Message, Receive, Scope, Send
from .core.context import current_instance


def _check(scope: Scope, *accepted: str) -> None:
    # The ASGI specification asks applications to raise an error for scopes that they do not know.
    if scope["type"] not in accepted:
        raise ValueError(f"this application serves {' and '.join(accepted)} scopes only, not {scope['type']!r}")


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Send back whatever is received, datagrams and the messages of streams (RFC 862)."""
    _check(scope, "datagram", "stream")
    kind = scope["type"]
    while (message := await receive())["type"] != "stream.disconnect":
        if "data" in message:
            await send({"type": f"{kind}.send", "data": message["data"]})


async def counter(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the number of datagrams from this client so far; each client has an instance of its own."""
    _check(scope, "datagram")
    count = 0
    while True:
        await receive()
        count += 1
        await send({"type": "datagram.send", "data": b"%d\n" % count})


async def daytime(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer every datagram with the time in UTC (RFC 867)."""
    _check(scope, "datagram")
    while True:
        await receive()
        await send({"type": "datagram.send", "data": time.strftime("%Y-%m-%dT%H:%M:%SZ\r\n", time.gmtime()).encode()})


async def discard(scope: Scope, receive: Receive, send: Send) -> None:
    """Receive, and never answer (RFC 863)."""
    _check(scope, "datagram", "stream")
    while (await receive())["type"] != "stream.disconnect":
        pass


class Chat:
    """A chat with rooms, over lines: whoever connects is in the room `lobby`, and hears of everybody there."""

    def __init__(self) -> None:
        #: The names of those in each room, by the ids of their instances.
        self._rooms: dict[str, dict[Hashable, str]] = {}
        self._numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        _check(scope, "stream")
        instance = current_instance()
        me, server = instance.scope_id, instance.server
        name, room = f"guest{next(self._numbers)}", "lobby"

        async def say(text: str) -> None:
            await send({"type": "stream.send", "data": text.encode()})

        def tell(text: str) -> int:
            """Tell the others in the room, and return how many were not reached."""
            others = [one for one in self._rooms[room] if one != me]
            return len(server.broadcast(others, {"type": "chat.message", "text": text}))

        self._rooms.setdefault(room, {})[me] = name
        try:
            await say(f"Hello {name}. /nick NAME, /join ROOM, /who, /quit; anything else is said in {room}.")
            tell(f"* {name} has come")
            while True:
                message = await receive()
                if message["type"] == "chat.message":
                    await say(message["text"])
                elif message["type"] == "stream.disconnect":
                    if message["reason"] == "stopping":
                        await say("* the server stops: goodbye")
                    return
                elif message["type"] == "stream.receive":
                    # Nobody else's terminal is to obey what is said.
                    text = "".join(filter(str.isprintable, message["data"].decode("utf-8", "replace")))
                    command, _, rest = text.partition(" ")
                    word = rest.strip()[:32]
                    if command == "/quit":
                        return
                    if command == "/who":
                        await say(f"* in {room}: {', '.join(self._rooms[room].values())}")
                    elif command == "/nick" and word:
                        tell(f"* {name} is now {word}")
                        self._rooms[room][me] = name = word
                    elif command == "/join" and word:
                        tell(f"* {name} has left for {word}")
                        self._leave(room, me)
                        room = word
                        self._rooms.setdefault(room, {})[me] = name
                        tell(f"* {name} has come")
                    elif command.startswith("/"):
                        await say("* there is /nick NAME, /join ROOM, /who and /quit")
                    elif missed := tell(f"{name}: {text}"):
                        await say(f"* {missed} did not hear that")
        finally:
            tell(f"* {name} has gone")
            self._leave(room, me)

    def _leave(self, room: str, one: Hashable) -> None:
        del self._rooms[room][one]
        if not self._rooms[room]:
            del self._rooms[room]


chat = Chat()


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
