"""Runs the four servers of the documented API, unedited, on cyasgi after `cyasgi.install()`.

    python tests/project/run_documented_examples.py DIRECTORY

DIRECTORY holds simple_http_server.py, simple_websocket_server.py, load_balancing_server.py and
managed_lifecycle_server.py. They are not part of this project, so this is a script and no test of the suite; servers
of the same shapes are tested there. The WebSocket one has the two-argument handler of `websockets` before 14.

Their own faults are theirs: the HTTP and the WebSocket server keep one connection in an attribute, so that one client
at a time is served here, and the WebSocket server never tells its application of an orderly close.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import importlib
import io
import json
import logging
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import websockets

import cyasgi

HOST = "127.0.0.1"
#: Seconds after which one example is given up.
PATIENCE = 60.0
BODY = b"Hello from custom ASGI server!"


class Failure(Exception):
    """An example did not do what its document says."""


def check(condition: object, what: str) -> None:
    if not condition:
        raise Failure(what)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


async def until(condition: Callable[[], object], what: str) -> None:
    """Waits, for two seconds at most, until the condition holds."""
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise Failure(what)


async def bounded(coroutine: Coroutine[Any, Any, None]) -> None:
    """The coroutine, for so long at most; whatever reaches the loop's exception handler is a failure."""
    complaints: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(repr(context)))
    async with asyncio.timeout(PATIENCE):
        await coroutine
    gc.collect()
    check(not complaints, f"the loop complained {len(complaints)} times: {complaints[:1]}")


