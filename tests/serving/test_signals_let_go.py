"""Signals that a loop lets go of: there is no moment in which one that comes ends the process."""

from __future__ import annotations

import sys

import pytest

from support.serving import output, python

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")]

#: Each signal comes right after the loop has set its default. The last line says what has noticed it.
LET_GO = """
    import asyncio, os, signal, sys

    came = []

    class Loop:
        '''A loop that is sent a signal as soon as it handles it no more.'''

        def __init__(self, loop):
            self._loop = loop

        def __getattr__(self, name):
            return getattr(self._loop, name)

        def remove_signal_handler(self, number):
            assert self._loop.remove_signal_handler(number)
            assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)
            os.kill(os.getpid(), number)

    def note(number, frame):
        came.append(signal.Signals(number).name)

    if sys.argv[1] == "uvloop":
        from uvloop import new_event_loop
    else:
        new_event_loop = asyncio.new_event_loop
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP", "SIGUSR1", "SIGINT"])
def test_a_signal_that_comes_just_then(tmp_path, loop, number):
    """It waits for the handler that the process has from then on."""
    code = (
        LET_GO
        + """
    from cyasgi._common.signals import let_go

    number = signal.Signals[sys.argv[2]]
    loop = new_event_loop()

    async def main():
        loop.add_signal_handler(number, came.append, "the loop")
        let_go(Loop(loop), number, note)

    loop.run_until_complete(main())
    loop.close()
    assert signal.getsignal(number) is note
    print(*came)
    """
    )
    assert output(python(code, loop, number, cwd=tmp_path)) == [number]


def test_ignored(tmp_path):
    code = (
        LET_GO
        + """
    from cyasgi._common.signals import let_go

    loop = new_event_loop()

    async def main():
        loop.add_signal_handler(signal.SIGTERM, came.append, "the loop")
        let_go(Loop(loop), signal.SIGTERM, signal.SIG_IGN)

    loop.run_until_complete(main())
    loop.close()
    print(*came, "ended in order")
    """
    )
    assert output(python(code, "asyncio", cwd=tmp_path)) == ["ended in order"]


def test_log_files(tmp_path):
    """SIGUSR1, when log files are not opened anew by it any more."""
    code = (
        LET_GO
        + """
    from cyasgi._common.log_files import reopened_by_signal

    loop = new_event_loop()

    async def main():
        asyncio.get_running_loop = lambda: Loop(loop)
        with reopened_by_signal():
            pass
        print("ended in order")

    loop.run_until_complete(main())
    """
    )
    assert output(python(code, "asyncio", cwd=tmp_path)) == ["ended in order"]


def test_a_terminal_that_goes(tmp_path):
    """SIGHUP, when the server has ended."""
    code = (
        LET_GO
        + """
    from cyasgi.cli.hangup import HangUps

    loop = new_event_loop()
    hang_ups = HangUps()

    async def main():
        asyncio.get_running_loop = lambda: Loop(loop)
        with hang_ups.handled(came.append):
            pass
        print("ended in order")

    loop.run_until_complete(main())
    """
    )
    assert output(python(code, "asyncio", cwd=tmp_path)) == ["ended in order"]


def test_a_handler_of_the_programs_own(tmp_path):
    """SIGTERM to a program that handles it itself, when its server has ended."""
    code = (
        LET_GO
        + """
    import cyasgi
    from cyasgi.supervisor import Supervisor

    signal.signal(signal.SIGTERM, note)

    class Server(cyasgi.StatelessServer):
        async def handle(self):
            pass

    async def application(scope, receive, send):
        pass

    removed = asyncio.SelectorEventLoop.remove_signal_handler

    def remove(self, number):
        found = removed(self, number)
        if number == signal.SIGTERM and signal.getsignal(number) is signal.SIG_DFL:
            os.kill(os.getpid(), number)
        return found

    asyncio.SelectorEventLoop.remove_signal_handler = remove
    Supervisor([Server(application)]).run(loop_factory=asyncio.SelectorEventLoop)
    print(*came)
    """
    )
    assert output(python(code, "asyncio", cwd=tmp_path)) == ["SIGTERM"]
