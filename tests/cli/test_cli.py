"""The command, in processes of its own, and what it is made of."""

from __future__ import annotations

import asyncio
import importlib
import re
import signal
import socket
import sys
import time
from contextlib import closing, suppress

import pytest

import cyasgi
from cyasgi import cli
from cyasgi.cli import serving
from cyasgi.wire.address import format_address
from support.serving import output, python
from support.udp import Client, Command

ECHO = "cyasgi.examples:echo"
LOCAL = ("--udp", "127.0.0.1:0")


def ask(address, *data):
    """Sends datagrams to an address, each after the answer to the one before; gives the answers."""
    with socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(30)
        client.connect(address)
        answers = []
        for one in data:
            client.send(one)
            answers.append(client.recv(70_000))
        return answers


def application(path, name, code):
    """Writes a module into a directory."""
    (path / f"{name}.py").write_text(code, encoding="utf-8")


def complaint(command):
    """The exit code, and the one line that the command wrote."""
    code = command.wait()
    assert command.process.stdout.read() == ""
    (line,) = command.lines
    assert line.startswith("cyasgi: ")
    return code, line


# ---- serving -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["auto", "asyncio", "uvloop"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve(cy, tmp_path, loop, number):
    """The command serves, says what and where, and ends by a signal with code 0 and its counters as the last line."""
    with Command("serve", *LOCAL, "--loop", loop, ECHO, cwd=tmp_path, backend=cy.backend) as command:
        chosen = "uvloop" if loop == "auto" else loop
        command.until(rf"cyasgi {cy.__version__} serves {ECHO} \(back end {cy.backend}, loop {chosen}\)$")
        assert ask(command.listening(), b"hello", bytes(9000)) == [b"hello", bytes(9000)]
        assert command.stop(number) == 0
        assert re.search(r" stopped after \d+\.\d s: .*datagrams_received=2 datagrams_sent=2$", command.lines[-1])
        assert [line for line in command.lines if number.name in line]
        assert not [line for line in command.lines if "Warning" in line or "Traceback" in line]


@pytest.mark.slow
def test_the_event_loop_that_was_asked_for(tmp_path):
    """The application runs on the loop that --loop names."""
    application(
        tmp_path,
        "looks",
        """
import asyncio

async def application(scope, receive, send):
    while await receive():
        kind = type(asyncio.get_running_loop())
        await send({"type": "datagram.send", "data": kind.__module__.encode()})
""",
    )
    for loop in ("asyncio", "uvloop"):
        with Command("serve", *LOCAL, "--loop", loop, "looks:application", cwd=tmp_path) as command:
            (answer,) = ask(command.listening(), b"")
            assert answer.startswith(loop.encode())
            assert command.stop(signal.SIGTERM) == 0


@pytest.mark.slow
def test_several_addresses(tmp_path):
    """One server listens on several addresses, of both families."""
    arguments = [*LOCAL, "--udp", "[::1]:0", "--udp", "localhost:0"]
    with Command("serve", *arguments, "cyasgi.examples:counter", cwd=tmp_path) as command:
        for _ in range(3):
            assert ask(command.listening(), b"", b"") == [b"1\n", b"2\n"]
        assert command.stop(signal.SIGTERM) == 0


@pytest.mark.slow
def test_sigterm_loses_no_queued_work(cy, tmp_path):
    """A signal that finds work queued: all of it is done, and every answer arrives, before the process ends."""
    application(
        tmp_path,
        "slow",
        """
import asyncio

async def application(scope, receive, send):
    while True:
        data = (await receive())["data"]
        await asyncio.sleep(0.005)
        await send({"type": "datagram.send", "data": data})
""",
    )
    expected = [b"%d" % number for number in range(100)]
    with Command("serve", *LOCAL, "slow:application", cwd=tmp_path, backend=cy.backend) as command:
        address = command.listening()
        with closing(Client(address)) as first, closing(Client(address)) as second:
            for client in (first, second):
                client.socket.settimeout(30)
                client.send(*expected)
            answers = [[first.socket.recv(100)], [second.socket.recv(100)]]
            assert command.stop(signal.SIGTERM) == 0
            for client, got in zip((first, second), answers, strict=True):
                # All were sent before the process ended: nothing has to be waited for.
                client.socket.setblocking(False)
                got += [client.socket.recv(100) for _ in range(99)]
                assert got == expected
        assert "datagrams_received=200 datagrams_sent=200" in command.lines[-1]
        assert "undelivered" not in command.lines[-1]


