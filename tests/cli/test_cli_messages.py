"""What the command says to somebody who mistypes, repeats, or uses what other servers call otherwise."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from support.cli import ECHO, file, options as options, refused
from support.loops import PATIENCE
from support.serving import environment
from support.udp import Command

HTTP = ("--http", "127.0.0.1:0")

# ---- options given twice


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--port", "1", "--port", "2"], "--port is given 2 times, but takes one value"),
        (["--log-level", "info", "--log-level=debug"], "--log-level is given 2 times"),
        (["--shutdown-timeout", "1", "--timeout-graceful-shutdown", "2"], "is given 2 times"),
        (["--access-log", "--no-access-log"], "--access-log/--no-access-log is given 2 times"),
        (["--reload", "--reload", "--reload"], "--reload is given 3 times"),
        (["--lifespan", "on", "--lifespan", "on"], "--lifespan is given 2 times"),
    ],
)
def test_an_option_that_has_one_value_is_given_once(arguments, says, capsys):
    """The last one does not win without a word."""
    assert says in refused(capsys, [*HTTP, *arguments, ECHO])


def test_several_hosts(options):
    """Each is served, on the one port."""
    given = options("--host", "127.0.0.1", "--host", "::1", "--port", "80", ECHO)
    assert given.listeners["http"] == [(("127.0.0.1", 80), None), (("::1", 80), None)]


def test_several_hosts_in_a_file(options, tmp_path):
    given = options(*file(tmp_path, 'host = ["127.0.0.1", "::1"]'), ECHO)
    assert given.listeners["http"] == [(("127.0.0.1", 8000), None), (("::1", 8000), None)]


# ---- options of other servers, and typing errors


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["--max-requests", "4"],
            "no such option: --max-requests; here that is --limit-max-requests",
        ),
        (["-w", "4"], "no such option: -w; here that is --workers"),
        (["--bind", ":80"], "no such option: --bind; here that is --http ADDRESS, --udp ADDRESS or --unix PATH"),
        (["-b", ":80"], "no such option: -b; here that is --http ADDRESS"),
        (["--certfile", "x"], "no such option: --certfile; here that is --ssl-certfile"),
        (["--ssl-certificate", "x"], "no such option: --ssl-certificate; here that is --ssl-certfile"),
        (["--graceful-timeout", "1"], "no such option: --graceful-timeout; here that is --shutdown-timeout"),
        (["--h11-max-incomplete-event-size", "1"], "here that is --max-header-size"),
        (["--ws-per-message-deflate", "false"], "here that is --websocket-compression and --no-websocket-compression"),
        (["--log-file", "x"], "no such option: --log-file; --log-config names a file that configures"),
        (["--interface", "asgi"], "no such option: --interface; cyasgi finds out which kind of application it has"),
        (["--ws", "wsproto"], "no such option: --ws; WebSockets are served where the library websockets is installed"),
        (["--max-conections", "1"], "no such option: --max-conections; did you mean --max-connections?"),
        (["--something-else", "1"], "no such option: --something-else"),
    ],
)
def test_options_of_other_servers(arguments, says, capsys):
    """The name that the option has here, or what to do instead."""
    assert says in refused(capsys, [*HTTP, *arguments, ECHO])


def test_the_hints_name_options_that_exist():
    """What the hints send people to is there, and what they explain is not."""
    from cyasgi.cli import hints, options as table

    known = {name for one in table.parameters() for name in (*one.opts, *one.secondary_opts)}
    for name, called in hints.CALLED.items():
        assert name not in known
        assert {word.rstrip(",") for word in called.split() if word.startswith("--")} <= known, called
    assert known.isdisjoint(hints.MISSING)


@pytest.mark.parametrize("value", ["auto", "h11", "httptools", "1", "2"])
def test_http_is_an_address(value, capsys):
    """uvicorn's and granian's --http chooses a parser or a version."""
    says = f"{value!r} is not an address: here --http is the address to listen on, as in --http 127.0.0.1:8000"
    assert says in refused(capsys, ["--http", value, ECHO])


def test_names_in_a_file(capsys, tmp_path, monkeypatch):
    """A typing error is told with what was meant; a name of another server with the one that it has here."""
    monkeypatch.chdir(tmp_path)
    arguments = [*HTTP, *file(tmp_path, "max-conections = 5")]
    assert refused(capsys, [*arguments, ECHO]).endswith("unknown name 'max-conections'; did you mean max-connections?")
    arguments = [*HTTP, *file(tmp_path, "graceful_timeout = 5")]
    assert refused(capsys, [*arguments, ECHO]).endswith(
        "unknown name 'graceful_timeout'; here that is --shutdown-timeout"
    )


# ---- options that do nothing


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--http", ":0", "--unix-permissions", "660"], "--unix-permissions: no effect without --unix"),
        (["--unix", "x", "--ssl-certfile", "x.pem"], "--ssl-certfile: no effect, since no listener has TLS"),
        (["--http", "http://:0", "--ssl-certfile", "x.pem"], "--ssl-certfile: no effect, since no listener has TLS"),
        (["--udp", ":0", "--ssl-certfile", "x.pem"], "--ssl-certfile: no effect, since no listener has TLS"),
        ([*HTTP, "--ssl-certfile", "x.pem", "--ssl-cert-reqs", "none"], "--ssl-cert-reqs: no effect without"),
        ([*HTTP, "--ssl-certfile", "x.pem", "--ssl-crl", "x.pem"], "--ssl-crl: no effect without --ssl-ca-certs"),
        ([*HTTP, "--reload-dir", "."], "--reload-dir: no effect without --reload"),
        ([*HTTP, "--reload-include", "*.html"], "--reload-include: no effect without --reload"),
        (["--udp", ":0", "--max-body-size", "5"], "--max-body-size: no effect, since nothing serves HTTP"),
        (["--udp", ":0", "--no-strict"], "--strict: no effect, since nothing serves HTTP or WebSockets"),
        (["--udp", ":0", "--startup-timeout", "5"], "--startup-timeout: no effect on UDP alone without --lifespan on"),
        ([*HTTP, "--startup-timeout", "5", "--lifespan", "off"], "--startup-timeout: no effect with --lifespan off"),
        (["--udp", ":0", "--root-path", "/api"], "--root-path: no effect, since nothing serves HTTP"),
        ([*HTTP, "--idle-timeout", "5"], "--idle-timeout: no effect, since nothing serves datagrams"),
        ([*HTTP, "--message-burst", "5"], "--message-burst: no effect without --max-messages-per-second"),
        (
            [*HTTP, "--forwarded-allow-ips", "*"],
            "--forwarded-allow-ips: no effect without --proxy-headers or --proxy-protocol",
        ),
        (
            ["--udp", ":0", "--forwarded-allow-ips", "*"],
            "--forwarded-allow-ips: no effect without --udp-proxy-protocol",
        ),
        (["--udp", ":0", "--proxy-protocol"], "--proxy-protocol: no effect, since nothing serves HTTP"),
        ([*HTTP, "--udp-proxy-protocol"], "--udp-proxy-protocol: no effect, since nothing serves datagrams"),
        ([*HTTP, "--forwarded-headers", "forwarded"], "--forwarded-headers: no effect without --proxy-headers"),
        (
            ["--unix", "x", "--max-instances-per-client", "5"],
            "--max-instances-per-client: no effect on --unix without --proxy-headers or --proxy-protocol",
        ),
    ],
)
def test_options_without_effect(arguments, says, options, tmp_path):
    """Said at the start, as a warning: whoever gave the option believes in it."""
    (tmp_path / "x.pem").write_text("", encoding="utf-8")
    (sentence,) = options(*arguments, ECHO).ignored
    assert sentence.startswith(says)


@pytest.mark.parametrize(
    "arguments",
    [
        [*HTTP, "--ssl-certfile", "x.pem"],
        ["--http", "http://:0", "--http", ":0", "--ssl-certfile", "x.pem"],
        [*HTTP, "--reload", "--reload-dir", "."],
        ["--udp", ":0", *HTTP, "--max-body-size", "5", "--idle-timeout", "5", "--root-path", "/api"],
        ["--unix", "x", "--max-age", "5"],
        ["--unix", "x", "--proxy-protocol", "--forwarded-allow-ips", "unix", "--max-instances-per-client", "5"],
        ["--udp", ":0", "--udp-proxy-protocol", "--forwarded-allow-ips", "10.0.0.0/8"],
        ["--unix", "x", "--proxy-headers", "--max-instances-per-client", "5"],
        [*HTTP, "--proxy-headers", "--forwarded-allow-ips", "10.0.0.0/8, unix", "--forwarded-headers", "forwarded"],
        [*HTTP, "--max-messages-per-second", "5", "--message-burst", "5"],
        ["--udp", ":0", "--max-applications", "5", "--shutdown-timeout", "1", "--lifespan", "on"],
        ["--udp", ":0", "--startup-timeout", "5", "--lifespan", "on"],
        [*HTTP, "--startup-timeout", "5"],
    ],
)
def test_options_with_effect(arguments, options, tmp_path, monkeypatch):
    from cyasgi.cli import reloading

    (tmp_path / "x.pem").write_text("", encoding="utf-8")
    monkeypatch.setattr(reloading, "inherited", dict)
    assert options(*arguments, ECHO).ignored == []


@pytest.mark.slow
def test_what_has_no_effect_is_logged(tmp_path):
    arguments = ["--udp", "127.0.0.1:0", "--max-body-size", "5"]
    with Command("serve", *arguments, ECHO, cwd=tmp_path, CYASGI_SERVE_MAX_AEG="1") as command:
        command.listening()
        assert command.stop(signal.SIGTERM) == 0
        warnings = [line.partition(" WARNING cyasgi: ")[2] for line in command.lines if " WARNING " in line]
        assert warnings == [
            "CYASGI_SERVE_MAX_AEG is not the environment variable of any option; did you mean CYASGI_SERVE_MAX_AGE?",
            "--max-body-size: no effect, since nothing serves HTTP or WebSockets",
        ]


# ---- values


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--weight", "2", ECHO, ECHO], "--weight is given once for 2 applications: give it once for each"),
        (["--root-path", "api", ECHO], "'api': accepted is a path as in /api"),
        (
            ["--udp", "127.0.0.1:0", "--max-datagram-size", "70000", ECHO],
            "'--max-datagram-size': '70000': accepted is a whole number from 1 to 65535",
        ),
    ],
)
def test_messages_name_options(arguments, says, capsys, monkeypatch):
    """Not the attributes of servers and the arguments of functions that the options become."""
    from cyasgi.cli import serving

    monkeypatch.setattr(serving, "configure_logging", lambda *_: None)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert says in refused(capsys, [*HTTP, *arguments])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("async def create(): pass", "is an async def, but a factory must return the application at once"),
        ("async def make(): pass\ndef create(): return make()", "returned a coroutine, but a factory must return"),
    ],
)
def test_a_factory_that_is_async(tmp_path, code, says):
    """Told in one line, without a warning of a coroutine that was never awaited."""
    (tmp_path / "made.py").write_text(code, encoding="utf-8")
    with Command("serve", *HTTP, "--factory", "made:create", cwd=tmp_path) as command:
        assert command.wait() == 2
        (line,) = command.lines
        assert line.startswith("cyasgi: 'made:create' ") and says in line


# ---- before the command has begun


def script(*arguments, prelude="", **changes):
    """Run what the script `cyasgi` runs; gives its exit code and what it wrote to the standard error."""
    code = f"{prelude}\nimport sys\nfrom _cyasgi_command import main\nsys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.mark.slow
def test_a_back_end_that_there_is_not():
    code, said = script("serve", *HTTP, ECHO, CYASGI_BACKEND="rust")
    assert (code, said) == (
        2,
        "cyasgi: CYASGI_BACKEND='rust': accepted are cython, python, or nothing for either\n",
    )


@pytest.mark.slow
@pytest.mark.parametrize("module", ["asyncio", "cyasgi.server", "click", "cyasgi.cli.options"])
def test_interrupted_while_it_is_imported(module):
    """Ctrl-C in the first tenth of a second ends it as any other does: code 130, and no traceback."""
    prelude = f"""
