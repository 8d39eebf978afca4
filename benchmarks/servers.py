"""The HTTP and WebSocket servers that are put under load, each as its own command starts it, on a core of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import lines_servers
from benchmarks.fresh import ROOT, command
from benchmarks.processes import Usage, pinned, usage
from benchmarks.sides import BACKENDS, FLOOR, loop_factory

#: What each side needs to be installed.
NEEDS = {
    "reference": ("uvicorn", "httptools", "websockets"),
    "pure": ("click", "httptools", "websockets"),
    "cython": ("click", "httptools", "websockets"),
    FLOOR: ("httptools", "websockets"),
    "minimal": ("httptools", "websockets"),
    "granian": ("granian",),
    "gunicorn": ("gunicorn",),
    "hypercorn": ("hypercorn",),
    "daphne": ("daphne",),
}
#: What the reference is in questions that servers are asked.
CALLED = {"reference": "uvicorn"}

#: Seconds that a server may take to listen.
PATIENCE = 20.0


def lacking(side: str) -> str:
    """Why a side cannot be asked here, or an empty string."""
    missing = [name for name in NEEDS[side] if find_spec(name) is None]
    return f"{' and '.join(missing)} not installed; the extra 'bench' brings the servers" if missing else ""


#: What is as little as can be, for each application.
FLOORS = {"answer": "Constant", "stream": "Stream", "echo": "Echo", "websocket": "WebSocket"}


def serve_floor(name: str, application: str, loop: str, port: int) -> None:
    """One of the floors, until it is killed; runs in a process of its own."""
    from benchmarks import applications, floors

    protocol: Any = getattr(floors, name)
    protocol.application = staticmethod(getattr(applications, application))

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", port)
        await server.serve_forever()

    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        runner.run(serve())


def _words(side: str, application: str, loop: str, port: int, log: bool, watched: bool) -> list[str]:
    """The command of a server of one worker that writes nothing, or with `log` its access log as it comes."""
    target = f"benchmarks.applications:{application}"
    if application == "lines":
        if side not in BACKENDS:
            return command(lines_servers.serve, {"side": side, "loop": loop, "port": port})
        options = f"--tcp 127.0.0.1:{port} --framing lines --loop {loop} --log-level warning"
        options += " --max-connections 1000000 --max-applications none"
        return [sys.executable, "-m", "cyasgi", "serve", *options.split(), target]
    if side in (FLOOR, "minimal"):
        name = "Minimal" if side != FLOOR else "Logged" if log else FLOORS[application]
        return command(serve_floor, {"name": name, "application": application, "loop": loop, "port": port})
    words = {
        "reference": f"uvicorn --host 127.0.0.1 --port {port} --loop {loop} --http httptools --ws websockets-sansio"
        + (" --log-level info" if log else " --log-level warning --no-access-log"),
        "granian": f"granian --host 127.0.0.1 --port {port} --interface asgi --loop {loop} --workers 1"
        + (" --access-log" if log else " --log-level warning"),
        "gunicorn": f"gunicorn --bind 127.0.0.1:{port} --worker-class asgi --asgi-loop {loop} --workers 1"
        " --asgi-lifespan off --no-control-socket" + (" --access-logfile -" if log else " --log-level warning"),
        "hypercorn": f"hypercorn --bind 127.0.0.1:{port} --worker-class {loop} --workers 1"
        + (" --access-logfile -" if log else " --log-level warning"),
        "daphne": f"daphne --bind 127.0.0.1 --port {port}" + (" --access-log -" if log else " --verbosity 0"),
    }
    ours = f"cyasgi serve --http 127.0.0.1:{port} --loop {loop}" + (" --access-log" if log else " --log-level warning")
    ours += " --metrics 127.0.0.1:0" if watched else ""
    return [sys.executable, "-m", *words.get(side, ours).split(), target]


@dataclass
class Server:
    """A server that listens."""

    side: str
    port: int
    pid: int
    _output: Path

    def usage(self) -> Usage:
        return usage(self.pid)

    def lines(self, least: int) -> int:
        """Lines that it has written; where there are fewer, waits a little for the rest."""
        ends = time.monotonic() + 2.0
        while (found := self._output.read_bytes().count(b"\n")) < least and time.monotonic() < ends:
            time.sleep(0.05)
        return found

    def said(self) -> str:
        """The end of what it has written."""
        return self._output.read_text(errors="replace")[-2000:].strip()


def _free_port() -> int:
    """Not every server takes a socket that is open already, or tells which port it found."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
    return port


def _await(server: Server, process: subprocess.Popen[bytes], patience: float) -> None:
    ends = time.monotonic() + patience
    while process.poll() is None and time.monotonic() < ends:
        try:
            socket.create_connection(("127.0.0.1", server.port), timeout=1.0).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"{server.side} does not listen: {server.said() or 'it says nothing'}")


@contextmanager
def serving(
    side: str,
    application: str,
    loop: str,
    *,
    log: bool = False,
    watched: bool = False,
    under: tuple[str, ...] = (),
    patience: float = PATIENCE,
) -> Iterator[Server]:
    """A server with one of the applications.

    Args:
        watched: whether one of cyasgi's serves metrics, too.
        under: the command of a tool that runs the server's: then the server is on no core of its own, hashes are the
            same in every run, and it is asked to stop, so that the tool can say what it found.
        patience: seconds that the server may take to listen, and to stop if it is asked to.

    Raises:
        RuntimeError: it does not start.
    """
    environment = os.environ | ({"CYASGI_BACKEND": BACKENDS[side]} if side in BACKENDS else {})
    if under:
        environment["PYTHONHASHSEED"] = "0"
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory, "output")
        port = _free_port()
        with output.open("wb") as file:
            words = _words(side, application, loop, port, log, watched)
            process = subprocess.Popen(
                [*under, *words] if under else pinned(0, words),
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=environment,
                start_new_session=True,  # so that its workers can be ended with it
            )
        try:
            server = Server(side, port, process.pid, output)
            _await(server, process, patience)
            yield server
        finally:
            if under:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(patience)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
