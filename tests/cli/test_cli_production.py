"""The service, nginx and HAProxy of the chapter's page "In production", as they stand there."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import re
import shlex
import signal
import socket
import subprocess
import sys

import pytest

from cyasgi.cli.reloading import BOUNDS, GRACE
from cyasgi.server import StatelessServer
from support.documentation import ROOT, blocks, prose
from support.loops import PATIENCE
from support.proxied_clients import CLIENTS, ask_all, talk_by_websocket
from support.real_clients import tool
from support.reverse_proxies import free_port, haproxy_with, nginx_with
from support.systemd import Service
from support.udp import PROGRAM
from support.workers import Client, load, more

PAGE = ROOT / "src/cyasgi/cli/README.md"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="systemd is for Linux"),
    pytest.mark.skipif(not PAGE.exists(), reason="the page is not here"),
]

#: Says which process and version answers whom. `/hold` waits until there is a file `go`.
APPLICATION = """
import asyncio, os

VERSION = 1

async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    client = "{} {}".format((scope["client"] or ("nobody",))[0], scope["scheme"])
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": client})
        message = await receive()
        await send({"type": "websocket.send", "text": message["text"]})
        await receive()
        return
    if scope["path"] == "/hold":
        open("held", "w").close()
        while not os.path.exists("go"):
            await asyncio.sleep(0.01)
    body = f"{os.getpid()} {VERSION}" if scope["path"] == "/pid" else client
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body.encode()})
"""


def of_page(language, word):
    """The one block of the page that has this word."""
    [found] = [block.code for block in blocks(language) if block.path == PAGE and word in block.code]
    return found


class Site:
    """The files of the page, in a directory of the test in place of the machine's, and on free ports."""

    def __init__(self, folder, *, tcp=False):
        self.folder = folder
        self.home = folder / "srv"
        self.module = self.home / "package" / "module.py"
        self.module.parent.mkdir(parents=True)
        self.module.write_text(APPLICATION, encoding="utf-8")
        command = self.home / ".venv" / "bin" / "cyasgi"
        command.parent.mkdir(parents=True)
        command.write_text(f'#!/bin/sh\nexec {shlex.join(PROGRAM)} "$@"\n', encoding="utf-8")
        command.chmod(0o755)
        self.port = free_port()
        where = f"127.0.0.1:{free_port()}" if tcp else str(folder / "s")
        #: What takes the place of what in all of them.
        self._changes = {
            "/srv/app": str(self.home),
            "listen 80;": f"listen 127.0.0.1:{self.port};",
            "bind :80": f"bind 127.0.0.1:{self.port}",
        }
        if tcp:
            # As the page says.
            text = prose(PAGE)
            assert "`ListenStream=127.0.0.1:8000`" in text and "`server 127.0.0.1:8000;`" in text
            assert "the server is `127.0.0.1:8000`" in text
            for before in ("unix:/run/app/app.sock", "unix@/run/app/app.sock", "/run/app/app.sock"):
                self._changes[before] = where
        self._changes["/run/app/app.sock"] = where

    def text(self, language, word):
        text = of_page(language, word)
        for before, after in self._changes.items():
            text = text.replace(before, after)
        return text

    def service(self, option="--proxy-headers"):
        """The service with its socket; for HAProxy with another option, as the page says."""
        unit = self.text("ini", "[Service]")
        assert unit.count("--proxy-headers") == 1
        return Service(unit.replace("--proxy-headers", option), self.text("ini", "[Socket]"), self.folder)


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


@contextlib.contextmanager
def started(site, **options):
    """The service, and its command once it serves."""
    with contextlib.closing(site.service(**options)) as service, service.start() as command:
        service.manager.until("READY=1")
        yield service, command


def connected(service):
    """A connection to the service's socket."""
    connection = http.client.HTTPConnection("x", timeout=PATIENCE)
    connection.sock = socket.socket(service.socket.family)
    connection.sock.settimeout(PATIENCE)
    connection.sock.connect(service.socket.getsockname())
    return connection


@contextlib.contextmanager
def asking(service, path="/pid"):
    """A connection on which an answer is waited for."""
    with contextlib.closing(connected(service)) as connection:
        connection.request("GET", path)
        yield connection


def answer(connection):
    """What is answered, and whether the connection is closed after it."""
    response = connection.getresponse()
    body = response.read().decode()
    assert response.status == 200
    if response.will_close:
        connection.close()
    return body, response.will_close


def troubles(command):
    """The lines of its log that nobody wants to see."""
    return [line for line in command.lines if re.search(" (WARNING|ERROR|CRITICAL) ", line)]


class Fresh(Client):
    """Requests on connections of their own; `command` is the service."""

    def ask(self):
        with asking(self.command) as connection:
            return answer(connection)[0]


