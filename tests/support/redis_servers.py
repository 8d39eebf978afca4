"""Real Redis servers, each a process of its own on a free port, that can be paused, killed and started again."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import time

from support.loops import PATIENCE
from support.real_clients import tool
from support.reverse_proxies import free_port


class RedisServer:
    """`redis-server` on 127.0.0.1, without persistence unless the options say otherwise; killed at the end."""

    def __init__(self, folder, *options, configuration=None):
        self.folder = folder
        self.port = free_port()
        self.program = tool("redis-server")
        self.options = options
        #: The file in place of what has it persist nothing.
        self.configuration = configuration
        self.process = None
        self.start()

    @classmethod
    def sentinel(cls, folder, configuration):
        """A Sentinel with this file, which it will change."""
        return cls(folder, "--sentinel", configuration=configuration)

    def until_replica_known(self):
        """Waits until the Sentinel knows of one that can take the master's place."""
        deadline = time.monotonic() + PATIENCE
        while "master-link-status\nok\n" not in self.ask("sentinel", "replicas", "main"):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def ask(self, *command):
        """What redis-cli writes for this command."""
        arguments = [tool("redis-cli"), "-p", str(self.port), *command]
        return subprocess.run(arguments, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self):
        """Starts it, and waits until it answers."""
        arguments = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder)]
        arguments = ["--save", "", *arguments] if self.configuration is None else [str(self.configuration), *arguments]
        with open(self.folder / "output", "ab") as output:
            self.process = subprocess.Popen(
                [self.program, *arguments, *self.options], stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        port = self.listening_port()
        deadline = time.monotonic() + PATIENCE
        while True:
            assert self.process.poll() is None, (self.folder / "output").read_text(errors="replace")
            if self.answers(port):
                return
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def answers(self, port):
        """Whether it accepts connections, and has loaded what it had persisted."""
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)) as probe:
            if port != self.port:
                return True
            probe.sendall(b"PING\r\n")
            return not probe.recv(100).startswith(b"-LOADING")
        return False

    def listening_port(self):
        """The port that it listens on, with TLS or without."""
        return int(self.options[self.options.index("--tls-port") + 1]) if "--tls-port" in self.options else self.port

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def kill(self):
        """Ends it at once."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(PATIENCE)

    def restart(self):
        """Ends it at once, and starts another one in its place."""
        self.kill()
        self.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
