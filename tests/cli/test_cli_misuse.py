"""What the command cannot use, be it an argument, an application, an address or a library: one line says so."""

from __future__ import annotations

import importlib
import re
import socket
import sys

import pytest

from cyasgi import cli
from cyasgi.cli import serving
from cyasgi.wire.address import format_address
from support.cli import ECHO, LOCAL, write_module
from support.serving import python
from support.udp import Command


def complaint(command):
    """The exit code, and the one line that the command wrote."""
    code = command.wait()
    assert command.process.stdout.read() == ""
    (line,) = command.lines
    assert line.startswith("cyasgi: ")
    return code, line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["serve"], "Missing argument 'MODULE:ATTRIBUTE...'"),
        (["serve", ECHO], "nothing to listen on: give --http ADDRESS, --websocket ADDRESS, "),
        (["sreve"], "No such command 'sreve'"),
        (["serve", *LOCAL, ECHO, "more"], "'more' is not MODULE:ATTRIBUTE"),
        (["serve", *LOCAL, "--max-datagram-size", "65536", ECHO], "'65536': accepted is a whole number from"),
        (["serve", "--upd", "127.0.0.1:0", ECHO], "no such option: --upd; did you mean --udp?"),
        (["serve", "--udp", "9999", ECHO], "'9999' is not an address: accepted are HOST:PORT"),
        (["serve", "--udp", "127.0.0.1:65536", ECHO], "with a port from 0 to 65535"),
        (["serve", "--udp", "::1:9999", ECHO], "an IPv6 address stands in brackets"),
        (
            ["serve", *LOCAL, "--max-applications", "0", ECHO],
            "'0': accepted are a whole number of at least 1, and none",
        ),
        (["serve", *LOCAL, "--max-applications", "many", ECHO], "'many': accepted are a whole number"),
        (["serve", *LOCAL, "--max-queue-size", "-1", ECHO], "'-1': accepted is a whole number of at least 0"),
        (["serve", *LOCAL, "--max-queue-size", "1.5", ECHO], "'1.5': accepted is a whole number"),
        (
            ["serve", *LOCAL, "--idle-timeout", "0", ECHO],
            "'0': accepted are a number of seconds, more than 0, and none",
        ),
        (["serve", *LOCAL, "--idle-timeout", "nan", ECHO], "'nan': accepted are a number of seconds"),
        (["serve", *LOCAL, "--shutdown-timeout", "inf", ECHO], "'inf': accepted is a number of seconds, 0 or more"),
        (["serve", *LOCAL, "--shutdown-timeout", "none", ECHO], "'none': accepted is a number of seconds"),
        (["serve", *LOCAL, "--checker-interval", "x", ECHO], "'x': accepted is a number of seconds from 0.001 to 3600"),
        (["serve", *LOCAL, "--loop", "twisted", ECHO], "'twisted' is not one of 'auto', 'asyncio', 'uvloop'"),
        (["serve", *LOCAL, "--log-level", "loud", ECHO], "'loud' is not one of"),
        (["serve", *LOCAL, "--app-dir", "no/such/place", ECHO], "'no/such/place' does not exist"),
        (["serve", *LOCAL, "no_such_module:application"], "there is no module 'no_such_module'"),
        (["serve", *LOCAL, "cyasgi.examples:ehco"], "'cyasgi.examples' has no attribute 'ehco'"),
    ],
)
def test_misuse(arguments, says, capsys, monkeypatch):
    """Whatever is wrong with the arguments is told in one line on the standard error, with exit code 2."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(serving, "configure_logging", lambda *_: None)
    assert cli.main(arguments) == 2
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.startswith("cyasgi: ")
    assert written.err.count("\n") == 1
    assert says in written.err


APPLICATIONS = """
number = 7

def create():
    return lambda scope, receive, send: None

def create_nothing():
    return None

def two(scope, receive):
    pass

class Here:
    class There:
        async def application(self, receive, send):
            pass

class Double:
    def __init__(self, scope):
        pass
    async def __call__(self, receive, send):
        pass