class KeptAlive(Client):
    """Requests on one connection, until the server says that it closes it."""

    connection = None

    def ask(self):
        if self.connection is None:
            self.connection = connected(self.command)
        self.connection.request("GET", "/pid")
        body, closes = answer(self.connection)
        if closes:
            self.connection = None
        return body

    def reset(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None


def test_the_units_are_what_systemd_takes(site):
    """It knows every setting, and finds what is to be run."""
    (site.folder / "app.service").write_text(site.text("ini", "[Service]"), encoding="utf-8")
    (site.folder / "app.socket").write_text(site.text("ini", "[Socket]"), encoding="utf-8")
    command = [tool("systemd-analyze"), "verify", "--man=no", "./app.service", "./app.socket"]
    done = subprocess.run(command, cwd=site.folder, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_service(site):
    """It is started by its first client, is ready when both workers serve, gives signs of life, and ends in order.

    Who comes before it has started, or after it has ended, is served by the next start.
    """
    with contextlib.closing(site.service()) as service:
        with asking(service) as early, service.start() as command:
            assert set(service.manager.until("READY=1")[:-1]) <= {"WATCHDOG=1"}
            command.until("serves package.module:application by 2 workers: ")
            assert len([line for line in command.lines if re.search(r"worker \d+ serves$", line)]) == 2
            answer(early)
            for _ in range(2):
                service.manager.until("WATCHDOG=1")
            with asking(service, "/hold") as held:
                while not (site.home / "held").exists():
                    service.manager.until("WATCHDOG=1")
                service.stop(command)
                service.manager.until("STOPPING=1")
                (site.home / "go").touch()
                answer(held)
            assert command.wait() == 0
            assert troubles(command) == []
        with asking(service) as late, service.start() as command:
            answer(late)
            service.manager.until("READY=1")
            service.stop(command)
            assert command.wait() == 0


def test_a_reload(site):
    """Both workers are replaced and run what has been installed since; no request is lost."""
    with started(site) as (service, command):
        with load(service, [Fresh, Fresh, KeptAlive]) as clients:
            # Of another size: bytecode of the file as it was counts for all of the same second, if that is the same.
            site.module.write_text(APPLICATION.replace("VERSION = 1", "VERSION = 1 + 1"), encoding="utf-8")
            service.reload(command)
            service.manager.until("RELOADING=1")
            service.manager.until("READY=1")
            more(clients)
        last = {client.pids[-1].split()[1] for client in clients}
        assert last == {"2"}
        service.stop(command)
        assert command.wait() == 0
        assert len([line for line in command.lines if re.search(r"worker \d+ serves$", line)]) == 4
        assert troubles(command) == []


def test_a_service_that_hangs(site):
    """It gives no sign of life, on which systemd kills it and starts it again."""
    with contextlib.closing(site.service()) as service:
        with service.start() as command:
            service.manager.until("READY=1")
            os.kill(command.process.pid, signal.SIGSTOP)
            # A few words may be under way.
            service.manager.told()
            assert not all(service.manager.is_told_within(service.watchdog) for _ in range(5))
            os.killpg(command.process.pid, signal.SIGABRT)
            os.killpg(command.process.pid, signal.SIGCONT)
            assert command.wait() == -signal.SIGABRT
        service.manager.told()
        with service.start() as command:
            service.manager.until("READY=1")
            Fresh(service).ask()
            service.stop(command)
            assert command.wait() == 0


def test_a_service_that_fails(site):
    """It ends with an exit code that has systemd start it again, and was never ready."""
    site.module.write_text("1 / 0\n", encoding="utf-8")
    with contextlib.closing(site.service()) as service, service.start() as command:
        assert command.wait() == 1
        assert set(service.manager.told()) <= {"WATCHDOG=1", "STOPPING=1"}


def test_the_time_to_stop(site):
    """It is that after which the command itself gives up."""
    with contextlib.closing(site.service()) as service:
        assert service.seconds("TimeoutStopSec") == BOUNDS * StatelessServer.shutdown_timeout + GRACE


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("proxy", ["nginx", "haproxy"])
def test_a_proxy(tmp_path, proxy, tcp):
    """Each client behind it has its own address, whatever it says of itself; WebSockets, too."""
    pytest.importorskip("websockets")
    site = Site(tmp_path, tcp=tcp)
    start, text = (
        (nginx_with, site.text("nginx", "location /"))
        if proxy == "nginx"
        else (haproxy_with, site.text("text", "frontend"))
    )

    async def main():
        async with start(tmp_path, site.port, text) as front:
            assert await ask_all(front) == [f"{client} http" for client in CLIENTS] * 3
            for client in CLIENTS:
                assert await talk_by_websocket(front, client) == f"{client} ws"

    with started(site, option="--proxy-headers" if proxy == "nginx" else "--proxy-protocol") as (service, command):
        asyncio.run(main())
        service.stop(command)
        assert command.wait() == 0
