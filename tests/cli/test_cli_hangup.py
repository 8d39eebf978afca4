"""SIGHUP to a process that serves by itself, or under --reload: from somebody, and from a terminal that goes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from support.udp import Command

pty = pytest.importorskip("pty")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal"),
]

APPLICATION = """
import asyncio, os, sys

async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        print("starting", file=sys.stderr)
        while not os.path.exists("go"):
            await asyncio.sleep(0.01)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("ended in order", file=sys.stderr)
        await send({"type": "lifespan.shutdown.complete"})
"""
NO_EFFECT = "SIGHUP has no effect on a single process; with --workers 2 or more"

#: Makes this terminal the controlling one of the session that it leads, and runs the command that follows.
ON_TERMINAL = "import os, sys; os.open(sys.argv[1], os.O_RDWR); os.execv(sys.argv[2], sys.argv[2:])"


@pytest.fixture
def terminal():
    """The path of a terminal, and what makes it go."""
    ours, theirs = pty.openpty()
    path = os.ttyname(theirs)

    def go():
        os.close(ours)

    yield path, go
    os.close(theirs)
    with contextlib.suppress(OSError):
        os.close(ours)


def serving(tmp_path, *arguments, prefix=(), go=True, first=""):
    """The command with the application, whose module begins with these lines."""
    (tmp_path / "app.py").write_text(first + APPLICATION, encoding="utf-8")
    if go:
        (tmp_path / "go").touch()
    listen = ("--udp", "127.0.0.1:0", "--lifespan", "on")
    return Command("serve", *listen, *arguments, "app:application", cwd=tmp_path, prefix=prefix)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_from_somebody(tmp_path, loop):
    """It is said that nobody can replace this process, which goes on."""
    with serving(tmp_path, "--loop", loop) as command:
        command.listening()
        for _ in range(2):
            command.process.send_signal(signal.SIGHUP)
            command.until(NO_EFFECT)
        assert command.stop(signal.SIGTERM) == 0
        assert "ended in order" in command.lines


def test_before_it_serves(tmp_path):
    """A signal that comes while the application starts ends nothing."""
    with serving(tmp_path, go=False) as command:
        command.until("starting")
        command.process.send_signal(signal.SIGHUP)
        command.until(NO_EFFECT)
        (tmp_path / "go").touch()
        command.listening()
        assert command.stop(signal.SIGTERM) == 0


def test_while_the_application_is_imported(tmp_path):
    """A signal that comes before there is a loop is told of when there is one."""
    with serving(tmp_path, first="import os, signal\nos.kill(os.getpid(), signal.SIGHUP)\n") as command:
        command.until(NO_EFFECT)
        command.listening()
        assert command.stop(signal.SIGTERM) == 0


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_terminal_that_goes(tmp_path, terminal, loop, workers):
    """The server ends in order with its terminal, and with nothing else."""
    path, go = terminal
    prefix = (sys.executable, "-c", ON_TERMINAL, path)
    with serving(tmp_path, "--loop", loop, "--workers", workers, prefix=prefix) as command:
        command.until("by 2 workers: " if workers == "2" else "listening on udp")
        command.process.send_signal(signal.SIGHUP)
        command.until("all workers have been replaced$" if workers == "2" else NO_EFFECT)
        go()
        command.until("the terminal has gone: stopping$")
        assert command.wait() == 0
        assert "ended in order" in command.lines


def test_an_application_that_handles_it(tmp_path):
    code = "import os, signal\nsignal.signal(signal.SIGHUP, lambda *_: os.write(2, b'mine\\n'))\n"
    with serving(tmp_path, first=code) as command:
        command.listening()
        command.process.send_signal(signal.SIGHUP)
        command.until("^mine$")
        assert command.stop(signal.SIGTERM) == 0
        assert not [line for line in command.lines if "SIGHUP" in line]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_nohup(tmp_path, terminal, workers):
    """What nohup has started stays when the terminal goes."""
    path, go = terminal
    code = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); {ON_TERMINAL}"
    with serving(tmp_path, "--workers", workers, prefix=(sys.executable, "-c", code, path)) as command:
        command.until("by 2 workers: " if workers == "2" else "listening on udp")
        go()
        command.process.send_signal(signal.SIGUSR1)
        command.until("log files were reopened")
        assert command.stop(signal.SIGTERM) == 0
        assert not [line for line in command.lines if "the terminal has gone" in line]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_consume(tmp_path, terminal, loop):
    """A process that works on a queue by itself goes on, too, and ends in order with its terminal."""
    path, go = terminal
    (tmp_path / "app.py").write_text(APPLICATION, encoding="utf-8")
    (tmp_path / "go").touch()
    options = ("--lifespan", "on", "--loop", loop, "app:application")
    prefix = (sys.executable, "-c", ON_TERMINAL, path)
    command = Command("consume", *options, cwd=tmp_path, prefix=prefix, stdin=subprocess.PIPE)
    with command, command.process.stdin:
        command.until("takes messages of")
        command.process.send_signal(signal.SIGHUP)
        command.until(NO_EFFECT)
        go()
        command.until("the terminal has gone: stopping$")
        assert command.wait() == 0
        assert "ended in order" in command.lines


def test_reload(tmp_path):
    """Under --reload the serving process is replaced, whether the signal goes to one process or to both."""
    with serving(tmp_path, "--reload") as command:
        command.listening()
        command.process.send_signal(signal.SIGHUP)
        command.until("INFO cyasgi: SIGHUP: restarting$")
        command.until("^ended in order$")
        command.listening()
        os.killpg(command.process.pid, signal.SIGHUP)
        command.until("INFO cyasgi: SIGHUP: restarting$")
        command.until("^ended in order$")
        command.listening()
        assert command.stop(signal.SIGTERM) == 0


def test_reload_on_a_terminal_that_goes(tmp_path, terminal):
    """Both processes end in order."""
    path, go = terminal
    with serving(tmp_path, "--reload", prefix=(sys.executable, "-c", ON_TERMINAL, path)) as command:
        command.listening()
        go()
        assert command.wait() == 0
        assert "ended in order" in command.lines
