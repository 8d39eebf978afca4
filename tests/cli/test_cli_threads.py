"""The command ends although a thread does not, and says which one; run() ends, and its process when the thread does."""

from __future__ import annotations

import re
import signal
import socket
import sys
import time

import pytest

from support.serving import output, python
from support.udp import Command

LOCAL = ("--udp", "127.0.0.1:0")
BOUND = 0.3

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")

APPLICATION = """
import asyncio, threading, time
from asgiref.sync import sync_to_async

def sleeps():
    time.sleep(60)

def waits():
    threading.Event().wait(60)

def is_short():
    time.sleep(0.1)

async def application(scope, receive, send):
    await receive()
    print("blocking", flush=True)
    {call}
"""

CALLS = {
    "thread-sensitive": "await sync_to_async({what})()",
    "in any thread": "await sync_to_async({what}, thread_sensitive=False)()",
    "to_thread": "await asyncio.to_thread({what})",
    "default executor": "await asyncio.get_running_loop().run_in_executor(None, {what})",
    "thread of its own": "threading.Thread(target={what}, name='own').start()",
}


def serve(tmp_path, call, loop="auto", **options):
    (tmp_path / "app.py").write_text(APPLICATION.format(call=call), encoding="utf-8")
    bound = str(options.get("bound", BOUND))
    arguments = ("serve", *LOCAL, "--loop", loop, "--shutdown-timeout", bound, "app:application")
    return Command(*arguments, cwd=tmp_path)


def send(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"hello", address)


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("call", CALLS)
def test_blocked_thread(tmp_path, call, loop):
    """The process ends soon after its bounds, with code 0, and tells the thread and the line that it is at."""
    with serve(tmp_path, CALLS[call].format(what="sleeps"), loop) as command:
        send(command.listening())
        assert command.process.stdout.readline() == "blocking\n"
        begun = time.monotonic()
        assert command.stop(signal.SIGTERM) == 0
        assert time.monotonic() - begun < 15
        (told,) = [line for line in command.lines if "did not end" in line]
        name = "own" if call == "thread of its own" else r"(asyncio|ThreadPoolExecutor-\d+)_0"
        assert re.search(
            rf"WARNING .*the thread '{name}' did not end, it is at .*app\.py:6 in sleeps: the process", told
        )
        assert not [line for line in command.lines if "Traceback" in line or "Error" in line]


@pytest.mark.slow
def test_told_where_it_waits(tmp_path):
    """A thread that waits in the standard library is told with the line of the application that led there."""
    with serve(tmp_path, CALLS["thread-sensitive"].format(what="waits")) as command:
        send(command.listening())
        command.process.stdout.readline()
        assert command.stop(signal.SIGTERM) == 0
        (told,) = [line for line in command.lines if "did not end" in line]
        assert re.search(r"it is at .*threading\.py:\d+ in \S+, called at .*app\.py:9 in waits:", told)


@pytest.mark.slow
@pytest.mark.parametrize("call", ["thread-sensitive", "to_thread"])
def test_thread_that_ends(tmp_path, call):
    """A thread that ends in time, or that waits for further work, is nothing to tell of."""
    with serve(tmp_path, CALLS[call].format(what="is_short"), bound=20) as command:
        send(command.listening())
        command.process.stdout.readline()
        assert command.stop(signal.SIGTERM) == 0
        assert not [line for line in command.lines if "WARNING" in line]


@pytest.mark.slow
def test_code_of_a_failure_stays(tmp_path):
    """The exit code is what it would have been: here that of an application that cannot be imported."""
    code = "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), name='own').start()\n1 / 0\n"
    (tmp_path / "app.py").write_text(code, encoding="utf-8")
    with Command("serve", *LOCAL, "app:application", cwd=tmp_path) as command:
        assert command.wait() == 1
        (told,) = [line for line in command.lines if "did not end" in line]
        assert "the thread 'own'" in told


@pytest.mark.slow
def test_run_ends_and_says_what_the_process_waits_for(cy, tmp_path):
    """run() returns although a thread of its loop is blocked, and tells what the process will wait for."""
    process = python(
        """
        import asyncio, logging, sys, threading, time
        from cyasgi.server import StatelessServer

        logging.basicConfig(stream=sys.stdout, format="%(message)s")
        release = threading.Event()

        class Server(StatelessServer):
            shutdown_timeout = 0.2

            async def handle(self):
                self.get_or_create_application_instance("a", {}).put_nowait(1)
                await asyncio.sleep(0.05)

        def work():
            release.wait(60)

        async def application(scope, receive, send):
            await receive()
            await asyncio.to_thread(work)

        begun = time.monotonic()
        Server(application).run()
        assert time.monotonic() - begun < 20
        print("returned", flush=True)
        release.set()
        """,
        cwd=tmp_path,
        backend=cy.backend,
    )
    *_, told, last = output(process)
    assert re.search(
        r"the thread 'asyncio_0' is still running, at .*threading\.py.*, called at .*script\.py:\d+ in work",
        told,
    )
    assert last == "returned"