"""


@pytest.mark.parametrize(
    ("path", "factory", "says"),
    [
        ("examples_of_mine", False, "'examples_of_mine' is not MODULE:ATTRIBUTE"),
        ("examples_of_mine:", False, "is not MODULE:ATTRIBUTE"),
        (":number", False, "is not MODULE:ATTRIBUTE"),
        ("", False, "'' is not MODULE:ATTRIBUTE"),
        (".examples_of_mine:number", False, "is not MODULE:ATTRIBUTE"),
        ("examples_of_mine:number.", False, "is not MODULE:ATTRIBUTE"),
        ("examples_of_mine:create()", False, "is not MODULE:ATTRIBUTE"),
        ("examples_of_mine.py:number", False, "name the module, not its file"),
        ("./examples_of_mine:number", False, "name the module, not its file"),
        ("examples_of_mine:number", False, "7 is not callable"),
        ("examples_of_mine:nothing", False, "has no attribute 'nothing'"),
        ("examples_of_mine:Here.nothing", False, "has no attribute 'Here.nothing'"),
        ("examples_of_mine:two", False, "it takes neither (scope, receive, send) nor, as in ASGI 2, (scope)"),
        ("examples_of_mine:create", False, "is it a factory (--factory)?"),
        ("examples_of_mine:number", True, "is not a factory, which is called without arguments: 7"),
        ("examples_of_mine:two", True, "is not a factory, which is called without arguments"),
        ("examples_of_mine:create_nothing", True, "'examples_of_mine:create_nothing()' is not an application: None"),
        ("examples_of_mine.sub:number", False, "there is no module 'examples_of_mine.sub'"),
        ("no_such_package.sub:number", False, "there is no module 'no_such_package'"),
        ("cyasgi.no_such:echo", False, "there is no module 'cyasgi.no_such'"),
    ],
)
def test_what_is_no_application(path, factory, says, tmp_path, monkeypatch):
    """A path that leads to no application is refused with what is wrong with it."""
    write_module(tmp_path, "examples_of_mine", APPLICATIONS)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(cli.CommandError) as caught:
        cli.load_application(path, factory)
    monkeypatch.delitem(sys.modules, "examples_of_mine", raising=False)
    assert says in str(caught.value)
    assert caught.value.code == 2


def test_what_is_an_application(tmp_path, monkeypatch):
    """Applications of every kind are found, by dotted attributes and factories too."""
    write_module(tmp_path, "examples_of_mine", APPLICATIONS)
    monkeypatch.syspath_prepend(tmp_path)
    load = cli.load_application
    module = importlib.import_module("examples_of_mine")
    assert load("examples_of_mine:Here.There.application") is module.Here.There.application
    assert load("examples_of_mine:Double") is module.Double
    assert callable(load("examples_of_mine:create", factory=True))
    assert load(ECHO) is importlib.import_module("cyasgi.examples").echo
    monkeypatch.delitem(sys.modules, "examples_of_mine")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "last"),
    [
        ("import asyncio\n1 / 0\n", "ZeroDivisionError: division by zero"),
        ("import no_such_library\n", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("import broken.sub\n", "ModuleNotFoundError: No module named 'broken.sub'; 'broken' is not a package"),
        ("def application(:\n", "SyntaxError: invalid syntax"),
        ("def application():\n    raise KeyError('on purpose')\n", "KeyError: 'on purpose'"),
    ],
)
def test_a_module_that_raises(code, last, tmp_path):
    """What the application's own module raises is shown with its traceback, but none of our lines; exit code 1."""
    write_module(tmp_path, "broken", code)
    with Command("serve", *LOCAL, "--factory", "broken:application", cwd=tmp_path) as command:
        assert command.wait() == 1
    assert last in command.lines
    assert [line for line in command.lines if "broken.py" in line]
    assert not [line for line in command.lines if "cyasgi" in line and "File" in line]
    assert re.fullmatch(r"cyasgi: 'broken:application' could not be loaded: it raised \w+", command.lines[-1])


