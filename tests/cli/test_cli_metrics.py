"""`--metrics`: which addresses are accepted, and what becomes of one."""

from __future__ import annotations

import socket
import sys

import pytest

from cyasgi import cli
from cyasgi.cli import supervising
from support.cli import refused

SERVE = ("--udp", "127.0.0.1:0", "cyasgi.examples:echo")


@pytest.fixture
def supervised(monkeypatch):
    """supervised(*arguments) gives what the supervising process would be told."""
    given = []
    monkeypatch.setattr(supervising, "supervise", lambda options, _: given.append(options) or 0)

    def told(*arguments):
        assert cli.main(["serve", *arguments, *SERVE]) == 0
        return given.pop()

    return told


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9090", "127.0.0.1:9090"),
        (":9090", ":9090"),
        ("[::1]:0", "[::1]:0"),
        ("localhost:1", "localhost:1"),
        ("unix:/run/app/metrics.sock", "unix:/run/app/metrics.sock"),
    ],
)
def test_addresses(supervised, text, address):
    """One worker gets a supervising process as well."""
    from cyasgi.gateways.net.sockets import Listener

    found = supervised("--metrics", text)
    assert found.metrics == address
    assert found.supervision.count == 1
    Listener(address)


def test_in_the_configuration(supervised, tmp_path, monkeypatch):
    (tmp_path / "c.toml").write_text('metrics = "127.0.0.1:9091"\n', encoding="utf-8")
    assert supervised("--config", str(tmp_path / "c.toml")).metrics == "127.0.0.1:9091"
    monkeypatch.setenv("CYASGI_SERVE_METRICS", ":9092")
    assert supervised().metrics == ":9092"


@pytest.mark.parametrize("text", ["", "9090", "127.0.0.1", "127.0.0.1:x", "http://127.0.0.1:9090", ":70000", "unix:"])
def test_misuse(text, capsys):
    said = refused(capsys, ["--metrics", text, *SERVE])
    assert "--metrics" in said and f"{text!r}: accepted are HOST:PORT, [IPV6]:PORT, :PORT and unix:PATH" in said


def test_with_reload(capsys):
    assert "leave out --workers" in (said := refused(capsys, ["--reload", "--metrics", ":9090", *SERVE]))
    assert "--metrics" in said


@pytest.mark.skipif(sys.platform == "win32", reason="it needs processes that inherit sockets")
def test_an_address_in_use(capsys):
    """One line, and nothing is left open."""
    pytest.importorskip("prometheus_client")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["serve", "--metrics", f"127.0.0.1:{port}", *SERVE]) == 1
    said = capsys.readouterr().err
    assert f"cyasgi: --metrics: cannot listen on tcp 127.0.0.1:{port}: " in said
    assert "Traceback" not in said
