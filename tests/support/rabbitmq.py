"""RabbitMQ, as a process of the test: on free ports, with files and a node name of its own."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.certificates import write_certificates, write_client_certificate
from support.queues import quiet_failures

#: Where Debian has the script that needs neither root nor the user rabbitmq.
SCRIPT = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
PLUGINS = "[rabbitmq_consistent_hash_exchange]."
#: Of each queue that `server_of` serves.
PARTITIONS = 4
_names = itertools.count()
#: Seconds that it may take to start.
START = 120.0


def free_port() -> int:
    """A port that nobody gets by chance: the system takes those for connections from further up."""
    while True:
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as one:
            one.bind(("127.0.0.1", port))
            return port


class Broker:
    """A broker that can be stopped, killed and started again, on the same port and with the same files."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/"
        #: With TLS, by the authority in `certificates/ca.pem`; clients need no certificate, or one of that authority.
        self.tls_port = free_port()
        self.tls_url = f"amqps://guest:guest@127.0.0.1:{self.tls_port}/"
        self.certificates = directory / "certificates"
        self._directory = directory
        self._process: subprocess.Popen[Any] | None = None
        self._epmd = free_port()
        self._distribution = free_port()

    def _environment(self) -> dict[str, str]:
        directory = self._directory
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))},
            "HOME": str(directory),
            "ERL_EPMD_PORT": str(self._epmd),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"cyasgi-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distribution),
            "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_LOGS": str(directory / "broker.log"),
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq"),
            "RABBITMQ_CONF_ENV_FILE": str(directory / "none.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
            "RABBITMQ_PID_FILE": str(directory / "pid"),
            # It is not alone on the machine.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none",
        }

    def start(self) -> None:
        directory = self._directory
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "plugins").write_text(PLUGINS)
        if not self.certificates.exists():
            self.certificates.mkdir()
            write_client_certificate(write_certificates(self.certificates), self.certificates)
        (directory / "rabbitmq.conf").write_text(
            f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}\n"
            f"ssl_options.cacertfile = {self.certificates}/ca.pem\n"
            f"ssl_options.certfile = {self.certificates}/cert.pem\n"
            f"ssl_options.keyfile = {self.certificates}/key.pem\n"
            "ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = false\n"
            "vm_memory_high_watermark.absolute = 1GB\ndisk_free_limit.absolute = 50MB\nloopback_users = none\n"
        )
        with (directory / "output").open("ab") as output:
            self._process = subprocess.Popen(
                [SCRIPT],
                env=self._environment(),
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._wait()

    def _wait(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START
        while time.monotonic() < deadline:
            assert self._process.poll() is None, self.said()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as one:
                one.settimeout(5)
                # A broker that is ready refuses another protocol by telling its own.
                one.sendall(b"AMQP\x00\x00\x00\x00")
                if one.recv(8).startswith(b"AMQP"):
                    return
            time.sleep(0.2)
        raise AssertionError(f"the broker has not started: {self.said()}")

    def said(self) -> str:
        texts = [self._directory / "output", self._directory / "broker.log"]
        return "\n".join(path.read_text(errors="replace")[-4000:] for path in texts if path.exists())

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it and all its processes."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)

    def freeze(self) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it, and the daemon of Erlang's that it has started."""
        self.stop()
        epmd = shutil.which("epmd")
        if epmd is not None:
            subprocess.run(
                [epmd, "-port", str(self._epmd), "-kill"],
                env=self._environment(),
                capture_output=True,
                check=False,
                timeout=30,
            )


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker for all tests of a process."""
    if not SCRIPT.exists():
        pytest.skip("RabbitMQ is not installed: apt-get install rabbitmq-server")
    one = Broker(tmp_path_factory.mktemp("rabbitmq"))
    try:
        one.start()
        yield one
    finally:
        one.close()


@pytest.fixture
def aiormq():
    return pytest.importorskip("aiormq")


@pytest.fixture
def name(aiormq):
    return f"orders-{next(_names)}"


def server_of(cy, broker, name, application, base=None, heartbeat=5, **attributes):
    attributes = {"retry_delay": 0.01, "balance_interval": 0.1, **attributes}
    server_class = type("Server", (base or quiet_failures(cy),), attributes)
    return server_class(application, engine=f"{broker.url}?heartbeat={heartbeat}", name=name, partitions=PARTITIONS)


@contextlib.asynccontextmanager
async def running(server):
    task = asyncio.create_task(server.arun())
    starting = asyncio.create_task(server.wait_started())
    await asyncio.wait({task, starting}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        await task
    await starting
    try:
        yield server
    finally:
        server.stop()
        await task


@contextlib.asynccontextmanager
async def client(aiormq, broker):
    """A channel of somebody else's."""
    connection = await aiormq.connect(broker.url)
    try:
        yield await connection.channel()
    finally:
        await connection.close()


async def publish(channel, name, *bodies, scope_id="a", **properties):
    from aiormq import spec

    for body in bodies:
        await channel.basic_publish(
            body, exchange=name, routing_key=scope_id, properties=spec.Basic.Properties(delivery_mode=2, **properties)
        )


async def dead_letter(channel, name):
    """The next dead letter."""
    found = []

    async def one():
        message = await channel.basic_get(f"{name}.dead", no_ack=True)
        if message.delivery.name == "Basic.GetOk":
            found.append(message)
        return found

    for _ in range(300):
        if await one():
            return found[0]
        await asyncio.sleep(0.02)
    raise AssertionError("no dead letter has come")
