"""Options of UDP's sockets: how the command reads them, and a socket that it has inherited."""

from __future__ import annotations

import signal
import socket
import sys

import pytest

from cyasgi.cli.servers import make_servers
from support.cli import ECHO, application, file, options as options, refused
from support.udp import Command

LOCAL = ("--udp", "127.0.0.1:0")
INHERITING = pytest.mark.skipif(sys.platform == "win32", reason="Windows passes sockets on in another way")


def test_options_of_sockets(options):
    """Each reaches the attribute of its name; one that is not given leaves it alone."""
    given = options(
        *LOCAL,
        *("--receive-buffer", "1000000", "--reuse-port", "--broadcast"),
        *("--multicast-groups", "239.1.2.3,ff02::fb", "--multicast-interface", "lo", ECHO),
    )
    assert given.limits == {
        "receive_buffer": 1_000_000,
        "reuse_port": True,
        "allow_broadcast": True,
        "multicast_groups": ("239.1.2.3", "ff02::fb"),
        "multicast_interface": "lo",
    }
    assert options(*LOCAL, ECHO).limits == {}
    names = ("--receive-buffer", "--multicast-groups", "--multicast-interface")
    none = [word for name in names for word in (name, "none")]
    assert options(*LOCAL, *none, "--no-reuse-port", ECHO).limits == {
        "receive_buffer": None,
        "reuse_port": False,
        "multicast_groups": (),
        "multicast_interface": None,
    }


def test_options_of_sockets_in_a_file(options, tmp_path):
    """A configuration file has them too."""
    content = 'udp = "127.0.0.1:0"\nreuse-port = true\nmulticast-groups = "239.1.2.3"\nreceive-buffer = 5000\n'
    given = options(*file(tmp_path, content), ECHO)
    assert given.limits == {"reuse_port": True, "multicast_groups": ("239.1.2.3",), "receive_buffer": 5000}


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--receive-buffer", "0", "a whole number from 1 to 1073741823, and none"),
        ("--multicast-groups", "192.0.2.1", "a list of multicast addresses with commas between them"),
        ("--multicast-groups", "", "a list of multicast addresses with commas between them"),
        ("--multicast-interface", "", "the name of a network interface, as in eth0, and none"),
        ("--udp", "fd://x", "fd://x: no socket of this name was passed by a service manager; those passed are: none"),
    ],
)
def test_values_that_are_refused(capsys, monkeypatch, option, value, says):
    """With what is accepted, before anything is served."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert says in refused(capsys, [*(LOCAL if option != "--udp" else ()), option, value, ECHO])


def inherited():
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock


@pytest.mark.slow
@INHERITING
@pytest.mark.parametrize("reload", [(), ("--reload",)])
def test_a_socket_that_was_inherited(tmp_path, reload):
    """`--udp fd://NUMBER` serves on it, in the process that --reload starts as well."""
    with inherited() as given, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(30)
        client.connect(given.getsockname())
        # Before anybody reads it: the socket is there already.
        client.send(b"early")
        arguments = ("serve", *reload, "--udp", f"fd://{given.fileno()}", ECHO)
        with Command(*arguments, cwd=tmp_path, pass_fds=(given.fileno(),)) as command:
            assert command.listening() == given.getsockname()
            assert client.recv(100) == b"early"
            assert command.stop(signal.SIGTERM) == 0


@pytest.mark.slow
@INHERITING
def test_a_descriptor_that_is_not_open(tmp_path):
    """Told in one line, as an address that is taken is."""
    with Command("serve", "--udp", "fd://999", ECHO, cwd=tmp_path) as command:
        assert command.wait() == 1
        assert command.lines[-1].endswith("cannot listen on fd://999: Bad file descriptor")


def test_the_proxy_protocol(options):
    """It is asked for by kind: what comes to the other listeners comes from clients."""
    listeners = (*LOCAL, "--http", "127.0.0.1:0")
    for option, kind in (("--proxy-protocol", "http"), ("--udp-proxy-protocol", "udp")):
        servers = make_servers(
            options(*listeners, option, "--forwarded-allow-ips", "10.0.0.0/8, unix", ECHO), application
        )
        assert {name for name, server in servers.items() if server.proxy_protocol} == {kind}
        assert {server.forwarded_allow_ips for server in servers.values()} == {("10.0.0.0/8", "unix")}
