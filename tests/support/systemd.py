"""What systemd does for a service: sockets that it has bound, word that it is told, signals that it sends."""

from __future__ import annotations

import configparser
import os
import queue
import shlex
import signal
import socket
import subprocess
import sys
import threading

from support.loops import PATIENCE
from support.udp import Command

#: Gives its descriptors the numbers from 3 on, limits open files, and runs the command that follows.
PASSING = """
import os, resource, sys
names, descriptors, files, command = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]
kept = [os.dup2(int(one), 100 + number) for number, one in enumerate(descriptors.split(","))]
for number, one in enumerate(kept):
    os.dup2(one, 3 + number)
if files:
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
pid = str(os.getpid())
os.environ.update(LISTEN_PID=pid, LISTEN_FDS=str(len(kept)), LISTEN_FDNAMES=names, WATCHDOG_PID=pid)
os.execvp(command[0], command)
"""


def passing(names, sockets, files=0):
    """The command before another one to which these sockets are passed, under these names."""
    numbers = ",".join(str(sock.fileno()) for sock in sockets)
    return (sys.executable, "-c", PASSING, names, numbers, str(files))


class Manager:
    """The socket by which a service tells how it is doing, which is read at once: the system keeps few messages."""

    def __init__(self, address):
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self._address)
        self._told = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        while message := self._socket.recv(1000).decode():
            self._told.put(message.splitlines()[0])

    def until(self, word):
        """What it is told, until a message begins with this word: the words that each message begins with."""
        told = []
        while not told or told[-1] != word:
            told.append(self._told.get(timeout=PATIENCE))
        return told

    def told(self):
        """What has been told by now and was not asked for."""
        found = []
        while not self._told.empty():
            found.append(self._told.get())
        return found

    def is_told_within(self, seconds):
        """Whether it is told anything in this time."""
        try:
            self._told.get(timeout=seconds)
        except queue.Empty:
            return False
        return True

    def close(self):
        self._socket.sendto(b"", self._address)
        self._reader.join(PATIENCE)
        self._socket.close()


def read_unit(text):
    """The sections of a unit."""
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str
    unit.read_string(text)
    return unit


class Service:
    """A service and its socket, as systemd has them after `systemctl start` of the socket: it listens.

    `faster` is how many times as fast as in the unit time passes for the watchdog.
    """

    def __init__(self, service, sockets, folder, faster=100):
        self._service = read_unit(service)["Service"]
        self._sockets = read_unit(sockets)["Socket"]
        assert set(self._sockets) == {"ListenStream"}
        assert self._service["Type"] == "notify"
        self._folder = folder
        self._faster = faster
        where = self._sockets["ListenStream"]
        if where.startswith("/"):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.bind(where)
        else:
            self.socket = socket.socket(socket.AF_INET)
            host, _, port = where.rpartition(":")
            self.socket.bind((host, int(port)))
        self.socket.listen(4096)
        self._manager_address = str(folder / "notify")
        self.manager = Manager(self._manager_address)

    def close(self):
        self.socket.close()
        self.manager.close()

    def seconds(self, name):
        """The value of a setting that is a number of seconds."""
        return int(self._service[name])

    def start(self, backend=None):
        """Runs ExecStart=; gives the command, whose first word is that of the unit."""
        program = shlex.split(self._service["ExecStart"])
        files = self._service.getint("LimitNOFILE")
        return Command(
            *program[1:],
            cwd=self._service["WorkingDirectory"],
            backend=backend,
            program=program[:1],
            prefix=passing("app.socket", [self.socket], files),
            pass_fds=[self.socket.fileno()],
            NOTIFY_SOCKET=self._manager_address,
            WATCHDOG_USEC=str(int(self.watchdog * 1_000_000)),
        )

    @property
    def watchdog(self):
        """Seconds within which a sign of life is expected."""
        return self.seconds("WatchdogSec") / self._faster

    def reload(self, command):
        """Runs ExecReload=."""
        words = shlex.split(self._service["ExecReload"].replace("$MAINPID", str(command.process.pid)))
        subprocess.run(words, check=True)

    def stop(self, command):
        """Sends KillSignal= to all processes of the service, as KillMode=control-group has it."""
        assert "KillMode" not in self._service
        os.killpg(command.process.pid, signal.Signals[self._service["KillSignal"]])
