"""The application that `test_apps_frameworks` describes, written with Starlette."""

from __future__ import annotations

import hashlib

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocketDisconnect


class Echo:
    """Plain ASGI within Starlette: sends the body back while it comes."""

    async def __call__(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            more = message["more_body"]
            await send({"type": "http.response.body", "body": message["body"], "more_body": more})


def build(probe):
    """The ASGI application. It notes in `probe.events` what it goes through."""

    async def page(request):
        return PlainTextResponse(f"Grüße, {request.query_params.get('name', 'Welt')}")

    def in_thread(request):
        return PlainTextResponse("from a thread")

    async def path(request):
        return PlainTextResponse(request.path_params["rest"])

    async def link(request):
        return PlainTextResponse(request.url_for("page").path)

    async def stream(request):
        async def parts():
            try:
                async for part in probe.parts():
                    yield part
            finally:
                probe.events.append("stream closed")

        return StreamingResponse(parts(), media_type="text/plain")

    async def raw(request):
        digest, size = hashlib.sha256(), 0
        try:
            async for part in request.stream():
                digest.update(part)
                size += len(part)
                probe.events.append("part")
        except ClientDisconnect:
            probe.events.append("upload broken off")
            raise
        return JSONResponse({"size": size, "sha256": digest.hexdigest()})

    async def form(request):
        async with request.form() as form:
            data = await form["file"].read()
            return JSONResponse(
                {
                    "name": form["file"].filename,
                    "size": len(data),
                    "sha256": hashlib.sha256(data).hexdigest(),
                    "note": form["note"],
                }
            )

    async def file(request):
        return FileResponse(probe.file)

    async def cookies(request):
        response = JSONResponse(dict(request.cookies))
        response.set_cookie("first", "1")
        response.set_cookie("second", "2", httponly=True)
        return response

    async def redirect(request):
        return RedirectResponse(request.url_for("page"))

    async def nothing(request):
        return Response(status_code=204)

    async def headers(request):
        return PlainTextResponse("", headers={"x-echo": request.headers["x-echo"]})

    async def error(request):
        raise ZeroDivisionError("an error of the application")

    async def background(request):
        return PlainTextResponse("later", background=BackgroundTask(probe.background))

    async def echo_socket(socket):
        await socket.accept()
        try:
            while True:
                message = await socket.receive()
                if message["type"] == "websocket.disconnect":
                    probe.events.append(f"closed {message['code']}")
                    return
                if message.get("text") is not None:
                    await socket.send_text(message["text"])
                else:
                    await socket.send_bytes(message["bytes"])
        except WebSocketDisconnect:
            probe.events.append("gone")

    async def room(socket):
        chosen = "chat" if "chat" in socket.scope["subprotocols"] else None
        await socket.accept(subprotocol=chosen, headers=[(b"x-room", b"open")])
        await socket.send_json(
            {
                "room": socket.path_params["room"],
                "user": socket.query_params["user"],
                "cookie": socket.cookies["session"],
                "url": str(socket.url_for("room", room="lobby")),
            }
        )
        await socket.close(4001, "Schluß")

    async def refuse(socket):
        await socket.close()

    async def deny(socket):
        await socket.send_denial_response(PlainTextResponse("not you", 401, {"www-authenticate": "Basic"}))

    async def error_socket(socket):
        await socket.accept()
        await socket.receive_text()
        raise ZeroDivisionError("an error of the application")

    async def push(socket):
        await socket.accept()
        async for part in probe.parts():
            await socket.send_bytes(part)
        await socket.close()

    return Starlette(
        routes=[
            Route("/page", page),
            Route("/thread", in_thread),
            Route("/path/{rest:path}", path),
            Route("/link", link),
            Route("/stream", stream),
            Route("/raw", raw, methods=["POST"]),
            Route("/form", form, methods=["POST"]),
            Route("/echo", Echo()),
            Route("/file", file),
            Mount("/static", StaticFiles(directory=probe.file.parent)),
            Route("/cookies", cookies),
            Route("/redirect", redirect),
            Route("/nothing", nothing),
            Route("/headers", headers),
            Route("/error", error),
            Route("/background", background),
            WebSocketRoute("/ws/echo", echo_socket),
            WebSocketRoute("/ws/rooms/{room}", room),
            WebSocketRoute("/ws/refuse", refuse),
            WebSocketRoute("/ws/deny", deny),
            WebSocketRoute("/ws/error", error_socket),
            WebSocketRoute("/ws/push", push),
        ]
    )
