"""Where options come from: the command line, the environment, a file; and what is wrong in them."""

from __future__ import annotations

import logging
import sys

import pytest

from cyasgi import cli
from cyasgi.cli import reloading, serving

ECHO = "cyasgi.examples:echo"


@pytest.fixture
def options(monkeypatch, tmp_path):
    """options(*arguments) gives the options that the command would have served with."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    monkeypatch.chdir(tmp_path)

    def serve(given):
        seen.append(given)
        return 0

    def options(*arguments):
        assert cli.main(["serve", *arguments]) == 0
        return seen.pop()

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


def test_what_nobody_has_said(options):
    """Limits that nobody has set are left to the servers."""
    given = options("--udp", "127.0.0.1:0", ECHO)
    assert given.limits == {}
    assert given.listeners["udp"] == [("127.0.0.1", 0)]
    assert given.applications == (ECHO,)


def test_a_file_says_it_all(options, tmp_path):
    """A file has whatever options have, by the same names, with dashes or underscores."""
    config = file(
        tmp_path,
        f"""
        application = "{ECHO}"
        udp = ["127.0.0.1:0", "[::1]:0"]
        max-applications = 5
        max_queue_size = "7"
        idle-timeout = "none"
        timeout-graceful-shutdown = 2.5
        factory = false
        log-level = "warning"
        """,
    )
    given = options(*config)
    assert given.applications == (ECHO,)
    assert given.listeners["udp"] == [("127.0.0.1", 0), ("::1", 0)]
    assert given.limits == {
        "max_applications": 5,
        "max_queue_size": 7,
        "idle_timeout": None,
        "shutdown_timeout": 2.5,
    }
    assert (given.factory, given.log_level) == (False, "warning")


def test_precedence(options, tmp_path, monkeypatch):
    """The command line comes before the environment, that before the file, and that before the default."""
    config = file(
        tmp_path,
        'application = "no:file"\nudp = "127.0.0.1:1"\nmax-applications = 1\nmax-queue-size = 1\nidle-timeout = 1\n',
    )
    monkeypatch.setenv("CYASGI_SERVE_MAX_APPLICATIONS", "2")
    monkeypatch.setenv("CYASGI_SERVE_MAX_QUEUE_SIZE", "2")
    monkeypatch.setenv("CYASGI_SERVE_UDP", "127.0.0.1:2 [::1]:2")
    given = options(*config, "--max-applications", "3")
    assert given.limits == {"max_applications": 3, "max_queue_size": 2, "idle_timeout": 1.0}
    assert given.listeners["udp"] == [("127.0.0.1", 2), ("::1", 2)]
    assert given.applications == ("no:file",)
    monkeypatch.setenv("CYASGI_SERVE_APPLICATION", "no:environment")
    assert options(*config).applications == ("no:environment",)
    given = options(*config, "--udp", "127.0.0.1:3", "no:command_line")
    assert given.applications == ("no:command_line",)
    assert given.listeners["udp"] == [("127.0.0.1", 3)]


def test_the_environment(options, tmp_path, monkeypatch):
    """The environment has every option, the file's name too; an empty variable says nothing."""
    file(tmp_path, f'application = "{ECHO}"\nudp = ":0"\n', "elsewhere.toml")
    monkeypatch.setenv("CYASGI_SERVE_CONFIG", "elsewhere.toml")
    monkeypatch.setenv("CYASGI_SERVE_FACTORY", "true")
    monkeypatch.setenv("CYASGI_SERVE_LOG_LEVEL", "")
    monkeypatch.setenv("CYASGI_SERVE_CHECKER_INTERVAL", "0.5")
    given = options()
    assert (given.factory, given.log_level, given.config) == (True, "info", "elsewhere.toml")
    assert given.limits == {"application_checker_interval": 0.5}


