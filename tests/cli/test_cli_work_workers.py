"""``cyasgi work`` with several workers, and with metrics."""

from __future__ import annotations

import re
import signal
import time

import pytest

from cyasgi import cli
from support.channel_layers import send_from_outside
from support.loops import PATIENCE
from support.metrics import Page
from support.redis_servers import RedisServer
from support.udp import Command
from support.workers import children, is_alive, kill

pytestmark = pytest.mark.slow

APPLICATION = """
import os

async def application(scope, receive, send):
    while True:
        message = await receive()
        # At once, since other processes write as well.
        os.write(2, b"got %d by %d\\n" % (message["number"], os.getpid()))
        if message["number"] == 13:
            raise ValueError("thirteen")
"""


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


class Working(Command):
    """`cyasgi work` for the channel `a` of a prefix, in a directory of its own."""

    def __init__(self, folder, redis, *arguments, application="app:application"):
        (folder / "app.py").write_text(APPLICATION, encoding="utf-8")
        layer = ("--layer", redis.url, "--prefix", folder.name, "--channel", "a")
        super().__init__("work", *layer, *arguments, application, cwd=folder)
        self.prefix = folder.name

    def next_worker(self):
        """Waits until another worker serves, and gives its process id."""
        return int(self.until(r"worker (\d+) serves$")[1])

    def ended(self, pid):
        """Waits until this process has ended."""
        deadline = time.monotonic() + PATIENCE
        while is_alive(pid):
            assert time.monotonic() < deadline, f"{pid} still runs: {self.lines}"
            time.sleep(0.01)

    def got(self, redis, numbers):
        """Sends messages, and waits until all of them were received; gives the process ids of those who have."""
        send_from_outside(redis, "a", numbers, prefix=self.prefix)
        receivers, missing = set(), set(numbers)
        while missing:
            match = self.until(r"got (\d+) by (\d+)$")
            missing.discard(int(match[1]))
            receivers.add(int(match[2]))
        return receivers


def test_workers(tmp_path, redis):
    """They share the channels. One that dies is replaced, SIGHUP replaces all, SIGTTIN adds one, SIGTTOU ends one."""
    with Working(tmp_path, redis, "--workers", "2") as command:
        first = {command.next_worker(), command.next_worker()}
        command.until(r"cyasgi \S+ works with app:application by 2 workers$")
        assert set(children(command.process.pid)) == first
        assert command.got(redis, range(10)) <= first
        victim, other = first
        kill(victim, signal.SIGKILL)
        second = {other, command.next_worker()}
        kill(command.process.pid, signal.SIGHUP)
        third = {command.next_worker(), command.next_worker()}
        command.until(r"all workers have been replaced$")
        for pid in second:
            command.ended(pid)
        assert command.got(redis, range(20, 30)) <= third
        kill(command.process.pid, signal.SIGTTIN)
        added = command.next_worker()
        kill(command.process.pid, signal.SIGTTOU)
        command.ended(added)
        assert set(filter(is_alive, children(command.process.pid))) == third
        assert command.stop(signal.SIGTERM) == 0
    counted = [int(match[1]) for line in command.lines if (match := re.search(r"stopped after .*messages=(\d+)", line))]
    assert sum(counted) >= 10


def test_metrics(tmp_path, redis):
    """One worker has a supervising process as well, which tells what the worker does and has done."""
    pytest.importorskip("prometheus_client")
    with Working(tmp_path, redis, "--metrics", "127.0.0.1:0") as command:
        page = Page(command)
        command.until(r"works with app:application by 1 worker$")
        page.until_ready(200)
        command.got(redis, range(14))
        found = page.until(lambda found: found.get('cyasgi_failures_by_type_total{type="ValueError"}') == 1)
        found = page.until(lambda found: found['cyasgi_channel_messages_total{server="channels"}'] == 14)
        assert found["cyasgi_failures_total"] == 1
        assert found['cyasgi_channel_messages_waiting{server="channels",worker="1"}'] == 0
        assert found['cyasgi_instances{server="channels",worker="1"}'] <= 1
        assert command.stop(signal.SIGTERM) == 0


@pytest.mark.parametrize(
    ("arguments", "application", "code", "told"),
    [
        (["--channel", "b!"], "app:application", 2, "channels=['a', 'b!']: 'b!' belongs to one process"),
        ([], "app:nothing", 2, "'app:nothing': 'app' has no attribute 'nothing'"),
    ],
)
def test_workers_that_do_not_start(tmp_path, redis, arguments, application, code, told):
    """It is told once, in one line, and the command ends."""
    with Working(tmp_path, redis, "--workers", "2", *arguments, application=application) as command:
        assert command.wait() == code
        assert len([line for line in command.lines if told in line]) == 1
        assert not any("Traceback" in line for line in command.lines)


def test_options_of_a_file(tmp_path, redis):
    """`--env-file` sets options of the supervising process, and the environment of the workers."""
    pytest.importorskip("dotenv")
    (tmp_path / "env").write_text("CYASGI_WORK_WORKERS=2\nCYASGI_WORK_CONCURRENCY=3\n")
    with Working(tmp_path, redis, "--env-file", "env") as command:
        command.until(r"works with app:application by 2 workers$")
        assert command.stop(signal.SIGTERM) == 0
    assert not any("no option" in line or "not the environment variable" in line for line in command.lines)


def test_hang_up(tmp_path, redis):
    """A single worker, which nobody replaces, says that SIGHUP has no effect."""
    with Working(tmp_path, redis) as command:
        command.until(r"receiving from a$")
        kill(command.process.pid, signal.SIGHUP)
        command.until(r"SIGHUP has no effect on a single process")
        command.got(redis, [1])
        assert command.stop(signal.SIGTERM) == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ("--workers", "0"),
            "Invalid value for '--workers': '0': accepted are a whole number from 1 to 1024, and auto",
        ),
        (("--metrics", "9090"), "Invalid value for '--metrics': '9090': accepted are HOST:PORT"),
    ],
)
def test_what_is_refused(capsys, arguments, told):
    assert cli.main(["work", "--layer", "redis://127.0.0.1:1/0", "--channel", "a", *arguments, "app:x"]) == 2
    assert capsys.readouterr().err.startswith(f"cyasgi: {told}")
