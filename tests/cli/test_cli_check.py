"""``cyasgi check``: applications are loaded, started and stopped, and what is wrong with one is told."""

from __future__ import annotations

import sys

import pytest

from cyasgi import cli

STARTING = """
import asyncio

async def application(scope, receive, send):
    assert scope["type"] == "lifespan"
    await receive()
    open("started", "w").close()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    open("stopped", "w").close()
    await send({"type": "lifespan.shutdown.complete"})

async def refuses(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})

async def fails_to_stop(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    raise ValueError("not closed")

async def takes_no_part(scope, receive, send):
    raise NotImplementedError

async def never_starts(scope, receive, send):
    await asyncio.Event().wait()

async def leaves(scope, receive, send):
    raise SystemExit("told so")

async def raises(scope, receive, send):
    await receive()
    raise RuntimeError("database is down")

async def never_stops(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await asyncio.Event().wait()

async def leaves_quietly(scope, receive, send):
    await receive()
    raise SystemExit(0)

def make():
    return application
"""


@pytest.fixture
def check(tmp_path, monkeypatch, capsys):
    """check(*arguments) gives exit code, standard output and the last line of the errors."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr("cyasgi.cli.checking.configure_logging", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checked.py").write_text(STARTING, encoding="utf-8")

    def check(*arguments):
        monkeypatch.delitem(sys.modules, "checked", raising=False)
        code = cli.main(["check", *arguments])
        written = capsys.readouterr()
        return code, written.out, written.err.splitlines()[-1:]

    yield check
    sys.modules.pop("checked", None)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_all_is_well(check, tmp_path, loop):
    """It was started and stopped."""
    found = check("--loop", loop, "checked:application")
    assert found == (0, "checked:application: loaded, started and stopped\n", [])
    assert (tmp_path / "started").exists() and (tmp_path / "stopped").exists()


def test_without_the_lifespan(check, tmp_path):
    """Then it is loaded, and no more."""
    assert check("--lifespan", "off", "checked:application") == (0, "checked:application: loaded\n", [])
    assert not (tmp_path / "started").exists()
    assert check("checked:takes_no_part") == (0, "checked:takes_no_part: loaded\n", [])
    assert check("--factory", "checked:make")[:2] == (0, "checked:make: loaded, started and stopped\n")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["checked:refuses"], 1, "checked:refuses: the application failed to start: no database"),
        (["checked:fails_to_stop"], 1, "checked:fails_to_stop: the application failed to stop: it raised ValueError"),
        (["--lifespan", "on", "checked:takes_no_part"], 1, "takes no part in the lifespan protocol"),
        (["--startup-timeout", "0.05", "checked:never_starts"], 1, "it has not answered within 0.05 seconds"),
        (["checked:leaves"], 1, "checked:leaves: told so"),
        (["checked:leaves_quietly"], 1, "checked:leaves_quietly: the application has called sys.exit(0)"),
        (["checked:raises"], 1, "checked:raises: the application failed to start: it raised RuntimeError"),
        (["--shutdown-timeout", "0.05", "checked:never_stops"], 1, "did not stop within 0.05 seconds"),
        (["checked:none"], 2, "'checked' has no attribute 'none'"),
        (["no_such_module:x"], 2, "no_such_module"),
        (["checked:application", "checked:refuses"], 1, "checked:refuses: the application failed to start"),
        ([], 2, "Missing argument 'MODULE:ATTRIBUTE...'"),
        (["--workers", "2", "checked:application"], 2, "no such option: --workers"),
    ],
)
def test_what_is_wrong(check, arguments, code, says):
    """One line says what is wrong, and with which application."""
    found, _, (line,) = check(*arguments)
    assert (found, line.startswith("cyasgi: ")) == (code, True)
    assert says in line
