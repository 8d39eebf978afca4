"""A script with a server, in a process of its own to which signals are sent."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import textwrap

import pytest

from support.serving import environment

#: What every script begins with; `{block}` keeps uvloop away where asyncio's own loop is to be used.
PREAMBLE = """
import asyncio, contextlib, faulthandler, logging, os, signal, sys
faulthandler.dump_traceback_later(25, exit=True)    # a script that hangs says where, and is no burden to others
{block}
from cyasgi.server import StatelessServer

def say(*words):
    # Not print(), which a handler of a signal may not call while it writes.
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

async def for_ever():
    await asyncio.get_running_loop().create_future()

class Base(StatelessServer):
    async def application_send(self, scope, message):
        say("sent", message)

    async def handle(self):
        self.begin()
        say("ready")
        try:
            await for_ever()
        finally:
            say("stopping")

    def begin(self):
        pass

    def application_undelivered(self, messages, details):
        say("undelivered", *messages)
"""


BOTH = [signal.SIGINT, signal.SIGTERM]


#: The one traceback that a LookupError of a script's application has.
TRACEBACK = (
    r"Traceback \(most recent call last\):\n(?:  [^\n]*\n)*"
    r'  File "[^"\n]*script\.py", line \d+, in application\n    raise LookupError\nLookupError\n'
)


class Process:
    """A script under way, and what it has said."""

    def __init__(self, path, backend):
        self.lines = []
        self._errors = path.with_suffix(".err")
        with self._errors.open("w") as errors:
            self._process = self._start(path, backend, errors)

    @staticmethod
    def _start(path, backend, errors):
        return subprocess.Popen(
            [sys.executable, "-W", "error", str(path)],
            cwd=path.parent,
            env=environment(CYASGI_BACKEND=backend),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )

    def wait_for(self, line):
        """Reads what it says up to this line."""
        while True:
            said = self._process.stdout.readline()
            assert said, (self.lines, self._errors.read_text())
            self.lines.append(said.rstrip("\n"))
            if self.lines[-1] == line:
                return

    def send(self, number):
        self._process.send_signal(number)

    def end(self, complaint="", rest=""):
        """Waits for its end; gives all the lines it has said. It must have ended well, with no complaint but this line,
        and with a `rest` that matches."""
        self.lines.extend(self._process.stdout.read().splitlines())
        self._process.wait(60)
        err = self._errors.read_text()
        assert self._process.returncode == 0, (self.lines, err)
        first, _, following = err.partition("\n")
        assert first == complaint, (self.lines, err)
        assert re.fullmatch(rest, following), (self.lines, err)
        return self.lines

    def kill(self):
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


@pytest.fixture(params=["asyncio", "uvloop"])
def start(request, tmp_path, cy):
    """start(script) runs it in a process of its own, on either loop."""
    processes = []

    def start(script):
        block = 'sys.modules["uvloop"] = None' if request.param == "asyncio" else "import uvloop"
        path = tmp_path / "script.py"
        path.write_text(PREAMBLE.format(block=block) + textwrap.dedent(script), encoding="utf-8")
        processes.append(Process(path, cy.backend))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