def test_variables_that_are_none_of_ours(options, monkeypatch):
    """A variable that looks like an option's and is none is told; those of other parts of cyasgi are not."""
    monkeypatch.setenv("CYASGI_SERVE_MAX_APPLICATION", "2")
    monkeypatch.setenv("CYASGI_BACKEND", "python")
    monkeypatch.setenv("CYASGI_EXTENSION", "none")
    assert options("--udp", ":0", ECHO).ignored == ["CYASGI_SERVE_MAX_APPLICATION"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("max-aplications = 5", "unknown name 'max-aplications'; accepted are app-dir, application, "),
        ("[serve]\nmax-applications = 5", "unknown name 'serve'"),
        ('config = "other.toml"', "unknown name 'config'"),
        ("max-applications = 5\nmax_applications = 5", "'max_applications' says what another name has said already"),
        ("max-applications = 0", "'0': accepted are a whole number of at least 1, and none"),
        ("max-applications = true", "max-applications = True: accepted are a string and a number"),
        ("max-applications = [1]", "accepted are a string and a number"),
        ("idle-timeout = 2020-01-01", "accepted are a string and a number"),
        ("udp = 9999", "accepted are a string and an array of strings"),
        ('udp = ["127.0.0.1:0", 5]', "accepted are a string and an array of strings"),
        ('udp = "9999"', "'9999' is not an address"),
        ('factory = "yes"', "accepted are true and false"),
        ('log-level = "loud"', "'loud' is not one of"),
        ('app-dir = "no/such/place"', "'no/such/place' does not exist"),
        ("max-applications 5", "is not TOML: "),
        ("max-applications = 5\nmax-applications = 6", "is not TOML: "),
    ],
)
def test_what_is_wrong_in_a_file(content, says, options, tmp_path, capsys):
    """Whatever is wrong in a file is told in one line that names the file and what is accepted."""
    line = refused(
        capsys,
        [*file(tmp_path, content), "--udp", ":0", ECHO] if "udp" not in content else [*file(tmp_path, content), ECHO],
    )
    assert line.startswith("cyasgi.toml")
    assert says in line


def test_a_file_that_cannot_be_read(options, tmp_path, capsys):
    """A file that is not there, a directory and bytes that are no text are refused."""
    assert "'no.toml' does not exist" in refused(capsys, ["--config", "no.toml", ECHO])
    assert "is a directory" in refused(capsys, ["--config", ".", ECHO])
    (tmp_path / "bytes.toml").write_bytes(b'udp = "\xff"')
    assert "bytes.toml is not TOML" in refused(capsys, ["--config", "bytes.toml", ECHO])


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("MAX_APPLICATIONS", "many", "'many': accepted are a whole number of at least 1"),
        ("UDP", "127.0.0.1:0 9999", "'9999' is not an address"),
        ("FACTORY", "perhaps", "'perhaps' is not a valid boolean"),
        ("LOOP", "twisted", "'twisted' is not one of"),
        ("CONFIG", "no.toml", "'no.toml' does not exist"),
    ],
)
def test_what_is_wrong_in_the_environment(name, value, says, options, monkeypatch, capsys):
    """Whatever is wrong in the environment is told with the variable's name."""
    monkeypatch.setenv(f"CYASGI_SERVE_{name}", value)
    line = refused(capsys, [ECHO] if name == "UDP" else ["--udp", ":0", ECHO])
    assert line.startswith(f"environment variable CYASGI_SERVE_{name}: ")
    assert says in line


def test_names_have_an_option_each(options):
    """Every option but --config can stand in the file, and every one in the environment under its own name."""
    import click

    from cyasgi.cli import configuration, options as table

    parameters = table.parameters()
    variables = [configuration.variable(parameter) for parameter in parameters]
    assert len(set(variables)) == len(variables)
    for parameter in parameters:
        if isinstance(parameter, click.Option):
            assert (
                configuration.variable(parameter) == "CYASGI_SERVE_" + parameter.opts[0][2:].replace("-", "_").upper()
            )


def test_reload_is_for_the_process_that_was_started(options, monkeypatch):
    """--reload supervises, and serves in the process that it has started, which marks none of its own children."""
    supervised = []
    monkeypatch.setattr(reloading, "supervise", lambda given, arguments: supervised.append(arguments) or 0)
    arguments = ["serve", "--reload", "--udp", ":0", ECHO]
    assert cli.main(arguments) == 0
    assert supervised == [arguments]
    monkeypatch.setenv(reloading.MARK, "1")
    assert options(*arguments[1:]).reload is True
    assert cli.main(arguments) == 0
    assert supervised == [arguments] * 2
