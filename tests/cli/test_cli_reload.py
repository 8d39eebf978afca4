"""--reload: files change, signals come, servers fail; in processes of their own."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time

import pytest

from cyasgi import cli
from cyasgi.cli.reloading import Served, command_line
from support.cli import get
from support.serving import python
from support.udp import Command

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot ask a process to end in order")

LOCAL = ("--udp", "127.0.0.1:0")

APPLICATION = """
ANSWER = b"{answer}"

async def application(scope, receive, send):
    while True:
        await receive()
        await send({{"type": "datagram.send", "data": ANSWER}})
"""


def write(directory, answer):
    """The application, at once: a file that is half written would be loaded as such."""
    new = directory / "new"
    new.write_text(APPLICATION.format(answer=answer), encoding="utf-8")
    new.rename(directory / "app.py")


def ask(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(30)
        client.connect(address)
        client.send(b"")
        return client.recv(100)


def reloading(tmp_path, *arguments, **changes):
    return Command("serve", "--reload", *LOCAL, *arguments, "app:application", cwd=tmp_path, **changes)


@pytest.mark.slow
def test_a_change(tmp_path):
    """A file that changes begins the server anew, after the old one has ended in order; a signal ends both with 0."""
    write(tmp_path, "first")
    with reloading(tmp_path) as command:
        command.until(r"watching .* for changes$")
        assert ask(command.listening()) == b"first"
        write(tmp_path, "second")
        command.until(r"app\.py changed: restarting$")
        command.until(r"Exiting due to SIGTERM$")
        command.until(r"stopped after .* datagrams_sent=1$")
        assert ask(command.listening()) == b"second"
        assert command.stop(signal.SIGINT) == 0
        assert [line for line in command.lines if "stopped after" in line][1:]
        assert not [line for line in command.lines if "Traceback" in line or "killed" in line]


@pytest.mark.slow
def test_a_mistake_and_its_repair(tmp_path):
    """A server that fails is waited for: the next change begins it anew. Ended meanwhile, its exit code is kept."""
    (tmp_path / "app.py").write_text("1 / 0\n", encoding="utf-8")
    with reloading(tmp_path) as command:
        command.until("ZeroDivisionError")
        command.until(r"the server ended with exit code 1; waiting for a change$")
        write(tmp_path, "mended")
        assert ask(command.listening()) == b"mended"
        (tmp_path / "app.py").write_text("", encoding="utf-8")
        command.until(r"the server ended with exit code 2; waiting for a change$")
        assert command.stop(signal.SIGTERM) == 2


@pytest.mark.slow
def test_what_else_is_watched(tmp_path):
    """--reload-dir and --reload-include choose what counts; the configuration file does."""
    write(tmp_path, "first")
    there = tmp_path / "there"
    there.mkdir()
    (tmp_path / "settings.toml").write_text("max-applications = 5\n", encoding="utf-8")
    arguments = ("--reload-dir", "there", "--reload-include", "*.html", "--config", "settings.toml")
    with reloading(tmp_path, *arguments) as command:
        command.listening()
        write(tmp_path, "unseen")
        (there / "notes.txt").write_text("unseen", encoding="utf-8")
        (there / "page.html").write_text("seen", encoding="utf-8")
        command.until(r"/page\.html changed: restarting$")
        command.listening()
        (tmp_path / "settings.toml").write_text("max-applications = 6\n", encoding="utf-8")
        command.until(r"settings\.toml changed: restarting$")
        command.listening()
        assert command.stop(signal.SIGTERM) == 0
        assert len([line for line in command.lines if line.endswith("restarting")]) == 2


@pytest.mark.slow
def test_signals_reach_the_server_once(tmp_path):
    """A terminal sends SIGINT to both processes: the server leaves it to the other one, which passes each on once."""
    (tmp_path / "app.py").write_text(
        """
import asyncio, os

async def application(scope, receive, send):
    await receive()
    await send({"type": "datagram.send", "data": str(os.getpid()).encode()})
    await asyncio.get_running_loop().create_future()
""",
        encoding="utf-8",
    )
    with reloading(tmp_path, "--shutdown-timeout", "1000") as command:
        address = command.listening()
        served = int(ask(address))
        assert served != command.process.pid
        os.kill(served, signal.SIGINT)
        assert int(ask(address)) == served
        command.process.send_signal(signal.SIGINT)
        os.kill(served, signal.SIGINT)
        command.until("stopping")
        assert command.stop(signal.SIGINT) == 0
        assert "stopped after" in command.lines[-1]


@pytest.mark.slow
def test_without_watchfiles(tmp_path):
    """Without watchfiles, --reload says which extra has it; exit code 1."""
    code = """
        import sys
        sys.modules["watchfiles"] = None
        from cyasgi.cli import main
        sys.exit(main(["serve", "--reload", "--udp", ":0", "app:application"]))
    """
    process = python(code, cwd=tmp_path)
    assert (process.returncode, process.stderr) == (
        1,
        "cyasgi: --reload needs watchfiles: pip install 'cyasgi[reload]'\n",
    )


def served(code, patience=30.0):
    return Served([sys.executable, "-c", code], patience)


STUBBORN = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with pathlib.Path("begun").open("a") as file:
    file.write("x")
time.sleep(60)
"""


