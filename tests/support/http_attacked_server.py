"""A server in a process of its own, to be attacked. It prints its port.

    python http_attacked_server.py LOOP [CERTIFICATE KEY]

/memory tells the most memory that the process has had, in bytes; the other paths are what attackers ask for.
"""

from __future__ import annotations

import asyncio
import os
import resource
import ssl
import sys

from cyasgi.gateways.http import HTTPServer


def peak() -> int:
    """The process's largest resident size so far, in bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


async def answer(send, body=b""):
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def application(scope, receive, send):
    path = scope["path"]
    if path == "/memory":
        await answer(send, b"%d" % peak())
    elif path == "/read":
        while (message := await receive())["type"] != "http.disconnect" and message.get("more_body"):
            pass
        await answer(send)
    elif path == "/wait":
        await asyncio.get_running_loop().create_future()
    elif path == "/big":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"a" * 65_536, "more_body": True})
    else:
        await answer(send)


class Victim(HTTPServer):
    lifespan = "off"
    shutdown_timeout = 1.0
    application_exception = staticmethod(lambda exception, details: None)

    async def handle(self) -> None:
        telling = asyncio.create_task(self.tell_port())
        try:
            await super().handle()
        finally:
            telling.cancel()

    async def tell_port(self) -> None:
        ((_, port),) = self.bind()
        while not self.serving:
            await asyncio.sleep(0.001)
        # In one write, so that who waits for the line gets it whole.
        os.write(1, b"%d\n" % port)


def main() -> None:
    context = None
    if len(sys.argv) > 2:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*sys.argv[2:])
    server = Victim(application, 5000, binds=("127.0.0.1", 0), ssl=context)
    if sys.argv[1] == "asyncio":
        asyncio.run(server.arun())
    else:
        server.run()


if __name__ == "__main__":
    main()
