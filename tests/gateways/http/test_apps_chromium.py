"""A real browser: headless Chromium loads a page, and what that does of HTTP and WebSockets it writes into its DOM."""

from __future__ import annotations

import asyncio
import html
import json
import os
import re
import signal
import sys

import pytest
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute

from support.loops import PATIENCE
from support.real_clients import serving, tool, url

pytestmark = [
    pytest.mark.usefixtures("quiet"),
    pytest.mark.few_combinations,
    pytest.mark.skipif(sys.platform == "win32", reason="its processes are ended as a group, which Windows has not"),
]

PAGE = """<!DOCTYPE html>
<html><head><meta charset="utf-8"><title>cyasgi</title><script src="/script.js"></script></head>
<body><pre id="out">nothing yet</pre></body></html>
"""

#: It leaves what it found in the element `out`, and then tells the server that it is ready.
SCRIPT = """
const found = {};

function talk() {
    return new Promise((resolve, reject) => {
        const received = [];
        const socket = new WebSocket(`ws://${location.host}/socket`, ["other", "echo"]);
        socket.binaryType = "arraybuffer";
        socket.onopen = () => {
            found.protocol = socket.protocol;
            found.extensions = socket.extensions;
            socket.send("Grüße 🙂");
            socket.send(new Uint8Array([0, 127, 128, 255]));
            socket.send("x".repeat(200000));
        };
        socket.onmessage = (event) => {
            if (typeof event.data === "string") {
                received.push(event.data.length > 100 ? event.data.length : event.data);
            } else {
                received.push(Array.from(new Uint8Array(event.data)));
            }
            if (received.length === 3) {
                socket.close(4000, "enough");
            }
        };
        socket.onerror = () => reject(new Error("the socket failed"));
        socket.onclose = (event) => {
            found.closed = [event.code, event.reason, event.wasClean];
            found.received = received;
            resolve();
        };
    });
}

async function stream() {
    const response = await fetch("/stream");
    const reader = response.body.getReader();
    let text = "";
    while (true) {
        const { done, value } = await reader.read();
        if (done) break;
        text += new TextDecoder().decode(value);
    }
    found.stream = text;
}

async function upload() {
    const form = new FormData();
    form.append("file", new Blob([new Uint8Array(300000)]), "zeros.bin");
    found.upload = await (await fetch("/upload", { method: "POST", body: form })).json();
}

window.onload = async () => {
    try {
        await Promise.all([talk(), stream(), upload(), ...[...Array(20).keys()].map((n) => fetch(`/nothing?${n}`))]);
        found.refused = await new Promise((resolve) => {
            const socket = new WebSocket(`ws://${location.host}/refused`);
            socket.onopen = () => resolve(false);
            socket.onerror = () => resolve(true);
        });
    } catch (error) {
        found.error = String(error);
    }
    document.getElementById("out").textContent = JSON.stringify(found);
    await fetch("/ready", { method: "POST", body: document.documentElement.outerHTML });
};
"""

#: A browser that has no screen, no user, nothing to update, and nobody to talk to but the server.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--metrics-recording-only",
    "--password-store=basic",
)


class Site:
    """The application; `dom` is what the page became, `closed` how its socket ended."""

    def __init__(self):
        self.dom = asyncio.Queue()
        self.closed = None
        routes = [
            Route("/", self.page),
            Route("/script.js", self.script),
            Route("/stream", self.stream),
            Route("/upload", self.upload, methods=["POST"]),
            Route("/nothing", self.nothing),
            Route("/ready", self.ready, methods=["POST"]),
            WebSocketRoute("/socket", self.socket),
            WebSocketRoute("/refused", self.refused),
        ]
        self.application = Starlette(routes=routes)

    async def page(self, request):
        return HTMLResponse(PAGE)

    async def script(self, request):
        return Response(SCRIPT, media_type="text/javascript")

    async def stream(self, request):
        async def parts():
            for number in range(100):
                yield f"{number} "
                await asyncio.sleep(0)

        return StreamingResponse(parts(), media_type="text/plain")

    async def upload(self, request):
        async with request.form() as form:
            return JSONResponse([form["file"].filename, len(await form["file"].read())])

    async def nothing(self, request):
        return Response(status_code=204)

    async def ready(self, request):
        self.dom.put_nowait((await request.body()).decode())
        return Response(status_code=204)

    async def socket(self, socket):
        await socket.accept(subprotocol="echo")
        while (message := await socket.receive())["type"] != "websocket.disconnect":
            await socket.send({**message, "type": "websocket.send"})
        self.closed = message["code"], message.get("reason")

    async def refused(self, socket):
        await socket.close()


async def browse(address, profile, dom):
    """Has the browser load this page; gives the DOM that the page sent."""
    browser = tool("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    with open(profile / "log", "wb") as log:  # noqa: ASYNC230
        process = await asyncio.create_subprocess_exec(
            # A port for debugging keeps it open; what is printed otherwise would not wait for sockets.
            *(browser, *FLAGS, f"--user-data-dir={profile}", "--remote-debugging-port=0", address),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    ready = asyncio.create_task(dom.get())
    ended = asyncio.create_task(process.wait())
    try:
        async with asyncio.timeout(PATIENCE / 2):
            await asyncio.wait({ready, ended}, return_when=asyncio.FIRST_COMPLETED)
        assert ready.done(), (profile / "log").read_text(errors="replace")
        return ready.result()
    finally:
        ready.cancel()
        if process.returncode is None:
            process.terminate()
        await asyncio.wait({ended}, timeout=PATIENCE / 6)
        if process.returncode is None:
            # With all the processes that it has started.
            os.killpg(process.pid, signal.SIGKILL)
        await ended


@pytest.mark.slow
def test_page_and_socket(cy, run, tmp_path):
    """The browser loads a page and its script, streams, uploads, asks for much at once, and talks by a socket."""

    async def main():
        site = Site()
        async with serving(cy, site.application) as server:
            dom = await browse(url(server, "/"), tmp_path, site.dom)
            written = re.search(r'<pre id="out">(.*?)</pre>', dom)[1]
            found = json.loads(html.unescape(written))
            assert found.pop("extensions").startswith("permessage-deflate")
            assert found == {
                "protocol": "echo",
                "received": ["Grüße 🙂", [0, 127, 128, 255], 200_000],
                "closed": [4000, "enough", True],
                "stream": "".join(f"{number} " for number in range(100)),
                "upload": ["zeros.bin", 300_000],
                "refused": True,
            }
            assert site.closed == (4000, "enough")
            # Six connections for requests, as browsers make them, some in advance, and one for each socket.
            assert server.stats()["connections_total"] < 20 < server.stats()["requests"]

    run(main())
