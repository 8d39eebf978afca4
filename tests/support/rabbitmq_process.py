"""RabbitMQ, as a process of the tests: on free ports, with files and a node name of its own."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

#: Where Debian has the script that needs neither root nor the user rabbitmq.
SCRIPT = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
PLUGIN = "rabbitmq_consistent_hash_exchange"
#: Seconds that it may take to start.
START = 120.0


def free_port() -> int:
    """A port that nobody gets by chance: the system takes those for connections from further up."""
    while True:
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as one:
            one.bind(("127.0.0.1", port))
            return port


def needed(plugins: Path) -> set[Path]:
    """The directories of the broker, of the plugin, and of all that their `.app` files say they need."""
    found, wanted = set(), ["rabbit", PLUGIN]
    while wanted:
        name = wanted.pop()
        # What is not there belongs to Erlang itself.
        for one in set(plugins.glob(f"{name}-*/ebin/{name}.app")) - found:
            found.add(one)
            applications = re.search(r"\{\s*applications\s*,\s*\[(.*?)\]", one.read_text(), re.DOTALL)
            wanted += re.findall(r"\w+", applications[1]) if applications else []
    return {one.parents[1] for one in found}


def link_installation(home: Path) -> None:
    """Make an installation with the plugins that are needed, and no others.

    Erlang looks for each module in all directories: with dozens of plugins that was nearly half of a start.
    """
    installed = SCRIPT.resolve().parents[1]
    (home / "plugins").mkdir(parents=True)
    (home / "sbin").symlink_to(installed / "sbin")
    for plugin in needed(installed / "plugins"):
        (home / "plugins" / plugin.name).symlink_to(plugin)


class Address:
    """Where a broker is: all that a test needs of one that it does not stop."""

    def __init__(self, port: int, tls_port: int, certificates: Path) -> None:
        self.port = port
        self.url = f"amqp://guest:guest@127.0.0.1:{port}/"
        #: With TLS, by the authority in `certificates/ca.pem`; clients need no certificate, or one of that authority.
        self.tls_port = tls_port
        self.tls_url = f"amqps://guest:guest@127.0.0.1:{tls_port}/"
        self.certificates = certificates


class Broker(Address):
    """A broker that can be stopped, killed and started again, on the same port and with the same files."""

    def __init__(self, directory: Path) -> None:
        super().__init__(free_port(), free_port(), directory / "certificates")
        self._directory = directory
        self._home = directory / "home"
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
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(directory / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": str(directory / "none.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
            "RABBITMQ_PID_FILE": str(directory / "pid"),
            "RABBITMQ_SCRIPTS_DIR": str(self._home / "sbin"),
            "RABBITMQ_PLUGINS_DIR": str(self._home / "plugins"),
            # It is not alone on the machine.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none",
        }

    def start(self) -> None:
        # Whoever only needs to know where a broker is does without the libraries.
        from support.certificates import write_certificates, write_client_certificate

        directory = self._directory
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "plugins").write_text(f"[{PLUGIN}].")
        if not self._home.exists():
            link_installation(self._home)
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
        # Hundreds of queues that tests leave would each tell of themselves every 5 seconds.
        (directory / "advanced.config").write_text("[{rabbit, [{quorum_tick_interval, 600000}]}].")
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
                    # It may listen for TLS a moment later.
                    with socket.create_connection(("127.0.0.1", self.tls_port), 1):
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
        """End it, and the daemon of Erlang's that it has started. Its files are of no more use."""
        self.stop(signal.SIGKILL)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                with socket.create_connection(("127.0.0.1", self._epmd), 5) as one:
                    # What `epmd -kill` sends, which then sleeps for a second; refused while it knows of the node.
                    one.sendall(b"\x00\x01k")
                    one.recv(2)
            except OSError:
                return
            time.sleep(0.01)
        raise AssertionError(f"epmd goes on at port {self._epmd}")
