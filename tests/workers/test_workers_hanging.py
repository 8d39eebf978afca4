"""A worker that no longer answers is killed and replaced, within the bound."""

from __future__ import annotations

import http.client
import os
import signal

import pytest

from support.loops import PATIENCE
from support.workers import Datagrams, load, more

pytestmark = [pytest.mark.slow, pytest.mark.few_combinations]


def test_busy(workers):
    """One whose event loop does not turn is killed by SIGABRT, on which it shows where it stood."""
    command = workers("--workers", "2", "--worker-timeout", "1.5")
    pids = command.started(2)
    client = http.client.HTTPConnection("127.0.0.1", command.port, timeout=PATIENCE)
    client.request("GET", "/busy")
    hung = int(command.until(r"worker (\d+) has not answered for 1\.5 s: killed$")[1])
    assert hung in pids
    command.until(r'app\.py", line \d+ in application$')
    command.until(rf"worker {hung} was killed by SIGABRT: another one is started$")
    command.next_worker()
    command.ended(hung)
    client.close()
    answered = set()
    while len(answered) < 2:
        answered.add(command.get())
    assert command.stop(signal.SIGTERM) == 0


def test_frozen(workers):
    """One that is stopped is killed; datagrams that came meanwhile are answered by its successor."""
    command = workers("--workers", "2", "--worker-timeout", "1.5")
    victim, other = command.started(2)
    with load(command, [Datagrams] * 6, lost=1) as clients:
        os.kill(victim, signal.SIGSTOP)
        command.until(rf"worker {victim} has not answered for 1\.5 s: killed$")
        command.until(rf"worker {victim} was killed by SIG(KILL|ABRT): another one is started$")
        successor = command.next_worker()
        more(clients)
    assert {client.pids[-1] for client in clients} <= {other, successor}
    assert command.stop(signal.SIGTERM) == 0


def test_one_that_does_not_end(workers):
    """A worker that hangs while it stops is killed as well, and the command ends."""
    command = workers("--workers", "2", "--worker-timeout", "1.5", "--shutdown-timeout", "1")
    command.started(2)
    os.kill(command.workers()[0], signal.SIGSTOP)
    assert command.stop(signal.SIGTERM) == 0
    assert any("has not answered for 1.5 s: killed" in line for line in command.lines)
