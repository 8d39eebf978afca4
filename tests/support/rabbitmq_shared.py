"""One RabbitMQ for all workers of a run: the first that needs it starts it, and it ends with the run.

It runs under a process of its own, which is this module as a program: a worker that crashes does not end it, and a run
that is killed does not leave it behind. The process that has started the workers holds a lock as long as the run goes
on; this one holds another for as long as there is, or may be, a broker.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

from support.rabbitmq_process import START, Address, Broker

#: Seconds that its end may take, also while it starts.
END = 60.0
# Referred to for as long as the worker runs, since nobody waits for them.
_started: list[subprocess.Popen[bytes]] = []


def _taken(file: IO[Any]) -> bool:
    """Take the lock, unless another process has it."""
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


class Run:
    """What the process that has started the workers holds until the end of the run."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="cyasgi-tests-"))
        self._goes_on = (self.directory / "run").open("w")
        fcntl.flock(self._goes_on, fcntl.LOCK_EX)

    def end(self) -> None:
        """Have the broker ended, if there is one, and wait for that."""
        self._goes_on.close()
        deadline = time.monotonic() + END
        with (self.directory / "broker").open("a") as lock:
            while not _taken(lock):
                assert time.monotonic() < deadline, f"the broker of the run goes on: {self.directory}"
                time.sleep(0.01)
        shutil.rmtree(self.directory)


def shared_broker(directory: Path, files: Path) -> Address:
    """The broker of the run that has this directory; if there is none yet, a new one with its files in the other."""
    record = directory / "record"
    deadline = time.monotonic() + START + END
    while not record.exists():
        with (directory / "broker").open("a") as lock:
            if _taken(lock) and not record.exists():
                _started.append(_start(directory, files, lock))
        assert time.monotonic() < deadline, "the broker of the run has not started"
        time.sleep(0.05)
    found = json.loads(record.read_text())
    assert "failed" not in found, found["failed"]
    return Address(found["port"], found["tls_port"], Path(found["certificates"]))


def _start(directory: Path, files: Path, lock: IO[Any]) -> subprocess.Popen[bytes]:
    files.mkdir(parents=True, exist_ok=True)
    with (files / "output").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "support.rabbitmq_shared", directory, files],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            # It has the lock from the beginning, and until it ends, however it does.
            pass_fds=[lock.fileno()],
        )


def main(directory: Path, files: Path) -> None:
    """Have a broker run until the lock of the run is free."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    broker = Broker(files)

    def note(**values: object) -> None:
        unfinished = directory / "unfinished"
        unfinished.write_text(json.dumps(values))
        unfinished.rename(directory / "record")

    try:
        try:
            broker.start()
        except Exception as error:
            note(failed=f"{type(error).__name__}: {error}")
            raise
        note(port=broker.port, tls_port=broker.tls_port, certificates=str(broker.certificates))
        with (directory / "run").open() as run:
            fcntl.flock(run, fcntl.LOCK_SH)
    finally:
        broker.close()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
