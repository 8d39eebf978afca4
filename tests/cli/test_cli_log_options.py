"""The options about logs: JSON, colours, a file that configures logging, and files that are reopened."""

from __future__ import annotations

import json
import re
import signal
import sys
import time

import pytest

from cyasgi import cli
from support.cli import file, get, listening, refused
from support.udp import Command

HTTP = ("--http", "127.0.0.1:0")
HELLO = "cyasgi.examples:hello"
FAILING = r"""
async def application(scope, receive, send):
    raise ZeroDivisionError("all\nof it")
"""
BY_FILE = {
    "logging.json": """{
        "version": 1,
        "formatters": {"plain": {"format": "MINE %(name)s %(message)s"}},
        "handlers": {"plain": {"class": "logging.StreamHandler", "formatter": "plain"}},
        "root": {"handlers": ["plain"], "level": "INFO"}
    }""",
    "logging.toml": """
        version = 1
        formatters.plain.format = "MINE %(name)s %(message)s"
        handlers.plain = {class = "logging.StreamHandler", formatter = "plain"}
        root = {handlers = ["plain"], level = "INFO"}
    """,
    "logging.yaml": """
version: 1
formatters: {plain: {format: "MINE %(name)s %(message)s"}}
handlers: {plain: {class: logging.StreamHandler, formatter: plain}}
root: {handlers: [plain], level: INFO}
""",
    "logging.ini": """
[loggers]
keys = root
[handlers]
keys = plain
[formatters]
keys = plain
[logger_root]
level = INFO
handlers = plain
[handler_plain]
class = StreamHandler
formatter = plain
args = ()
[formatter_plain]
format = MINE %(name)s %(message)s
""",
}


@pytest.mark.slow
def test_json(tmp_path):
    """Each entry is an object on a line of its own, tracebacks included, and so is the access log."""
    (tmp_path / "failing.py").write_text(FAILING, encoding="utf-8")
    arguments = [*HTTP, "--log-format", "json", "--access-log-file", "access.log"]
    with Command("serve", *arguments, "failing:application", cwd=tmp_path) as command:
        port = int(command.until(r'"message": "listening on http://127\.0\.0\.1:(\d+)"')[1])
        assert get(port)[0] == 500
        assert command.stop(signal.SIGTERM) == 0
    told = [json.loads(line) for line in command.lines]
    assert all(set(one) >= {"time", "level", "logger", "process", "message"} for one in told)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", told[0]["time"])
    (failure,) = [one for one in told if "exception" in one]
    assert failure["level"] == "ERROR" and failure["exception"].endswith("ZeroDivisionError: all\nof it")
    (access,) = map(json.loads, (tmp_path / "access.log").read_text(encoding="utf-8").splitlines())
    assert (access["status"], access["target"]) == (500, "/")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGUSR1")