@pytest.mark.slow
def test_a_second_signal_ends_at_once(tmp_path):
    """A second signal does not wait for the work; what is left is told."""
    application(
        tmp_path,
        "stuck",
        """
import asyncio

async def application(scope, receive, send):
    await send({"type": "datagram.send", "data": (await receive())["data"]})
    await asyncio.get_running_loop().create_future()
""",
    )
    with Command("serve", *LOCAL, "--shutdown-timeout", "1000", "stuck:application", cwd=tmp_path) as command:
        address = command.listening()
        assert ask(address, b"1") == [b"1"]
        with closing(Client(address)) as client:
            client.send(b"2", b"3")
            client.socket.settimeout(30)
            assert client.socket.recv(100) == b"2"
            command.process.send_signal(signal.SIGTERM)
            assert command.stop(signal.SIGINT) == 0
        assert "undelivered=1" in command.lines[-1]


@pytest.mark.slow
def test_options_reach_the_server(tmp_path):
    """What options say holds: here the most instances, the idle timeout and the length of queues."""
    arguments = [
        "--max-applications",
        "1",
        "--max-queue-size",
        "5",
        "--idle-timeout",
        "0.01",
        "--checker-interval",
        "0.001",
    ]
    with Command("serve", *LOCAL, *arguments, "cyasgi.examples:counter", cwd=tmp_path) as command:
        address = command.listening()
        with closing(Client(address)) as first, closing(Client(address)) as second:
            for client in (first, second):
                client.socket.settimeout(30)
            counts = []
            for _ in range(2):
                for client in (first, second):
                    client.send(b"")
                    counts.append(client.socket.recv(100))
            assert counts == [b"1\n"] * 4
        assert command.stop(signal.SIGTERM) == 0
        assert "created=4" in command.lines[-1]


@pytest.mark.slow
def test_a_failing_application_is_told_with_its_traceback(tmp_path):
    """What an application raises is logged with its traceback, and the server goes on."""
    application(
        tmp_path,
        "failing",
        """
async def application(scope, receive, send):
    data = (await receive())["data"]
    if data == b"fail":
        raise RuntimeError("on purpose")
    await send({"type": "datagram.send", "data": data})
""",
    )
    with Command("serve", *LOCAL, "failing:application", cwd=tmp_path) as command:
        address = command.listening()
        with closing(Client(address)) as client:
            client.send(b"fail")
            command.until("Traceback")
            command.until("RuntimeError: on purpose")
        assert ask(address, b"x") == [b"x"]
        assert command.stop(signal.SIGTERM) == 0
        assert "failed=1" in command.lines[-1]


@pytest.mark.slow
def test_log_level(tmp_path):
    """With a higher log level the command says nothing when all goes well."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        address = probe.getsockname()
    arguments = ["--udp", format_address(address), "--log-level", "warning"]
    with Command("serve", *arguments, ECHO, cwd=tmp_path) as command:
        for _ in range(3000):
            with suppress(ConnectionRefusedError):
                assert ask(address, b"x") == [b"x"]
                break
            time.sleep(0.01)
        assert command.stop(signal.SIGTERM) == 0
        assert command.lines == []


@pytest.mark.slow
def test_app_dir_and_factory(tmp_path):
    """The module is looked for in --app-dir; with --factory its attribute, dotted too, is called."""
    there = tmp_path / "there"
    there.mkdir()
    application(
        there,
        "made",
        """
class Factories:
    @staticmethod
    def create():
        from cyasgi.examples import echo
        return echo
""",
    )
    arguments = ["--app-dir", str(there), "--factory", "made:Factories.create"]
    with Command("serve", *LOCAL, *arguments, cwd=tmp_path) as command:
        assert ask(command.listening(), b"x") == [b"x"]
        assert command.stop(signal.SIGTERM) == 0


# ---- the examples --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sent", "expected"),
    [
        ("echo", [b"a", b""], [b"a", b""]),
        ("counter", [b"a", b"b"], [b"1\n", b"2\n"]),
        ("discard", [b"a", b"b"], []),
    ],
)
def test_examples(name, sent, expected):
    """The examples do what they say."""
    answers = asyncio.run(converse(getattr(importlib.import_module("cyasgi.examples"), name), sent))
    assert answers == expected


def test_daytime():
    """The time of day is a line of ASCII, in UTC."""
    (answer,) = asyncio.run(converse(importlib.import_module("cyasgi.examples").daytime, [b""]))
    assert re.fullmatch(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\r\n", answer)


def test_hello():
    """The page's application takes part in the lifespan, and refuses scopes that it does not know."""
    hello = importlib.import_module("cyasgi.examples").hello

    async def main():
        events = iter(["lifespan.startup", "lifespan.shutdown"])
        answers = []

        async def receive():
            return {"type": next(events)}

        async def send(message):
            answers.append(message)

        await hello({"type": "lifespan"}, receive, send)
        assert answers == [{"type": "lifespan.startup.complete"}, {"type": "lifespan.shutdown.complete"}]
        with pytest.raises(ValueError, match="'datagram'"):
            await hello({"type": "datagram"}, receive, send)

    asyncio.run(main())