@pytest.mark.slow
def test_a_port_that_is_taken(tmp_path):
    """A port that is taken ends the command with one line and exit code 1."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        where = format_address(taken.getsockname())
        with Command("serve", "--udp", where, ECHO, cwd=tmp_path) as command:
            assert complaint(command) == (1, f"cyasgi: cannot listen on udp {where}: Address already in use")


@pytest.mark.slow
def test_a_port_that_is_not_permitted(tmp_path):
    """A port that the system keeps for itself ends the command with one line and exit code 1."""
    code = """
        import errno, socket, sys

        class Socket(socket.socket):
            def bind(self, address):
                raise PermissionError(errno.EACCES, "Permission denied")

        socket.socket = Socket
        from cyasgi.cli import main
        sys.exit(main(["serve", "--udp", "127.0.0.1:53", "cyasgi.examples:echo"]))
    """
    process = python(code, cwd=tmp_path)
    assert process.returncode == 1
    assert process.stderr == "cyasgi: cannot listen on udp 127.0.0.1:53: Permission denied\n"


@pytest.mark.slow
@pytest.mark.parametrize("address", ["192.0.2.1:9999", "no-such-host.invalid:9999"])
def test_an_address_that_is_not_here(address, tmp_path):
    """An address of another machine and an unknown name end the command with one line and exit code 1."""
    with Command("serve", "--udp", address, ECHO, cwd=tmp_path) as command:
        code, line = complaint(command)
        assert code == 1
        assert line.startswith(f"cyasgi: cannot listen on udp {address}: ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("missing", "arguments", "says"),
    [
        ("click", [], "the command needs click: pip install 'cyasgi[cli]'"),
        (
            "uvloop",
            ["serve", *LOCAL, "--loop", "uvloop", ECHO],
            "--loop uvloop needs uvloop: pip install 'cyasgi[uvloop]'",
        ),
        (
            "httptools",
            ["serve", "--http", "127.0.0.1:0", ECHO],
            "--http needs httptools: pip install 'cyasgi[http]'",
        ),
        (
            "websockets",
            ["serve", "--websocket", "127.0.0.1:0", ECHO],
            "--websocket needs websockets: pip install 'cyasgi[websocket]'",
        ),
        *(
            (name, ["serve", *LOCAL, "--metrics", ":0", ECHO], f"--metrics needs {name}: pip install 'cyasgi[metrics]'")
            for name in ("httptools", "prometheus_client")
        ),
        ("dns", ["serve", *LOCAL, "cyasgi.dns:example"], "cyasgi.dns needs dnspython: pip install 'cyasgi[dns]'"),
    ],
)
def test_a_library_that_is_missing(missing, arguments, says, tmp_path):
    """A library that is not installed is named, with the extra that has it; exit code 1. (The compiled twin needs no
    httptools.)"""
    code = f"""
        import os, sys
        os.environ["CYASGI_BACKEND"] = "python"
        sys.modules[{missing!r}] = None
        from cyasgi.cli import main
        sys.exit(main({arguments!r}))
    """
    process = python(code, cwd=tmp_path)
    assert (process.returncode, process.stderr) == (1, f"cyasgi: {says}\n")


LYING = """
import functools

def nothing():
    pass

async def application(scope, receive, send):
    pass

@functools.wraps(application)
def create():
    return application

@functools.wraps(nothing)
async def wrapping(*args):
    pass

claiming = functools.wraps(nothing)(lambda scope, receive, send: application(scope, receive, send))

async def by_name(*, scope, receive, send):
    pass

class Silent:
    @property
    def __call__(self):
        return create

silent = Silent()
"""


def test_signatures_that_lie(tmp_path, monkeypatch):
    """What an application or a factory says of its parameters refuses nothing."""
    write_module(tmp_path, "lying", LYING)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("lying")
    for name in ("wrapping", "claiming", "by_name", "silent"):
        assert cli.load_application(f"lying:{name}") is getattr(module, name)
    for name in ("create", "silent"):
        assert cli.load_application(f"lying:{name}", factory=True) is module.application
    with pytest.raises(cli.CommandError, match="is it a factory"):
        cli.load_application("lying:create")
    monkeypatch.delitem(sys.modules, "lying")
