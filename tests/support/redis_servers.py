"""Real Redis servers, each a process of its own on a free port, that can be paused, killed and started again; and
proxies that lose or hold back answers."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import time

from support.certificates import write_certificates
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

    @classmethod
    def with_tls(cls, folder):
        """One that speaks TLS at `tls_port` as well, with a certificate that `ca.pem` in this folder has signed."""
        write_certificates(folder)
        port = str(free_port())
        files = ("--tls-cert-file", "cert.pem", "--tls-key-file", "key.pem", "--tls-ca-cert-file", "ca.pem")
        return cls(folder, "--tls-port", port, *files, "--tls-auth-clients", "no")

    @property
    def tls_port(self):
        """The port at which it speaks TLS; None if at none."""
        return int(self.options[self.options.index("--tls-port") + 1]) if "--tls-port" in self.options else None

    @property
    def tls_url(self):
        """Where it speaks TLS, with the authority that has signed its certificate."""
        return f"rediss://127.0.0.1:{self.tls_port}/0?ssl_ca_certs={self.folder / 'ca.pem'}"

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
        return self.tls_port or self.port

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


class CuttingProxy:
    """Passes on what comes to a Redis, and cuts the connection instead of passing on the answer, when told.

    Such answers are those to commands that have `marker` in them. Before it cuts, it awaits `before_cut()`; if it
    `passes` them on all the same, it does no more than that.
    """

    def __init__(self, redis, marker=b"EVALSHA", before_cut=None, *, passes=False):
        self.redis = redis
        self.marker = marker
        self.before_cut = before_cut
        self.passes = passes
        self.cuts = 0
        self.done = 0
        self.tasks = set()

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self.server.sockets[0].getsockname()[1]}/0"
        return self

    async def __aexit__(self, *_):
        self.server.close()
        for task in self.tasks:
            task.cancel()
        if self.tasks:
            await asyncio.wait(self.tasks)

    async def serve(self, reader, writer):
        self.tasks.add(asyncio.current_task())
        there, here = await asyncio.open_connection("127.0.0.1", self.redis.listening_port())
        asked = []
        try:
            await asyncio.gather(self.ask(reader, here, asked), self.answer(there, writer, asked))
        except OSError:
            pass
        finally:
            for one in (writer, here):
                one.close()
            self.tasks.discard(asyncio.current_task())

    async def ask(self, reader, writer, asked):
        while data := await reader.read(65536):
            if self.marker in data:
                asked.append(data)
            writer.write(data)
        raise ConnectionResetError

    async def answer(self, reader, writer, asked):
        while data := await reader.read(65536):
            if asked and self.cuts:
                self.cuts -= 1
                self.done += 1
                if self.before_cut is not None:
                    await self.before_cut()
                if not self.passes:
                    raise ConnectionResetError
            asked.clear()
            writer.write(data)
        raise ConnectionResetError


class SilencingProxy(CuttingProxy):
    """Holds back what Redis says on the connections on which it tells of changes, while `silent`.

    It counts the `pings` that come on these, and the `scripts` that are asked for on others.
    """

    def __init__(self, redis):
        super().__init__(redis)
        self.silent = False
        self.spoken = asyncio.Event()
        self.pings = self.scripts = 0

    def speak(self):
        """Passes on what was held back."""
        self.silent = False
        self.spoken.set()

    async def ask(self, reader, writer, asked):
        while data := await reader.read(65536):
            if b"SUBSCRIBE" in data:
                asked.append(data)
            if asked:
                self.pings += data.count(b"PING")
            self.scripts += data.count(b"EVALSHA")
            writer.write(data)
        raise ConnectionResetError

    async def answer(self, reader, writer, asked):
        while data := await reader.read(65536):
            if asked and self.silent:
                await self.spoken.wait()
            writer.write(data)
        raise ConnectionResetError


class HoldingProxy(CuttingProxy):
    """Holds back what Redis says on the second connection until it is told to `speak`; any bytes, of TLS as well."""

    def __init__(self, redis):
        super().__init__(redis)
        self.connections = 0
        self.may_speak = asyncio.Event()
        self.may_speak.set()

    def hold(self):
        self.may_speak.clear()

    def speak(self):
        self.may_speak.set()

    async def answer(self, reader, writer, asked):
        self.connections += 1
        second = self.connections == 2
        data = b" "
        while data:
            data = await reader.read(65536)
            if second:
                await self.may_speak.wait()
            writer.write(data)
        raise ConnectionResetError
