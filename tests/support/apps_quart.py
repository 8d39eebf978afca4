"""The application that `test_apps_frameworks` describes, written with Quart."""

from __future__ import annotations

import asyncio
import hashlib

from quart import Quart, Response, make_response, redirect as redirect_to, request, send_file, url_for, websocket


def build(probe):
    """The ASGI application. It notes in `probe.events` what it goes through."""
    app = Quart(__name__, static_url_path="/static", static_folder=probe.file.parent)

    @app.get("/page")
    async def page():
        return Response(f"Grüße, {request.args.get('name', 'Welt')}", content_type="text/plain; charset=utf-8")

    @app.get("/thread")
    def in_thread():
        return Response("from a thread", content_type="text/plain")

    @app.get("/path/<path:rest>")
    async def path(rest):
        return Response(rest, content_type="text/plain; charset=utf-8")

    @app.get("/link")
    async def link():
        return url_for("page")

    @app.get("/stream")
    async def stream():
        async def parts():
            try:
                async for part in probe.parts():
                    yield part
            finally:
                probe.events.append("stream closed")

        response = await make_response(parts())
        response.timeout = None
        return response

    @app.post("/raw")
    async def raw():
        digest, size = hashlib.sha256(), 0
        try:
            async for part in request.body:
                digest.update(part)
                size += len(part)
                probe.events.append("part")
        except asyncio.CancelledError:
            probe.events.append("upload broken off")
            raise
        return {"size": size, "sha256": digest.hexdigest()}

    @app.post("/form")
    async def form():
        form, files = await request.form, await request.files
        data = files["file"].read()
        return {
            "name": files["file"].filename,
            "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "note": form["note"],
        }

    @app.get("/file")
    async def file():
        return await send_file(probe.file, conditional=True)

    @app.get("/cookies")
    async def cookies():
        response = await make_response(dict(request.cookies))
        response.set_cookie("first", "1")
        response.set_cookie("second", "2", httponly=True)
        return response

    @app.get("/redirect")
    async def redirect():
        return redirect_to(url_for("page"), 307)

    @app.get("/nothing")
    async def nothing():
        return "", 204

    @app.get("/headers")
    async def headers():
        return "", {"x-echo": request.headers["x-echo"]}

    @app.get("/error")
    async def error():
        raise ZeroDivisionError("an error of the application")

    @app.get("/background")
    async def background():
        app.add_background_task(probe.background)
        return "later"

    @app.websocket("/ws/echo")
    async def echo_socket():
        try:
            while True:
                await websocket.send(await websocket.receive())
        except asyncio.CancelledError:
            probe.events.append("closed")
            raise

    @app.websocket("/ws/rooms/<room>")
    async def room(room):
        chosen = "chat" if "chat" in websocket.requested_subprotocols else None
        await websocket.accept(headers={"x-room": "open"}, subprotocol=chosen)
        link = url_for("room", room="lobby", _external=True)
        await websocket.send_json(
            {"room": room, "user": websocket.args["user"], "cookie": websocket.cookies["session"], "url": link}
        )
        await websocket.close(4001, "Schluß")

    @app.websocket("/ws/refuse")
    async def refuse():
        await websocket.close(1008)

    @app.websocket("/ws/deny")
    async def deny():
        return Response("not you", 401, {"www-authenticate": "Basic"})

    @app.websocket("/ws/error")
    async def error_socket():
        await websocket.accept()
        await websocket.receive()
        raise ZeroDivisionError("an error of the application")

    @app.websocket("/ws/push")
    async def push():
        await websocket.accept()
        async for part in probe.parts():
            await websocket.send(part)
        await websocket.close(1000)

    app.config["MAX_CONTENT_LENGTH"] = None
    return app