import sys

class Interrupts:
    def find_spec(self, name, *_):
        if name == {module!r}:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupts())
"""
    assert script("serve", *HTTP, ECHO, prelude=prelude) == (130, "")


@pytest.mark.slow
def test_another_import_error_keeps_its_traceback(tmp_path):
    """What is broken in an installation is not hidden."""
    (tmp_path / "asgiref.py").write_text("", encoding="utf-8")
    code, said = script("serve", *HTTP, ECHO, PYTHONPATH=os.pathsep.join([str(tmp_path), *sys.path]))
    assert code == 1
    assert "Traceback" in said and "asgiref" in said


@pytest.mark.parametrize(
    ("option", "value", "accepted"),
    [
        ("--forwarded-allow-ips", "localhost", "a list, with commas between them, of IP addresses"),
        ("--forwarded-allow-ips", "", "accepted is a list"),
        ("--forwarded-headers", "x-real-ip", "of names among x-forwarded-for, x-forwarded-proto"),
        ("--forwarded-headers", "forwarded,x-forwarded-for", "not forwarded together with one that says the same"),
    ],
)
def test_proxies(capsys, option, value, accepted):
    """Who cannot be trusted, and headers that cannot be read, are refused with what is accepted."""
    error = refused(capsys, [*HTTP, option, value, ECHO])
    assert repr(value) in error and accepted in error
