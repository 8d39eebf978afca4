"""The command: its options, a configuration file, and what it says when it refuses one."""

from __future__ import annotations

import http.client
import sys
from contextlib import closing

import pytest

from cyasgi import cli
from cyasgi.cli import serving

ECHO = "cyasgi.examples:echo"
LOCAL = ("--udp", "127.0.0.1:0")


@pytest.fixture
def options(monkeypatch, tmp_path):
    """options(*arguments) gives the options that the command would have served with, options.call its exit code too."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(serving, "configure_logging", lambda *_: None)
    monkeypatch.chdir(tmp_path)

    def serve(given, *_, **__):
        seen.append(given)
        return 0

    def call(*arguments):
        status = cli.main(["serve", *arguments])
        return status, seen.pop() if seen else None

    def options(*arguments):
        status, given = call(*arguments)
        assert status == 0
        return given

    options.call = call

    seen = []
    monkeypatch.setattr(serving, "serve", serve)
    return options


def file(tmp_path, content, name="cyasgi.toml"):
    (tmp_path / name).write_text(content, encoding="utf-8")
    return ["--config", name]


def refused(capsys, arguments):
    """The one line that the command ends with, called wrongly."""
    assert cli.main(["serve", *arguments]) == 2
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.startswith("cyasgi: ") and written.err.count("\n") == 1
    return written.err.removeprefix("cyasgi: ").rstrip()


async def application(scope, receive, send):
    """Serves nothing."""


def listening(command, pattern=r"http://127\.0\.0\.1:(\d+)"):
    """The port that the command says next that it listens on."""
    return int(command.until(rf"listening on {pattern}$")[1])


def get(port, path="/", *, context=None):
    """The status and the body of an answer."""
    if context is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    else:
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=context)
    with closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()


def write_module(path, name, code):
    """Writes a module into a directory."""
    (path / f"{name}.py").write_text(code, encoding="utf-8")
