"""The options of worker processes: what is accepted, and what becomes of them."""

from __future__ import annotations

import signal
import sys

import pytest

from cyasgi import cli
from cyasgi.cli import supervising
from cyasgi.workers import Recycling
from cyasgi.workers.cores import usable_cores
from support.cli import refused
from support.udp import Command

SERVE = ("--udp", "127.0.0.1:0", "cyasgi.examples:echo")


#: At the very end of the process, when Python has given up its handlers, and before that, these signals come.
LAST = """
import atexit, os, signal, sys

class Last:
    numbers = signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT

    def come(self, kill=os.kill, pid=os.getpid()):
        for number in self.numbers:
            kill(pid, number)

    def __del__(self, write=os.write):
        self.come()
        write(2, b"ended in order\\n")

last = Last()
atexit.register(lambda: last.come())
"""


@pytest.fixture
def supervised(monkeypatch):
    """supervised(*arguments) gives what the supervising process would be told."""
    given = []
    monkeypatch.setattr(supervising, "supervise", lambda options, _: given.append(options) or 0)

    def told(*arguments):
        assert cli.main(["serve", *arguments, *SERVE]) == 0
        return given.pop()

    return told


def test_settings(supervised):
    """Each option reaches the supervising process."""
    found = supervised("--workers", "3", "--worker-timeout", "none", "--worker-start-attempts", "2").supervision
    assert (found.count, found.timeout, found.start_timeout, found.start_attempts) == (3, None, 60.0, 2)
    assert found.recycling == Recycling()
    options = ("--limit-max-requests-jitter", "5", "--worker-max-rss", "1000", "--worker-lifetime-jitter", "0.5")
    found = supervised("--limit-max-requests", "10", "--worker-lifetime", "60", *options).supervision
    assert found.count == 1
    assert found.recycling == Recycling(10, 5, 1000, 60.0, 0.5)


def test_auto(monkeypatch, supervised):
    """As many as there are cores; one core needs no supervisor."""
    monkeypatch.setattr("cyasgi.cli.command.usable_cores", lambda: 7)
    assert supervised("--workers", "auto").supervision.count == 7
    assert usable_cores() >= 1


def test_without_effect(supervised):
    found = supervised("--workers", "2", "--limit-max-requests-jitter", "5").ignored
    assert found == ["--limit-max-requests-jitter: no effect without --limit-max-requests"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--workers", "0"], "'0': accepted are a whole number from 1 to 1024, and auto"),
        (["--workers", "many"], "'many': accepted are a whole number from 1 to 1024, and auto"),
        (["--worker-timeout", "0"], "'0': accepted are a number of seconds, more than 0, and none for no limit"),
        (["--worker-max-rss", "300M"], "'300M': accepted are a whole number of at least 1, and none for no limit"),
        (["--worker-start-attempts", "0"], "'0': accepted is a whole number of at least 1"),
        (["--reload", "--workers", "2"], "--reload serves by one process"),
        (
            ["--reload", "--worker-lifetime", "2"],
            "leave out --workers, --limit-max-requests,",
        ),
    ],
)
def test_misuse(arguments, says, capsys):
    assert says in refused(capsys, [*arguments, *SERVE])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the tests of workers are for Linux")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_signal_to_a_worker_that_ends(tmp_path, loop):
    """A signal that goes to all processes, as by systemd or a terminal, does not kill one that has ended its work."""
    (tmp_path / "app.py").write_text(LAST + "async def application(*_): pass\n", encoding="utf-8")
    listen = ("--udp", "127.0.0.1:0", "--loop", loop)
    with Command("serve", "--workers", "2", *listen, "app:application", cwd=tmp_path) as command:
        command.until("by 2 workers: ")
        command.process.send_signal(signal.SIGHUP)
        command.until("^ended in order$")
        command.until("^ended in order$")
        assert command.stop(signal.SIGTERM) == 0
        assert command.lines.count("ended in order") == 4
        assert not [line for line in command.lines if "killed" in line]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the tests of workers are for Linux")
def test_a_signal_to_a_supervisor_that_ends(tmp_path):
    """Its exit code tells how its work has ended, whatever comes after that."""
    (tmp_path / "app.py").write_text("async def application(*_): pass\n", encoding="utf-8")
    numbers = "Last.numbers = signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGTTIN, signal.SIGTTOU\n"
    program = sys.executable, "-c", f"{LAST}{numbers}from cyasgi.cli import main\nsys.exit(main(sys.argv[1:]))\n"
    listen = ("--udp", "127.0.0.1:0")
    with Command("serve", "--workers", "2", *listen, "app:application", cwd=tmp_path, program=program) as command:
        command.until("by 2 workers: ")
        assert command.stop(signal.SIGTERM) == 0
        assert command.lines[-1] == "ended in order"


def test_where_processes_inherit_no_sockets(monkeypatch, capsys):
    """One clear error, which says what is missing and what is accepted."""
    monkeypatch.setattr("cyasgi.cli.supervising.os.name", "nt")
    assert cli.main(["serve", "--workers", "2", *SERVE]) == 1
    assert "need a system whose processes inherit sockets and get signals" in capsys.readouterr().err
