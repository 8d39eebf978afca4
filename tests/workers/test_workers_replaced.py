"""Workers come and go under load: no connection is refused, no request and no datagram is lost."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time

import pytest

from support.loops import PATIENCE
from support.workers import Client, Datagrams, Fresh, KeptAlive, Talking, load, more

pytestmark = [pytest.mark.slow, pytest.mark.few_combinations]

#: Three clients of each kind, and more of UDP: some for each worker.
KINDS = (Fresh, Fresh, KeptAlive, KeptAlive, Talking, Talking, *[Datagrams] * 6)


def of_udp(clients):
    """The clients of UDP."""
    return [client for client in clients if isinstance(client, Datagrams)]


def test_reload(workers):
    """SIGHUP replaces all workers in place: a client of UDP stays with the sockets of its worker."""
    command = workers("--workers", "2")
    before = command.started(2)
    with load(command, KINDS) as clients:
        command.process.send_signal(signal.SIGHUP)
        command.until("all workers have been replaced$")
        for pid in before:
            command.ended(pid)
        more(clients)
    after = command.workers()[2:]
    assert len(set(after) - set(before)) == 2
    for client in clients:
        assert client.pids[-1] in after
        if isinstance(client, Talking):
            assert client.restarts
    # Whichever is replaced first: all clients of one worker go to its successor, and nowhere else.
    moved = {(client.pids[0], client.pids[-1]) for client in of_udp(clients)}
    assert len({first for first, _ in moved}) == len(moved)
    assert command.stop(signal.SIGTERM) == 0
    assert not [line for line in command.lines if " cut " in line or "WARNING" in line or "ERROR" in line]


class OverUnix(Client):
    """HTTP over a Unix socket, each request on a connection of its own."""

    def ask(self):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(str(self.command.directory / "socket"))
            client.send(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            answer = b""
            while data := client.recv(1000):
                answer += data
        assert answer.startswith(b"HTTP/1.1 200"), answer
        return int(answer.rpartition(b"\r\n\r\n")[2])


def test_reload_on_a_unix_socket(workers, tmp_path):
    """All workers share it; it is there for as long as the command is, whichever worker ends."""
    command = workers("--workers", "2", "--unix", "socket")
    before = command.started(2)
    with load(command, [OverUnix] * 4) as clients:
        command.process.send_signal(signal.SIGHUP)
        command.until("all workers have been replaced$")
        for pid in before:
            command.ended(pid)
        more(clients)
    assert {client.pids[-1] for client in clients} <= set(command.workers()[2:])
    assert command.stop(signal.SIGTERM) == 0
    assert not (tmp_path / "socket").exists()


@pytest.mark.long
def test_more_and_fewer(workers):
    """SIGTTIN starts a worker, SIGTTOU ends one, whose sockets another one takes over; at least one stays."""
    command = workers("--workers", "2")
    before = command.started(2)
    with load(command, KINDS) as clients:
        command.process.send_signal(signal.SIGTTIN)
        third = command.next_worker()
        more(clients)
        command.process.send_signal(signal.SIGTTOU)
        command.next_worker()
        command.ended(third)
        command.process.send_signal(signal.SIGTTOU)
        last = command.next_worker()
        for pid in before:
            command.ended(pid)
        more(clients)
        assert {client.pids[-1] for client in clients} == {last}
        command.process.send_signal(signal.SIGTTOU)
        command.until("there is one worker: no change$")
        # Two sets of sockets are left over: nobody has to be moved for one worker more.
        command.process.send_signal(signal.SIGTTIN)
        added = command.next_worker()
        other = command.next_worker()
        command.ended(last)
        more(clients)
        assert {client.pids[-1] for client in clients} <= {added, other}
        # Which of them the system asks is chance; sooner or later new connections come to each.
        for _ in range(100):
            if {added, other} <= set(clients[0].pids):
                break
            more(clients[:1])
        assert {added, other} <= set(clients[0].pids)
    assert command.stop(signal.SIGTERM) == 0
    assert not [line for line in command.lines if " cut " in line or "ERROR" in line]


def test_a_new_version_that_fails(workers, tmp_path):
    """When a new worker does not come to serve, the workers at work stay, and the next SIGHUP tries again."""
    command = workers("--workers", "2")
    before = command.started(2)
    good = (tmp_path / "app.py").read_text(encoding="utf-8")
    with load(command, KINDS) as clients:
        (tmp_path / "app.py").write_text("1 / 0\n", encoding="utf-8")
        command.process.send_signal(signal.SIGHUP)
        command.until("ended with exit code 1 before it served: the workers at work stay$")
        more(clients)
        assert {client.pids[-1] for client in clients} <= set(before)
        (tmp_path / "app.py").write_text(good, encoding="utf-8")
        command.process.send_signal(signal.SIGHUP)
        command.until("all workers have been replaced$")
    assert command.stop(signal.SIGTERM) == 0


def test_killed(workers):
    """Of a worker that is killed only what it had in hand is lost: its sockets stay, and wait for the next one."""
    command = workers("--workers", "2")
    victim, other = command.started(2)
    with load(command, [Datagrams] * 6, lost=1) as clients:
        os.kill(victim, signal.SIGSTOP)
        # What is sent from now on waits in the socket of the victim, unread.
        more([client for client in clients if client.pids[-1] == other])
        os.kill(victim, signal.SIGKILL)
        command.until(rf"worker {victim} was killed by SIGKILL: another one is started$")
        successor = command.next_worker()
        more(clients)
    assert {client.pids[-1] for client in clients} <= {other, successor}
    answered = set()
    while len(answered) < 2:
        answered.add(command.get())
    assert answered == {other, successor}
    assert command.stop(signal.SIGTERM) == 0


def test_what_is_in_hand_is_finished(workers, tmp_path):
    """A request that takes long is finished by the worker that has begun it, while another one serves already."""
    command = workers("--workers", "1", "--worker-lifetime", "1000000", "--shutdown-timeout", "30")
    [before] = command.started(1)
    answers = []
    client = threading.Thread(target=lambda: answers.append(command.get("/hold")), daemon=True)
    client.start()
    while not (tmp_path / "held").exists():
        assert client.is_alive()
        time.sleep(0.002)
    command.process.send_signal(signal.SIGHUP)
    command.until("all workers have been replaced$")
    while (answered := command.get()) == before:
        time.sleep(0.002)
    assert answered == command.workers()[-1]
    (tmp_path / "go").touch()
    client.join(30)
    assert answers == [before]
    command.ended(before)
    assert command.stop(signal.SIGTERM) == 0


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("--limit-max-requests", "50", r"it has taken \d+ requests"),
        ("--worker-lifetime", "1.5", r"it has served for \d s"),
        ("--worker-max-rss", "1000000", r"it occupies \d+ bytes"),
    ],
)
def test_recycling(workers, option, value, reason):
    """One worker that reaches a limit is replaced in place, before it ends."""
    command = workers(option, value, "--worker-timeout", "4")
    [before] = command.started(1)
    with load(command, (Fresh, KeptAlive, Talking, Datagrams, Datagrams)):
        command.until(rf"worker {before} is replaced: {reason}$")
        assert command.next_worker() != before
        command.ended(before)
    assert command.stop(signal.SIGTERM) == 0
    assert not [line for line in command.lines if " cut " in line or "ERROR" in line]


def test_stopped_under_load(workers):
    """SIGTERM to all processes at once, as of systemd, lets what is in hand end: it is no second request to stop."""
    command = workers("--workers", "2")
    pids = command.started(2)
    os.killpg(command.process.pid, signal.SIGTERM)
    assert command.wait() == 0
    for pid in pids:
        command.ended(pid)
    assert not [line for line in command.lines if " cut " in line or "ERROR" in line]
