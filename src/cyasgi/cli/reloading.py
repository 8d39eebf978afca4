"""``--reload``: a process that watches files, and restarts the process that serves.

The sockets are those of the parent process, so that nobody is refused while the serving process is replaced; what comes
meanwhile waits in them. Only when the configuration file changes, which may name others, are they closed.

The serving process is a child in the same process group, so that it may read from the terminal, as debuggers do. It
ignores SIGINT and SIGHUP, which a terminal sends to both; the parent passes every SIGINT and SIGTERM on as a SIGTERM.
On SIGHUP it replaces the child, or ends it if the terminal has gone. On Windows, where no process can ask another one
to end, the child is killed at once.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from typing import Any, Self

from ..server import StatelessServer
from ..workers import SharedSockets
from .binding import bind_for_others
from .errors import (
    FAILED,
    INTERRUPTED,
    CommandError,
)
from .hangup import SIGHUP, Terminal
from .logs import configure_logging, logger
from .servers import Options

#: Environment variable that marks the serving process.
MARK = "CYASGI_RELOADED"

#: Milliseconds between two checks whether the serving process is still running.
LOOK = 100

#: Names of files whose changes count.
PATTERNS = ("*.py",)

#: The serving process may take this many times `shutdown_timeout` to end (waiting for connections, for applications
#: that drain, are cancelled, ignore that, and shut down), and this many seconds more.
BOUNDS, GRACE = 6, 5.0


#: Descriptors, by kind of server, for each of its addresses.
Descriptors = dict[str, list[list[int]]]


def inherited() -> Descriptors | None:
    """Return the sockets that this process has inherited, if any; None if `supervise` has not started it.

    The mark is removed from the environment, so that processes that the application starts do not find it.
    """
    text = os.environ.pop(MARK, None)
    return None if text is None else json.loads(text)


def command_line(arguments: Sequence[str] | None) -> list[str]:
    """Return the command line that runs the command again with the same arguments."""
    if arguments is None:
        return [sys.executable, *sys.orig_argv[1:]]
    return [sys.executable, "-m", "cyasgi", *arguments]


def supervise(options: Options, arguments: Sequence[str] | None) -> int:
    """Serve in a child process, and in a new one after each change of a file, until a signal arrives.

    Returns:
        The exit code of the last serving process.

    Raises:
        CommandError: files cannot be watched.
    """
    try:
        import watchfiles
    except ModuleNotFoundError:
        raise CommandError("--reload needs watchfiles: pip install 'cyasgi[reload]'") from None
    configure_logging(options.log)
    config = os.path.realpath(options.config) if options.config else None
    paths = list(options.reload_dir or [options.app_dir])
    logger.info("watching %s for changes", ", ".join(paths))
    if config and not any(config.startswith(os.path.join(path, "")) for path in paths):
        paths.append(config)
    usual = watchfiles.DefaultFilter()
    patterns = (*PATTERNS, *options.reload_include)

    def counts(change: watchfiles.Change, path: str) -> bool:
        if path == config:
            return True
        name, relative = os.path.basename(path), os.path.relpath(path)
        if any(fnmatch(name, pattern) or fnmatch(relative, pattern) for pattern in options.reload_exclude):
            return False
        return usual(change, path) and any(fnmatch(name, pattern) for pattern in patterns)

    bound = options.limits.get("shutdown_timeout", StatelessServer.shutdown_timeout)
    # Elsewhere processes do not inherit sockets.
    shared = bind_for_others(options) if os.name == "posix" else None
    served = Served(command_line(arguments), BOUNDS * bound + GRACE, shared, config)
    try:
        with served:
            served.follow(
                watchfiles.watch(
                    *paths,
                    watch_filter=counts,
                    step=round(options.reload_delay * 1000),
                    stop_event=served.stopping,
                    rust_timeout=LOOK,
                    yield_on_timeout=True,
                    raise_interrupt=False,
                )
            )
            return served.code()
    except (OSError, RuntimeError) as error:
        raise CommandError(f"cannot watch {', '.join(paths)}: {error}") from None
    finally:
        served.close()


class Served:
    """The serving process, which is replaced when files change.

    Inside the context, SIGINT and SIGTERM ask it to end. SIGHUP does so if the terminal has gone, and otherwise has it
    replaced. When the context is left, no process remains.

    Args:
        command: starts the process.
        end_timeout: seconds that a process may take to end.
        shared: the sockets that it inherits; None: it binds its own.
        config: the file that says what to bind; None if there is none.
    """

    def __init__(
        self, command: list[str], end_timeout: float, shared: SharedSockets | None = None, config: str | None = None
    ) -> None:
        self._command = command
        self._end_timeout = end_timeout
        self._shared = shared
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None
        self._told = False
        self._signals = 0
        self._terminal = Terminal()
        self._hung_up = False
        self._before: dict[int, Any] = {}
        #: Set by the first signal.
        self.stopping = threading.Event()

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._received)
        # Ignored if nohup has started this.
        if SIGHUP is not None and signal.getsignal(SIGHUP) is signal.SIG_DFL:
            self._before[SIGHUP] = signal.signal(SIGHUP, self._received_hang_up)
        return self

    def __exit__(self, *error: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _received(self, number: int, frame: object) -> None:
        self._signals += 1
        self.stopping.set()

    def _received_hang_up(self, number: int, frame: object) -> None:
        if self._terminal.has_gone():
            self._received(number, frame)
        else:
            self._hung_up = True

    def follow(self, watch: Iterable[set[tuple[Any, str]]]) -> None:
        """Start a process, and a new one after each set of changes, until a signal arrives or one ends with code 0."""
        for changes in watch:
            # The first process starts once the files are watched, so that no change is missed.
            if self._process is None:
                self._start()
            elif changes or self._hung_up:
                self._hung_up = False
                names = sorted({os.path.relpath(path) for _, path in changes})
                logger.info("%s: restarting", f"{', '.join(names)} changed" if names else "SIGHUP")
                self._end()
                if any(path == self._config for _, path in changes):
                    self.close()
                if not self.stopping.is_set():
                    self._start()
            elif self._process.poll() == 0:
                break
            elif self._process.returncode is not None and not self._told:
                self._told = True
                logger.info("the server ended with exit code %d; waiting for a change", self._process.returncode)
            if self.stopping.is_set():
                break
        self._end()

    def _start(self) -> None:
        # Descriptors that this process has inherited are passed on: an option may name one.
        descriptors = {} if self._shared is None else self._shared.descriptors(self._shared.sets)
        for found in descriptors.values():
            for number in (number for numbers in found for number in numbers):
                os.set_inheritable(number, True)
        # A signal that is ignored when a process starts stays ignored in it.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            environment = {**os.environ, MARK: json.dumps(descriptors)}
            self._process = subprocess.Popen(self._command, env=environment, close_fds=False)
        finally:
            signal.signal(signal.SIGINT, handler)
        self._told = False

    def close(self) -> None:
        """Close the sockets: those of a serving process stay open."""
        if self._shared is not None:
            self._shared.close()
            self._shared = None

    def _end(self) -> None:
        """End the process: gracefully, at once on a second signal, and by killing it when it takes too long."""
        process = self._process
        if process is None:
            return
        asked = 0
        deadline = time.monotonic() + self._end_timeout
        while process.poll() is None:
            if asked < max(1, self._signals):
                asked += 1
                process.terminate()
            elif time.monotonic() > deadline:
                logger.warning("the server did not end within %.0f s: killed", self._end_timeout)
                process.kill()
                process.wait()
            try:
                process.wait(LOOK / 1000)
            except subprocess.TimeoutExpired:
                continue

    def code(self) -> int:
        """Return the exit code of the last process."""
        code = FAILED if self._process is None else self._process.returncode
        if code == -signal.SIGTERM:
            # It was asked to end before it served.
            return INTERRUPTED
        return code if code >= 0 else FAILED