@contextlib.asynccontextmanager
async def serving(server: Any) -> AsyncIterator[None]:
    """The server at work in this loop; cancelled at the end, it must leave nothing behind."""
    running = asyncio.ensure_future(server.arun())
    await asyncio.sleep(0)
    try:
        yield
        check(not running.done(), f"the server ended by itself: {running}")
    finally:
        running.cancel()
        await asyncio.wait([running])
    check(running.cancelled(), f"cancelled, the server ended with {running!r}")
    check(not server.application_instances, f"left in the table: {list(server.application_instances)}")
    left = {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
    if left:
        await asyncio.wait(left, timeout=2)
    check(not [task for task in left if not task.done()], f"tasks left running: {left}")


async def get(port: int) -> bytes:
    """One HTTP request; the answer up to the end of the connection."""
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(b"GET /path HTTP/1.1\r\nHost: example\r\nAccept: */*\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def connected(port: int) -> Any:
    """A WebSocket client, as soon as the port is open."""
    for _ in range(2000):
        with contextlib.suppress(ConnectionRefusedError):
            return await websockets.connect(f"ws://{HOST}:{port}/")
        await asyncio.sleep(0.001)
    raise Failure(f"nobody listens on port {port}")


async def http(example: Any) -> None:
    server = example.SimpleHTTPServer(example.simple_app, port=0)
    async with serving(server):
        await until(lambda: server.server is not None, "the HTTP server does not listen")
        port = server.server.sockets[0].getsockname()[1]
        for _ in range(200):
            answer = await get(port)
            check(answer.startswith(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n"), f"answered {answer!r}")
            check(answer.endswith(BODY), f"answered {answer!r}")
        check(not server.application_instances, "requests that have ended are still in the table")
        check(server.stats()["created"] == 200, f"200 requests, but {server.stats()}")

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("on purpose")

    server = example.SimpleHTTPServer(failing, port=0)
    records = io.StringIO()
    handler = logging.StreamHandler(records)
    logging.getLogger("cyasgi.server").addHandler(handler)
    try:
        async with serving(server):
            await until(lambda: server.server is not None, "the HTTP server does not listen")
            port = server.server.sockets[0].getsockname()[1]
            check(await get(port) == b"", "a failed application has answered")
            check(not server.application_instances, "a failed request is still in the table")
    finally:
        logging.getLogger("cyasgi.server").removeHandler(handler)
    check(records.getvalue().count("RuntimeError: on purpose") == 1, f"reported: {records.getvalue()!r}")


async def websocket(example: Any) -> None:
    port = free_port()
    server = example.SimpleWebSocketServer(example.echo_websocket_app, port=port)
    async with serving(server):
        client = await connected(port)
        for number in range(200):
            await client.send(f"message {number}")
            check(await client.recv() == f"Echo: message {number}", f"message {number} was not echoed")
        check(len(server.application_instances) == 1, f"instances: {list(server.application_instances)}")
        client.transport.abort()
        await client.wait_closed()
        await until(lambda: not server.application_instances, "the instance outlives its broken connection")

        first = await connected(port)
        await first.close()
        second = await connected(port)
        await second.send("again")
        check(await second.recv() == "Echo: again", "the second client was not served")
        await second.close()


async def load_balancing(example: Any) -> None:
    shown = io.StringIO()

    async def third(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("on purpose")

    server = example.LoadBalancingServer([example.app1, example.app2, third])
    with contextlib.redirect_stdout(shown):
        async with serving(server):
            for number in range(30):
                server.get_or_create_application_instance(number, {"type": "http"})
            await until(lambda: not server.application_instances, "finished instances are not reaped")
            stats = server.stats()
    check((stats["finished"], stats["failed"]) == (20, 10), f"20 of 30 were to succeed: {stats}")
    lines = shown.getvalue().splitlines()
    check(lines.count("Sending message: http.response.body") == 20, f"shown: {lines}")
    check(lines.count("Application exception in load balancer: on purpose") == 10, f"shown: {lines}")


async def managed_lifecycle(example: Any) -> None:
    shown = io.StringIO()
    scope = {"type": "http"}

    def ended() -> list[str]:
        return [line.split()[1] for line in shown.getvalue().splitlines() if " lived " in line]

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        while True:
            await send({"type": "http.response.body", "body": (await receive())["body"]})

    with contextlib.redirect_stdout(shown):
        server = example.ManagedLifecycleServer(waits, max_applications=3)
        async with serving(server):
            instance = await server.get_or_create_application_instance("0", scope)
            instance["input_queue"].put_nowait({"type": "http.request", "body": b""})
            await until(lambda: "Sending http.response.body" in shown.getvalue(), "a message was not answered")
            for number in range(1, 10):
                await server.get_or_create_application_instance(str(number), scope)
            check(len(server.application_instances) == 3, f"a limit of 3: {list(server.application_instances)}")
            await until(lambda: len(ended()) == 7, f"seven evictions, cleaned up: {ended()}")
            await server.delete_application_instance("9")
            server.instance_stats["8"]["last_activity"] -= 31
            await until(lambda: list(server.application_instances) == ["7"], "its own expiry does not work")
            check(list(server.instance_stats) == ["7"], f"statistics kept: {list(server.instance_stats)}")
    check(sorted(ended()) == [str(number) for number in range(10)], f"each ends exactly once: {ended()}")

    server = example.ManagedLifecycleServer(example.simple_app)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    with contextlib.redirect_stdout(shown):
        async with serving(server):
            instance = await server.get_or_create_application_instance("called", scope)
            await instance["application"](scope, None, send)
            await server.delete_application_instance("called")
    check([message["type"] for message in sent] == ["http.response.start", "http.response.body"], f"sent: {sent}")


EXAMPLES = {
    "simple_http_server": http,
    "simple_websocket_server": websocket,
    "load_balancing_server": load_balancing,
    "managed_lifecycle_server": managed_lifecycle,
}


def serve(name: str, port: int) -> None:
    """The child's part: `server.run()` as the documents have it, until a signal; then what was left, as JSON."""
    example = importlib.import_module(name)
    if name == "simple_http_server":
        server = example.SimpleHTTPServer(example.simple_app, port=port)
    else:
        server = example.SimpleWebSocketServer(example.echo_websocket_app, port=port)
        server.shutdown_timeout = 0.5  # its application never hears of a close, so draining takes all the time it gets
    server.run()
    print(json.dumps({"left": len(server.application_instances), **server.stats()}), flush=True)


async def talk(name: str, port: int) -> None:
    if name == "simple_http_server":
        for _ in range(2000):
            with contextlib.suppress(ConnectionRefusedError):
                check((await get(port)).endswith(BODY), "the served process gives a wrong answer")
                return
            await asyncio.sleep(0.005)
        raise Failure(f"nobody listens on port {port}")
    client = await connected(port)
    await client.send("hello")
    check(await client.recv() == "Echo: hello", "the served process gives a wrong answer")
    await client.close()


def run_as_process(directory: Path, name: str, number: signal.Signals) -> None:
    """The same server by `run()` in a process of its own, talked to, and ended by a signal."""
    port = free_port()
    command = [sys.executable, __file__, str(directory), "--serve", name, "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            asyncio.run(bounded(talk(name, port)))
            process.send_signal(number)
            out, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    check(process.returncode == 0, f"ended by {number.name} with {process.returncode}: {err}")
    for complaint in ("Task was destroyed", "never retrieved", "never awaited"):
        check(complaint not in err, f"on stderr: {err}")
    after = json.loads(out.splitlines()[-1])
    check(after["left"] == after["live"] == after["closing"] == 0, f"left behind: {after}")
    check(after["created"] == 1, f"one client, but {after}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--serve", choices=sorted(EXAMPLES), help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    missing = [name for name in EXAMPLES if not (given.directory / f"{name}.py").is_file()]
    if missing:
        parser.error(f"{given.directory} has no {', '.join(missing)}")
    if int(websockets.__version__.partition(".")[0]) >= 14:
        parser.error(f"websockets {websockets.__version__} calls handlers with one argument; install websockets==12.0")
    logging.basicConfig(handlers=[logging.NullHandler()])  # what they log is looked at where it matters
    sys.dont_write_bytecode = True  # they are somebody else's directory
    sys.path.insert(0, str(given.directory))
    cyasgi.install()
    if given.serve:
        serve(given.serve, given.port)
        return 0

    failures = 0
    for name, exercise in EXAMPLES.items():
        began = time.perf_counter()
        try:
            asyncio.run(bounded(exercise(importlib.import_module(name))))
            if name in ("simple_http_server", "simple_websocket_server"):
                for number in (signal.SIGINT, signal.SIGTERM):
                    run_as_process(given.directory, name, number)
        except Exception as error:  # whatever happened, the other examples are run too
            failures += 1
            print(f"FAILED {name}: {type(error).__name__}: {error}")
        else:
            print(f"ok     {name} ({time.perf_counter() - began:.1f} s)")
    print(f"{len(EXAMPLES) - failures} of {len(EXAMPLES)} documented examples work on the {cyasgi.backend} back end")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
