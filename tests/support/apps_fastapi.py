"""The application that `test_apps_frameworks` describes, written with FastAPI."""

from __future__ import annotations

import hashlib
from typing import Annotated

from fastapi import (
    BackgroundTasks,
    Cookie,
    FastAPI,
    File,
    Form,
    Header,
    HTTPException,
    Request,
    Response,
    UploadFile,
    WebSocket,
    WebSocketDisconnect,
    WebSocketException,
)
from fastapi.responses import FileResponse, PlainTextResponse, RedirectResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.requests import ClientDisconnect


def build(probe):
    """The ASGI application. It notes in `probe.events` what it goes through."""
    app = FastAPI()

    @app.get("/page", response_class=PlainTextResponse)
    @app.head("/page", response_class=PlainTextResponse)
    async def page(name: str = "Welt"):
        return f"Grüße, {name}"

    @app.get("/thread", response_class=PlainTextResponse)
    def in_thread():
        return "from a thread"

    @app.get("/path/{rest:path}", response_class=PlainTextResponse)
    async def path(rest: str):
        return rest

    @app.get("/link", response_class=PlainTextResponse)
    async def link(request: Request):
        return request.url_for("page").path

    @app.get("/stream")
    async def stream():
        async def parts():
            try:
                async for part in probe.parts():
                    yield part
            finally:
                probe.events.append("stream closed")

        return StreamingResponse(parts(), media_type="text/plain")

    @app.post("/raw")
    async def raw(request: Request):
        digest, size = hashlib.sha256(), 0
        try:
            async for part in request.stream():
                digest.update(part)
                size += len(part)
                probe.events.append("part")
        except ClientDisconnect:
            probe.events.append("upload broken off")
            raise
        return {"size": size, "sha256": digest.hexdigest()}

    @app.post("/form")
    async def form(file: Annotated[UploadFile, File()], note: Annotated[str, Form()]):
        data = await file.read()
        return {
            "name": file.filename,
            "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "note": note,
        }

    @app.get("/file")
    async def file():
        return FileResponse(probe.file)

    app.mount("/static", StaticFiles(directory=probe.file.parent))

    @app.get("/cookies")
    async def cookies(
        response: Response,
        first: Annotated[str | None, Cookie()] = None,
        second: Annotated[str | None, Cookie()] = None,
    ):
        response.set_cookie("first", "1")
        response.set_cookie("second", "2", httponly=True)
        return {name: value for name, value in (("first", first), ("second", second)) if value is not None}

    @app.get("/redirect")
    async def redirect(request: Request):
        return RedirectResponse(request.url_for("page"))

    @app.get("/nothing", status_code=204)
    async def nothing():
        return None

    @app.get("/headers", response_class=PlainTextResponse)
    async def headers(response: Response, x_echo: Annotated[str, Header()]):
        response.headers["x-echo"] = x_echo
        return ""

    @app.get("/error")
    async def error():
        raise ZeroDivisionError("an error of the application")

    @app.get("/background", response_class=PlainTextResponse)
    async def background(tasks: BackgroundTasks):
        tasks.add_task(probe.background)
        return "later"

    @app.websocket("/ws/echo")
    async def echo_socket(socket: WebSocket):
        await socket.accept()
        try:
            while True:
                message = await socket.receive()
                if message["type"] == "websocket.disconnect":
                    raise WebSocketDisconnect(message["code"])
                if message.get("text") is not None:
                    await socket.send_text(message["text"])
                else:
                    await socket.send_bytes(message["bytes"])
        except WebSocketDisconnect as error:
            probe.events.append(f"closed {error.code}")

    @app.websocket("/ws/rooms/{room}")
    async def room(socket: WebSocket, room: str, user: str, session: Annotated[str, Cookie()]):
        chosen = "chat" if "chat" in socket.scope["subprotocols"] else None
        await socket.accept(subprotocol=chosen, headers=[(b"x-room", b"open")])
        link = str(socket.url_for("room", room="lobby"))
        await socket.send_json({"room": room, "user": user, "cookie": session, "url": link})
        await socket.close(4001, "Schluß")

    @app.websocket("/ws/refuse")
    async def refuse(socket: WebSocket):
        raise WebSocketException(1008)

    @app.websocket("/ws/deny")
    async def deny(socket: WebSocket):
        raise HTTPException(401, "not you", {"www-authenticate": "Basic"})

    @app.websocket("/ws/error")
    async def error_socket(socket: WebSocket):
        await socket.accept()
        await socket.receive_text()
        raise ZeroDivisionError("an error of the application")

    @app.websocket("/ws/push")
    async def push(socket: WebSocket):
        await socket.accept()
        async for part in probe.parts():
            await socket.send_bytes(part)
        await socket.close()

    return app
