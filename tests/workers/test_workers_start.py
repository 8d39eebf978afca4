"""Workers start together and end together, and each failure of theirs is told once."""

from __future__ import annotations

import os
import re
import signal

import pytest

from support.workers import children

pytestmark = [pytest.mark.slow, pytest.mark.few_combinations]


def test_served_by_all(workers):
    """Both workers get connections, the parent serves nothing itself, and SIGTERM ends all with exit code 0."""
    command = workers("--workers", "2")
    pids = command.started(2)
    assert len(set(pids)) == 2
    assert set(children(command.process.pid)) == set(pids)
    answered = set()
    while len(answered) < 2:
        answered.add(command.get())
    assert answered == set(pids)
    assert command.stop(signal.SIGTERM) == 0
    assert len([line for line in command.lines if "stopped after" in line]) == 4
    assert not [line for line in command.lines if "Traceback" in line]


def test_what_the_application_starts_inherits_nothing(workers):
    """Neither sockets nor marks, also when it starts a process while it is imported."""
    application = """
import os, subprocess, sys
show = "import os, sys; print('inherited', os.listdir('/proc/self/fd'), 'CYASGI_WORKER' in os.environ, file=sys.stderr)"
subprocess.run([sys.executable, "-c", show], close_fds=False, check=True)

async def application(scope, receive, send):
    pass
"""
    command = workers("--workers", "1", "--worker-lifetime", "1000", "--lifespan", "off", application=application)
    # The last one is that of the folder.
    assert command.until("inherited (.*)$")[1] == "['0', '1', '2', '3'] False"
    command.started(1)
    assert command.stop(signal.SIGTERM) == 0


def test_interrupted_by_a_terminal(workers):
    """A terminal sends SIGINT to all processes: the workers leave it to the parent, and what is in hand is finished."""
    command = workers("--workers", "2")
    command.started(2)
    os.killpg(command.process.pid, signal.SIGINT)
    assert command.wait() == 0
    assert not [line for line in command.lines if "Traceback" in line or "killed" in line]


def test_asked_to_end_while_it_starts(workers, tmp_path):
    """SIGTERM while the application is imported ends the start at once."""
    application = "open('begun', 'w').close()\nimport time\ntime.sleep(1000)\n"
    os.mkfifo(tmp_path / "begun")
    command = workers("--workers", "2", application=application)
    with open(tmp_path / "begun", "rb"):
        assert command.stop(signal.SIGTERM) == 0
    assert not [line for line in command.lines if "serves" in line]


def test_interrupted_while_it_starts(workers, tmp_path):
    """SIGINT before anything is served: exit code 130."""
    application = "open('begun', 'w').close()\nimport time\ntime.sleep(1000)\n"
    os.mkfifo(tmp_path / "begun")
    command = workers("--workers", "2", application=application)
    with open(tmp_path / "begun", "rb"):
        assert command.stop(signal.SIGINT) == 130


@pytest.mark.parametrize(
    ("application", "code", "error"),
    [
        ("1 / 0\n", 1, "cyasgi: 'app:application' could not be loaded: it raised ZeroDivisionError"),
        ("", 2, "cyasgi: 'app:application': 'app' has no attribute 'application'"),
    ],
    ids=["raises", "missing"],
)
def test_an_application_that_cannot_be_loaded(workers, application, code, error):
    """The first worker says why, once, and the command ends at once with its exit code."""
    command = workers("--workers", "3", application=application)
    assert command.wait() == code
    assert [line for line in command.lines if line.startswith("cyasgi: ")] == [error]


def test_an_application_that_does_not_start_in_time(workers):
    """A worker that does not come to serve is killed, and shows where it stood."""
    command = workers("--workers", "2", "--worker-start-timeout", "3", application="import time\n\ntime.sleep(300)\n")
    assert command.wait() == 1
    assert command.lines[-1].endswith("took longer than 3 s before it served")
    assert any(re.search(r'app\.py", line \d in <module>', line) for line in command.lines), command.lines


def test_an_address_that_is_taken(workers, tmp_path):
    """Another server on the same address is an error, though both could share it."""
    command = workers("--workers", "2")
    command.started(2)
    other = workers("--workers", "2", "--http", f"127.0.0.1:{command.port}")
    assert other.wait() == 1
    assert other.lines[-1] == f"cyasgi: cannot listen on tcp 127.0.0.1:{command.port}: Address already in use"
    host, port = command.udp
    other = workers("--workers", "2", "--udp", f"{host}:{port}")
    assert other.wait() == 1
    assert other.lines[-1] == f"cyasgi: cannot listen on udp {host}:{port}: Address already in use"
    assert command.stop(signal.SIGTERM) == 0


def test_the_parent_is_killed(workers):
    """Workers whose parent has gone end by themselves."""
    command = workers("--workers", "2")
    pids = command.started(2)
    command.process.kill()
    for pid in pids:
        command.ended(pid)
    assert command.wait() == -signal.SIGKILL
    assert len([line for line in command.lines if line.endswith("the supervising process has gone: stopping")]) == 2


def test_workers_that_die_again_and_again(workers, tmp_path):
    """Each death is mended after a longer pause; when too many came before the worker served, the command gives up."""
    application = "import os\nif os.path.exists('broken'):\n    raise SystemExit(3)\nasync def application(*_): pass\n"
    command = workers("--workers", "2", "--worker-start-attempts", "3", "--lifespan", "off", application=application)
    first, _ = command.started(2)
    os.kill(first, signal.SIGKILL)
    assert command.next_worker() not in (first, None)
    (tmp_path / "broken").touch()
    os.kill(command.workers()[-1], signal.SIGKILL)
    command.until(rf"worker {command.workers()[-1]} was killed by SIGKILL: another one is started$")
    assert command.wait() == 1
    assert command.lines[-1].endswith("ended with exit code 3 before it served, and so did 2 before it: giving up")