@pytest.mark.parametrize("workers", [1, 2])
def test_reopening(tmp_path, workers):
    """On SIGUSR1 the access log and the files of handlers go on under their names; nothing is lost."""
    config = {
        "version": 1,
        "handlers": {
            "file": {"class": "logging.FileHandler", "filename": str(tmp_path / "server.log")},
            "stderr": {"class": "logging.StreamHandler"},
        },
        "root": {"handlers": ["file", "stderr"], "level": "INFO"},
    }
    (tmp_path / "logging.json").write_text(json.dumps(config), encoding="utf-8")
    arguments = [*HTTP, "--workers", str(workers), "--log-config", "logging.json", "--access-log-file", "access.log"]
    with Command("serve", *arguments, HELLO, cwd=tmp_path) as command:
        port = listening(command)
        if workers > 1:
            command.until("serves .* by 2 workers")
        assert get(port)[0] == 200
        for name in ("access", "server"):
            (tmp_path / f"{name}.log").rename(tmp_path / f"{name}.old")
        command.process.send_signal(signal.SIGUSR1)
        for _ in range(workers + (workers > 1)):
            command.until("log files were reopened")
        assert get(port)[0] == 200
        assert command.stop(signal.SIGTERM) == 0

    def lines(name):
        return (tmp_path / name).read_text(encoding="utf-8").splitlines()

    # The first line may have been written after the file had got another name.
    assert len(lines("access.old")) + len(lines("access.log")) == 2 and lines("access.log")
    assert any("listening" in line for line in lines("server.old"))
    assert any("stopp" in line for line in lines("server.log"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGUSR1")
def test_a_file_that_cannot_be_reopened(tmp_path):
    """Then the old one goes on, which is told."""
    (tmp_path / "logs").mkdir()
    with Command("serve", *HTTP, "--access-log-file", "logs/access.log", HELLO, cwd=tmp_path) as command:
        port = listening(command)
        (tmp_path / "logs").rename(tmp_path / "old")
        command.process.send_signal(signal.SIGUSR1)
        command.until("logs/access.log: No such file or directory: it was not reopened")
        assert get(port)[0] == 200
        assert command.stop(signal.SIGTERM) == 0
    assert len((tmp_path / "old" / "access.log").read_text(encoding="utf-8").splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_FILE)
def test_a_file_that_configures_logging(tmp_path, name):
    """It says where the server's loggers log to, and how; --log-level still says from which level on."""
    (tmp_path / name).write_text(BY_FILE[name], encoding="utf-8")
    with Command("serve", *HTTP, "--log-config", name, "--log-level", "info", HELLO, cwd=tmp_path) as command:
        assert get(listening(command))[0] == 200
        assert command.stop(signal.SIGTERM) == 0
    assert command.lines and all(line.startswith("MINE cyasgi") for line in command.lines)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.json", "{", "a.json does not configure logging: Expecting property name"),
        ("a.json", "[]", "a.json does not configure logging: "),
        ("a.json", "{}", "a.json does not configure logging: "),
        ("a.toml", "version = ", "a.toml does not configure logging: Invalid value"),
        ("a.yaml", "a: [", "a.yaml does not configure logging: "),
        ("a.json", '{"version": 1, "root": {"handlers": ["none"]}}', "a.json does not configure logging: Unable to"),
        ("a.ini", "nothing", "a.ini does not configure logging: "),
    ],
)
def test_files_that_do_not(tmp_path, capsys, monkeypatch, name, content, says):
    """What is wrong is told in one line."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    file(tmp_path, content, name)
    assert refused(capsys, [*HTTP, "--log-config", name, HELLO]).startswith(says)


def test_an_access_log_that_cannot_be_opened(tmp_path, capsys, monkeypatch):
    """That is told in one line, too."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr("cyasgi.cli.serving.configure_logging", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["serve", *HTTP, "--access-log-file", "none/access.log", HELLO]) == 1
    assert capsys.readouterr().err == "cyasgi: --access-log-file none/access.log: No such file or directory\n"


@pytest.mark.slow
@pytest.mark.parametrize(("option", "coloured"), [("--use-colors", True), ("--no-use-colors", False), (None, False)])
def test_colours(tmp_path, option, coloured):
    """Levels are coloured if that is asked for, and by default not in what is no terminal."""
    arguments = [*HTTP] if option is None else [*HTTP, option]
    with Command("serve", *arguments, HELLO, cwd=tmp_path) as command:
        listening(command)
        assert command.stop(signal.SIGTERM) == 0
    assert all(("\x1b[32mINFO\x1b[0m" in line) is coloured for line in command.lines if "INFO" in line)
    assert any("INFO" in line for line in command.lines)


OWN_HANDLER = """
import pathlib, signal, subprocess, sys

if {own}:
    signal.signal(signal.SIGUSR1, lambda number, frame: pathlib.Path("own").touch())
child = "import signal; print(signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL)"
pathlib.Path("child").write_text(subprocess.run([sys.executable, "-c", child], capture_output=True, text=True).stdout)

async def application(scope, receive, send):
    await send({{"type": "http.response.start", "status": 200, "headers": []}})
    await send({{"type": "http.response.body", "body": b"ok"}})
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGUSR1")
@pytest.mark.parametrize("own", [True, False])
def test_the_signal_is_the_application_s_first(tmp_path, own):
    """A handler of the application's own stays, and processes that it starts do not ignore the signal."""
    (tmp_path / "handling.py").write_text(OWN_HANDLER.format(own=own), encoding="utf-8")
    with Command("serve", *HTTP, "handling:application", cwd=tmp_path) as command:
        port = listening(command)
        command.process.send_signal(signal.SIGUSR1)
        if own:
            assert eventually_exists(tmp_path / "own")
        else:
            command.until("log files were reopened")
        assert get(port)[0] == 200
        assert command.stop(signal.SIGTERM) == 0
    assert (tmp_path / "child").read_text(encoding="utf-8") == "True\n"
    assert any("reopened" in line for line in command.lines) is not own


def eventually_exists(path):
    """Whether the file is there before patience ends."""
    ends = time.monotonic() + 30
    while not path.exists() and time.monotonic() < ends:
        time.sleep(0.01)
    return path.exists()
