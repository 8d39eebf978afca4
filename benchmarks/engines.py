"""Engines that bring messages, each a process of its own on a free port, and workers that take messages from them."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import mmap
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

from benchmarks.fresh import ROOT, command
from benchmarks.probing import run
from benchmarks.sides import settle

#: Where Debian has the script that needs neither root nor the user rabbitmq.
RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
#: Seconds that anything may take.
PATIENCE = 120.0
PREFIX, QUEUE, PARTITIONS = "benchmark", "benchmark", 32
#: Channels of Redis that the workers take messages of.
CHANNELS = [f"channel-{number}" for number in range(10)]


class Engine(NamedTuple):
    """An engine at work."""

    url: str
    pid: int


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until_answers(port: int, asked: bytes, answer: bytes, process: subprocess.Popen[bytes]) -> None:
    """Waits until a server answers so."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as probe:
            probe.settimeout(5)
            probe.sendall(asked)
            if probe.recv(100).startswith(answer):
                return
        time.sleep(0.05)
    raise RuntimeError(f"the server on port {port} did not start")


@contextlib.contextmanager
def redis_server() -> Iterator[Engine]:
    """A Redis that persists nothing."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", folder]
        with subprocess.Popen(arguments, stdout=subprocess.DEVNULL) as process:
            try:
                until_answers(port, b"PING\r\n", b"+PONG", process)
                yield Engine(f"redis://127.0.0.1:{port}/0", process.pid)
            finally:
                process.kill()


@contextlib.contextmanager
def rabbitmq() -> Iterator[Engine]:
    """A RabbitMQ with files and a node name of its own."""
    port, epmd, distribution = free_port(), free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "plugins").write_text("[rabbitmq_consistent_hash_exchange].")
        (home / "rabbitmq.conf").write_text("disk_free_limit.absolute = 50MB\nloopback_users = none\n")
        environment = os.environ | {
            "HOME": folder,
            "ERL_EPMD_PORT": str(epmd),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"cyasgi-{port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(home / "log"),
            "RABBITMQ_LOGS": str(home / "broker.log"),
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq"),
            "RABBITMQ_CONF_ENV_FILE": str(home / "none.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "plugins"),
            "RABBITMQ_PID_FILE": str(home / "pid"),
            # Its schedulers would spin while they wait, which is no work.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none",
        }
        process = subprocess.Popen(
            [RABBITMQ],
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            # One that is ready refuses another protocol by telling its own.
            until_answers(port, b"AMQP\0\0\0\0", b"AMQP", process)
            yield Engine(f"amqp://guest:guest@127.0.0.1:{port}/", process.pid)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if stop := shutil.which("epmd"):
                words = [stop, "-port", str(epmd), "-kill"]
                subprocess.run(words, env=environment, check=False, capture_output=True)


class Counts:
    """Numbers that workers write and this process reads: for each, the messages taken, and the partitions held."""

    def __init__(self, path: str, workers: int) -> None:
        with open(path, "r+b") as file:
            file.truncate(16 * workers)
            self._cells = memoryview(mmap.mmap(file.fileno(), 16 * workers)).cast("Q")

    def take(self, worker: int) -> None:
        self._cells[2 * worker] += 1

    def hold(self, worker: int, count: int) -> None:
        # 0 is what it is before the worker has started.
        self._cells[2 * worker + 1] = 1 + count

    @property
    def taken(self) -> int:
        return sum(self._cells[::2])

    @property
    def started(self) -> bool:
        """Whether all workers have."""
        return all(self._cells[1::2])

    @property
    def least(self) -> int:
        """The fewest partitions that one of them holds; -1 if one has not started."""
        return min(self._cells[1::2]) - 1

    @property
    def most(self) -> int:
        return max(self._cells[1::2]) - 1


def work(side: str, loop: str, kind: str, url: str, path: str, workers: int, number: int) -> None:
    """Takes messages until it is ended: one of so many workers."""
    settle(side)
    counts = Counts(path, workers)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        while True:
            await receive()
            counts.take(number)

    async def main() -> None:
        if kind == "redis":
            core: Any = importlib.import_module("channels_redis.core")
            channels: Any = importlib.import_module("cyasgi.sources.channels")
            layer = core.RedisChannelLayer(hosts=[url], prefix=PREFIX)
            server = channels.ChannelLayerServer(application, CHANNELS, layer)
        else:
            queues: Any = importlib.import_module("cyasgi.sources.queue")
            server = queues.QueueServer(application, None, engine=url, name=QUEUE, partitions=PARTITIONS)
        running = asyncio.ensure_future(server.arun())
        await server.wait_started()
        while not running.done():
            counts.hold(number, server.stats().get("partitions", 0))
            await asyncio.sleep(0.02)
        await running

    run(loop, main())


class Crew:
    """Workers, each a process of its own."""

    def __init__(self, side: str, loop: str, kind: str, url: str, path: str, workers: int) -> None:
        self._arguments = {"side": side, "loop": loop, "kind": kind, "url": url, "path": path, "workers": workers}
        self.counts = Counts(path, workers)
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Starts one more."""
        arguments = self._arguments | {"number": len(self.processes)}
        self.processes.append(subprocess.Popen(command(work, arguments), cwd=ROOT, stdout=subprocess.DEVNULL))

    def until(self, condition: Any, what: str) -> float:
        """Waits for it, and gives the seconds that it took."""
        began = time.monotonic()
        while not condition():
            if time.monotonic() > began + PATIENCE or any(one.poll() is not None for one in self.processes):
                raise RuntimeError(f"workers on {self._arguments['kind']}: {what} did not come to pass")
            time.sleep(0.002)
        return time.monotonic() - began

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self.processes:
            one.kill()
            one.wait()


def hindrance(kind: str) -> str:
    """Why there is no such engine here, or an empty string."""
    if not sys.platform.startswith("linux"):
        return "engines are measured on Linux"
    libraries = {"redis": "channels_redis", "amqp": "aio_pika"}
    if importlib.util.find_spec(libraries[kind]) is None:
        return f"{libraries[kind]} is not installed"
    if kind == "redis":
        return "" if shutil.which("redis-server") else "redis-server is not installed"
    return "" if RABBITMQ.exists() else "rabbitmq-server is not installed"
