"""What the supervising process binds: sockets for each worker, or one for all."""

from __future__ import annotations

import os
import socket
import stat

import pytest

from cyasgi.gateways.datagram import DatagramServer
from cyasgi.gateways.http import HTTPServer
from cyasgi.gateways.net.sockets import ListenError
from cyasgi.workers import SharedSockets


async def application(scope, receive, send):
    """Serves nothing."""


@pytest.fixture
def shared():
    """shared(**servers) gives their sockets, which are closed in the end."""
    made = []

    def make(**servers):
        made.append(SharedSockets(servers))
        return made[-1]

    yield make
    for one in made:
        one.close()


def address(descriptor):
    with socket.socket(fileno=os.dup(descriptor)) as sock:
        return sock.getsockname()


def test_a_socket_for_each_worker(shared):
    """All are bound to the same address, also where the port was any free one, and none of them listens yet."""
    sockets = shared(
        http=HTTPServer(application, binds="127.0.0.1:0"), udp=DatagramServer(application, binds="127.0.0.1:0")
    )
    first, second = sockets.sets[0], sockets.add()
    one, other = sockets.descriptors([first]), sockets.descriptors([second])
    for kind in ("http", "udp"):
        [[mine]], [[yours]] = one[kind], other[kind]
        assert mine != yours
        assert address(mine) == address(yours)
    assert sockets.descriptors([first, second])["udp"] == [one["udp"][0] + other["udp"][0]]
    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect(address(one["http"][0][0]))


def test_a_unix_socket_is_shared(shared, tmp_path):
    """It has its permissions, and its path goes with it."""
    path = tmp_path / "socket"
    sockets = shared(http=HTTPServer(application, binds=f"unix:{path}"))
    second = sockets.add()
    assert sockets.descriptors([sockets.sets[0]]) == sockets.descriptors([second])
    assert len(sockets.descriptors(sockets.sets)["http"][0]) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    sockets.close()
    assert not path.exists()


def test_what_every_socket_would_get_is_for_one_worker(shared):
    """A socket with groups or broadcasts, and one that was handed in, belong to the first set alone."""
    server = DatagramServer(application, binds=":0")
    server.multicast_groups = ("239.1.2.3",)
    sockets = shared(udp=server)
    assert sockets.descriptors([sockets.add()]) == {"udp": [[]]}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as given:
        given.bind(("127.0.0.1", 0))
        sockets = shared(udp=DatagramServer(application, binds=given))
        assert sockets.descriptors([sockets.add()]) == {"udp": [[]]}
        assert address(sockets.descriptors(sockets.sets)["udp"][0][0]) == given.getsockname()


@pytest.mark.parametrize("kind", ["http", "udp"])
def test_an_address_that_is_taken(shared, kind):
    """Though another server of this user would share it."""
    make = HTTPServer if kind == "http" else DatagramServer
    taken = shared(**{kind: make(application, binds="127.0.0.1:0")})
    [[descriptor]] = taken.descriptors(taken.sets)[kind]
    port = address(descriptor)[1]
    with pytest.raises(ListenError, match=f"127.0.0.1:{port}: Address already in use"):
        shared(**{kind: make(application, binds=f"127.0.0.1:{port}")})
    taken.close()
    shared(**{kind: make(application, binds=f"127.0.0.1:{port}")})


def test_a_group_that_no_socket_receives(shared):
    server = DatagramServer(application, binds="127.0.0.1:0")
    server.multicast_groups = ("239.1.2.3",)
    with pytest.raises(ListenError, match=r"no socket can receive from the multicast group 239\.1\.2\.3"):
        shared(udp=server)
