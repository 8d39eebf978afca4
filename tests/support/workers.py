"""What the tests of worker processes share: the command with workers, and clients that count what they are answered."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import socket
import threading
import time

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from support.loops import PATIENCE
from support.udp import Command

#: Says which process has answered. `/busy` does not yield to the event loop, `/hold` waits until there is a file `go`.
APPLICATION = """
import asyncio, os, time

PID = str(os.getpid()).encode()

async def application(scope, receive, send):
    if scope["type"] == "http":
        if scope["path"] == "/busy":
            while True:
                pass
        if scope["path"] == "/hold":
            open("held", "w").close()
            while not os.path.exists("go"):
                await asyncio.sleep(0.01)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": PID})
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": f"{os.getpid()} {message['text']}"})
    elif scope["type"] == "datagram":
        while True:
            message = await receive()
            await send({"type": "datagram.send", "data": PID + b" " + message["data"]})
"""


class Workers(Command):
    """`cyasgi serve` with this application, on a TCP and a UDP address of 127.0.0.1."""

    def __init__(self, directory, *arguments, application=APPLICATION, **changes):
        (directory / "app.py").write_text(application, encoding="utf-8")
        self.directory = directory
        listeners = ("--http", "127.0.0.1:0", "--udp", "127.0.0.1:0")
        super().__init__("serve", *listeners, *arguments, "app:application", cwd=directory, **changes)

    def started(self, count):
        """Waits until it says that so many serve; gives the process ids of the workers, and both ports."""
        self.until(rf"serves app:application by {count} worker.*: ")
        found = "\n".join(self.lines)
        self.udp = "127.0.0.1", int(re.search(r"listening on udp .*:(\d+)", found)[1])
        self.port = int(re.search(r"listening on http://.*:(\d+)", found)[1])
        return self.workers()

    def workers(self):
        """The process ids of all workers that have said by now that they serve."""
        return [int(match[1]) for line in self.lines if (match := re.search(r"worker (\d+) serves$", line))]

    def next_worker(self):
        """Waits until another worker serves, and gives its process id."""
        return int(self.until(r"worker (\d+) serves$")[1])

    def get(self, path="/"):
        """The process id that answers a request on a new connection."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            assert response.status == 200
            return int(response.read())

    def ended(self, pid):
        """Waits until this process has ended."""
        wait_for_end(pid, self)


def wait_for_end(pid, command):
    """Waits until a process that the command has started has ended."""
    deadline = time.monotonic() + PATIENCE
    while is_alive(pid):
        assert time.monotonic() < deadline, f"{pid} still runs: {command.lines}"
        time.sleep(0.01)


def is_alive(pid):
    """Whether a process has not ended; one whose parent has not noticed its end has ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Client(threading.Thread):
    """Asks again and again until it is stopped, and counts."""

    def __init__(self, command):
        super().__init__(daemon=True)
        self.command = command
        self.answers = 0
        #: What answered, in the order of their first answers.
        self.pids = []
        #: What went wrong.
        self.failures = []
        self._over = threading.Event()

    def run(self):
        while not self._over.wait(0.002):
            try:
                self.answered(self.ask())
            except Exception as error:
                self.failures.append(f"{type(self).__name__}: {error!r} after {self.answers} answers")
                self.reset()
        self.reset()

    def answered(self, pid):
        self.answers += 1
        if not self.pids or pid != self.pids[-1]:
            self.pids.append(pid)

    def end(self):
        self._over.set()

    def ask(self):
        """Asks once; gives the process id of who answered."""
        raise NotImplementedError

    def reset(self):
        """Begins anew after a failure."""


class Fresh(Client):
    """HTTP, each request on a connection of its own."""

    def ask(self):
        return self.command.get()


class KeptAlive(Client):
    """HTTP on one connection, until the server says that it closes it."""

    connection = None

    def ask(self):
        if self.connection is None:
            self.connection = http.client.HTTPConnection("127.0.0.1", self.command.port, timeout=PATIENCE)
        self.connection.request("GET", "/")
        response = self.connection.getresponse()
        body = response.read()
        if response.will_close:
            self.reset()
        assert response.status == 200
        return int(body)

    def reset(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None


class Talking(Client):
    """A WebSocket, which is opened again when the server closes it for a restart."""

    connection = None
    restarts = 0

    def __init__(self, command):
        super().__init__(command)
        self.open = contextlib.ExitStack()

    def ask(self):
        if self.connection is None:
            address = f"ws://127.0.0.1:{self.command.port}"
            self.connection = self.open.enter_context(connect(address, open_timeout=PATIENCE, compression=None))
        try:
            self.connection.send(str(self.answers))
            pid, text = self.connection.recv(PATIENCE).split()
        except ConnectionClosed as error:
            if error.rcvd is None or error.rcvd.code != 1012:
                raise
            self.restarts += 1
            self.reset()
            return self.ask()
        assert text == str(self.answers)
        return int(pid)

    def reset(self):
        self.open.close()
        self.connection = None


class Datagrams(Client):
    """UDP from one port: each datagram is answered before the next one is sent, but for what takes a second."""

    def __init__(self, command):
        super().__init__(command)
        #: The numbers of those that no answer has come to.
        self.unanswered = set()
        self._number = 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.settimeout(1)
        self.socket.connect(command.udp)

    def ask(self):
        deadline = time.monotonic() + PATIENCE
        while True:
            self._number += 1
            self.unanswered.add(self._number)
            self.socket.send(str(self._number).encode())
            try:
                while True:
                    pid, number = map(int, self.socket.recv(100).split())
                    self.unanswered.remove(number)
                    if number == self._number:
                        return pid
            except TimeoutError:
                if time.monotonic() > deadline:
                    raise

    def run(self):
        super().run()
        self.socket.close()


@contextlib.contextmanager
def load(command, kinds, *, lost=0):
    """Clients at work; in the end each has been answered, and nothing has gone wrong.

    `lost` is how many datagrams of each client may have found no answer.
    """
    clients = [kind(command) for kind in kinds]
    for client in clients:
        client.start()
    try:
        more(clients)
        yield clients
        more(clients)
    finally:
        for client in clients:
            client.end()
        for client in clients:
            client.join(PATIENCE)
    failures = [failure for client in clients for failure in client.failures]
    assert failures == [], failures
    assert not any(client.is_alive() for client in clients)
    unanswered = [client.unanswered for client in clients if isinstance(client, Datagrams)]
    assert all(len(numbers) <= lost for numbers in unanswered), unanswered


def more(clients, count=3):
    """Waits until each client that has not failed got so many more answers."""
    goals = [(client, client.answers + count) for client in clients]
    deadline = time.monotonic() + PATIENCE
    while lagging := [one for one, goal in goals if one.answers < goal and not one.failures]:
        assert time.monotonic() < deadline, [(type(one).__name__, one.answers) for one in lagging]
        time.sleep(0.005)


def children(pid):
    """The process ids of the children of a process."""
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(text) for text in file.read().split()]


def kill(pid, number):
    """Sends a signal."""
    os.kill(pid, number)