@pytest.mark.slow
def test_a_server_that_does_not_end(tmp_path, monkeypatch):
    """A process that does not end in time is killed, and another one begun."""
    monkeypatch.chdir(tmp_path)
    processes = []

    def watch():
        yield set()
        for number, changes in enumerate(({(1, "app.py")}, set()), 1):
            deadline = time.monotonic() + 30
            while not os.path.exists("begun") or os.path.getsize("begun") < number:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            processes.append(one._process)
            if not changes:
                one.stopping.set()
            yield changes

    with served(STUBBORN, 0.0) as one:
        one.follow(watch())
    assert [process.returncode for process in processes] == [-signal.SIGKILL] * 2
    assert one.code() == 1


@pytest.mark.slow
def test_a_server_that_ends_by_itself():
    """A process that ends in order ends the supervising one; one that fails does not."""
    for expected, rounds in ((0, 1), (3, 2)):
        seen = []

        def watch(seen=seen):
            yield set()
            one._process.wait(30)
            for _ in range(2):
                seen.append(one._process.returncode)
                yield set()

        with served(f"raise SystemExit({expected})") as one:
            one.follow(watch())
        assert (one.code(), seen) == (expected, [expected] * rounds)


def test_a_signal_before_the_server_serves():
    """A process that is asked to end while it still starts has served nothing: exit code 130."""

    def watch():
        yield set()
        os.kill(os.getpid(), signal.SIGTERM)
        yield set()

    handler = signal.getsignal(signal.SIGTERM)
    with served("import time; time.sleep(60)") as one:
        one.follow(watch())
    assert one.stopping.is_set()
    assert one.code() == 130
    assert signal.getsignal(signal.SIGTERM) is handler


def test_what_starts_the_server():
    """The server is started as the command was."""
    assert command_line(["serve", "x:y"]) == [sys.executable, "-m", "cyasgi", "serve", "x:y"]
    assert command_line(None) == [sys.executable, *sys.orig_argv[1:]]


def test_files_that_cannot_be_watched(monkeypatch, tmp_path, capsys):
    """What the system says about watching is told in one line, and no process is left; exit code 1."""

    def watch(*paths, **options):
        yield set()
        raise OSError("OS file watch limit reached")

    monkeypatch.setattr("watchfiles.watch", watch)
    monkeypatch.setattr("cyasgi.cli.reloading.configure_logging", lambda *_: None)
    assert cli.main(["serve", "--reload", *LOCAL, "--app-dir", str(tmp_path), "app:application"]) == 1
    assert "cannot watch" in capsys.readouterr().err


@pytest.mark.slow
def test_nobody_is_refused_meanwhile(tmp_path):
    """While the server is replaced, connections and datagrams wait in its sockets, and the new one answers them."""
    code = """
ANSWER = b"{answer}"

async def application(scope, receive, send):
    if scope["type"] == "datagram":
        while True:
            await receive()
            await send({{"type": "datagram.send", "data": ANSWER}})
    if scope["type"] == "http":
        await send({{"type": "http.response.start", "status": 200, "headers": []}})
        await send({{"type": "http.response.body", "body": ANSWER}})
"""

    def change(answer):
        new = tmp_path / "new"
        new.write_text(code.format(answer=answer), encoding="utf-8")
        new.rename(tmp_path / "app.py")

    change("first")
    arguments = ("--reload", "--udp", "127.0.0.1:0", "--http", "127.0.0.1:0", "--reload-delay", "0.01")
    with Command("serve", *arguments, "app:application", cwd=tmp_path) as command:
        udp, http = addresses(command)
        assert (ask(udp), get(http)[1]) == (b"first", "first")
        for answer in ("second", "third"):
            change(answer)
            # No connection is refused, whichever of the two answers.
            while answered(http) != answer:
                pass
            assert ask(udp) == answer.encode()
            assert (udp, http) == addresses(command)
        assert command.stop(signal.SIGTERM) == 0


def answered(port):
    """What a new connection is answered; None for one that the server has accepted, and closed before it was asked
    anything, as one that stops may. Clients then ask again (RFC 9112 section 9.3.1)."""
    try:
        return get(port)[1]
    except ConnectionResetError:
        return None


def addresses(command):
    """The address of UDP and the port of HTTP that the server says next that it listens on."""
    found = {}
    while len(found) < 2:
        match = command.until(r"listening on (?:http|udp)[: ]/*127\.0\.0\.1:(\d+)$")
        found["udp" if "on udp" in match.string else "http"] = int(match[1])
    return ("127.0.0.1", found["udp"]), found["http"]


@pytest.mark.slow
def test_what_is_not_watched(tmp_path):
    """--reload-exclude names files, or paths, that do not count."""
    write(tmp_path, "first")
    for name in ("generated", "kept"):
        (tmp_path / name).mkdir()
    arguments = ("--reload-exclude", "*_test.py", "--reload-exclude", "generated/*")
    with reloading(tmp_path, *arguments) as command:
        command.listening()
        (tmp_path / "app_test.py").write_text("", encoding="utf-8")
        (tmp_path / "generated" / "a.py").write_text("", encoding="utf-8")
        (tmp_path / "kept" / "a.py").write_text("", encoding="utf-8")
        assert command.until(r"INFO cyasgi: (.*) changed: restarting$")[1] == "kept/a.py"
        command.listening()
        assert command.stop(signal.SIGTERM) == 0