async def converse(application, data):
    """Gives these data to an application, and what it sent."""
    messages = iter([{"type": "datagram.receive", "data": one} for one in data])
    answers = []

    async def receive():
        for message in messages:
            return message
        raise EOFError

    async def send(message):
        assert message["type"] == "datagram.send"
        answers.append(message["data"])

    with pytest.raises(EOFError):
        await application({"type": "datagram"}, receive, send)
    with pytest.raises(ValueError, match="'lifespan'"):
        await application({"type": "lifespan"}, receive, send)
    return answers


# ---- what the caller did wrong -------------------------------------------------------------------------------------


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
    application(tmp_path, "examples_of_mine", APPLICATIONS)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(cli.CommandError) as caught:
        cli.load_application(path, factory)
    monkeypatch.delitem(sys.modules, "examples_of_mine", raising=False)
    assert says in str(caught.value)
    assert caught.value.code == 2


def test_what_is_an_application(tmp_path, monkeypatch):
    """Applications of every kind are found, by dotted attributes and factories too."""
    application(tmp_path, "examples_of_mine", APPLICATIONS)
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
    application(tmp_path, "broken", code)
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


@pytest.mark.slow
def test_without_uvloop(tmp_path):
    """With uvloop not installed, --loop auto is asyncio."""
    code = """
        import os, signal, sys, threading
        sys.modules["uvloop"] = None
        from cyasgi.cli import main
        from cyasgi.gateways.datagram import DatagramServer

        class Server(DatagramServer):
            async def handle(self):
                os.kill(os.getpid(), signal.SIGTERM)
                await super().handle()

        import cyasgi.gateways.datagram
        cyasgi.gateways.datagram.DatagramServer = Server
        sys.exit(main(["serve", "--udp", "127.0.0.1:0", "cyasgi.examples:echo"]))
    """
    process = python(code, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert "loop asyncio)" in process.stderr


# ---- help ----------------------------------------------------------------------------------------------------------


def test_version(capsys):
    """--version tells the package's."""
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"cyasgi, version {cyasgi.__version__}\n"


def test_help(capsys):
    """--help names every option with its default, and the exit codes."""
    assert cli.main(["serve", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for option, default in (
        ("--udp", None),
        ("--factory", None),
        ("--app-dir", "."),
        ("--max-applications", "1000"),
        ("--max-queue-size", "1024"),
        ("--idle-timeout", "none"),
        ("--shutdown-timeout", "10.0"),
        ("--checker-interval", "0.1"),
        ("--loop", "auto"),
        ("--log-level", "info"),
    ):
        _, rest = re.split(rf" {option}(?: |, --)", text, maxsplit=1)
        if default is not None:
            assert f"[default: {default}]" in rest.partition(" --")[0]
    assert "Exit codes: 0 " in text


def test_without_a_command(capsys):
    """Called with nothing the command shows its help."""
    cli.main([])
    written = capsys.readouterr()
    assert "serve" in written.out + written.err


@pytest.mark.slow
def test_imports_little(tmp_path):
    """`import cyasgi` needs neither the command's nor the gateways' libraries."""
    code = """
        import sys
        for name in ("click", "uvloop", "dns", "django", "httptools", "watchfiles", "websockets"):
            sys.modules[name] = None
        import cyasgi
        print(sorted(name for name in sys.modules if name.startswith("cyasgi.") and "._" not in name))
    """
    (line,) = output(python(code, cwd=tmp_path))
    assert "gateways" not in line
    assert "cyasgi.cli" not in line


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
    application(tmp_path, "lying", LYING)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("lying")
    for name in ("wrapping", "claiming", "by_name", "silent"):
        assert cli.load_application(f"lying:{name}") is getattr(module, name)
    for name in ("create", "silent"):
        assert cli.load_application(f"lying:{name}", factory=True) is module.application
    with pytest.raises(cli.CommandError, match="is it a factory"):
        cli.load_application("lying:create")
    monkeypatch.delitem(sys.modules, "lying")
