"""Worker processes: what two of them serve, against one, over HTTP and UDP."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.fresh import ROOT
from benchmarks.http_load import SCRIPT
from benchmarks.processes import load_generator, usage
from benchmarks.question import Bar, Figure, Probed
from benchmarks.sides import BACKENDS
from benchmarks.udp import SOURCE, hindrance as hindrance_udp

#: Connections, and clients of UDP with one datagram under way each: enough that the kernel spreads them evenly.
CONNECTIONS, CLIENTS = 128, 256
#: Seconds that the workers may take to serve.
PATIENCE = 30.0

FIGURES = {
    "requests": Figure("requests per second", "/s", more=True),
    "datagrams": Figure("datagrams answered per second", "/s", more=True),
    "requests_cpu": Figure("CPU time of all workers per request", "µs"),
    "datagrams_cpu": Figure("CPU time of all workers per datagram", "µs"),
    "lost": Figure("datagrams lost", "%"),
}


def hindrance() -> str:
    if (os.cpu_count() or 1) < 2:
        return "two workers need two cores"
    return hindrance_udp() or ("" if shutil.which("wrk") else "the load generator, wrk, is not installed")


def _each(pid: int, workers: int) -> list[float]:
    """The CPU time that each worker has had."""
    if workers == 1:
        return [usage(pid).ran]
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [usage(int(child)).ran for child in children]


@contextmanager
def _serving(side: str, loop: str, workers: int, kind: str, application: str) -> Iterator[tuple[int, int]]:
    """The command with so many workers; gives its process id and its port."""
    words = [sys.executable, "-m", "cyasgi", "serve", f"--{kind}", "127.0.0.1:0", "--loop", loop]
    words += ["--workers", str(workers), "--max-applications", str(4 * CLIENTS), application]
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory, "output")
        with output.open("wb") as file:
            process = subprocess.Popen(
                words,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=os.environ | {"CYASGI_BACKEND": BACKENDS[side]},
                start_new_session=True,
            )
        try:
            ends = time.monotonic() + PATIENCE
            found = None
            while found is None or " serves " not in output.read_text():
                if process.poll() is not None or time.monotonic() > ends:
                    raise RuntimeError(f"{workers} workers do not serve: {output.read_text()[-2000:]}")
                time.sleep(0.05)
                found = re.search(r"listening on \S*?(?:udp )?\S*:(\d+)", output.read_text())
            yield process.pid, int(found[1])
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class _Load:
    """What a load generator said, and the CPU time that each worker took meanwhile."""

    def __init__(self, pid: int, workers: int, words: list[str]) -> None:
        before = _each(pid, workers)
        done = subprocess.run(words, check=False, capture_output=True, text=True)
        self.spent = [after - earlier for earlier, after in zip(before, _each(pid, workers), strict=True)]
        if done.returncode:
            raise RuntimeError(f"{words[0]} ended with {done.returncode}: {done.stdout}{done.stderr}")
        self.output = done.stdout

    def rates(self, served: int) -> tuple[float, float]:
        """What is served a second where each worker has a core, and the CPU time for each."""
        return served / max(self.spent), sum(self.spent) / served


def _over_http(side: str, loop: str, workers: int, seconds: int) -> tuple[float, float]:
    """Requests a second, and CPU time for each."""
    with _serving(side, loop, workers, "http", "benchmarks.applications:answer") as (pid, port):
        words = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}", "--timeout", "10s", "-s", str(SCRIPT)]
        load = _Load(pid, workers, [*words, f"http://127.0.0.1:{port}/"])
    told = next(line for line in load.output.splitlines() if line.startswith("told "))
    requests, *rest = map(int, told.split()[1:])
    if any(rest[-5:]):
        raise RuntimeError(f"{workers} workers: errors under load: {told}")
    return load.rates(requests)


def _over_udp(side: str, loop: str, workers: int, seconds: float) -> tuple[float, float, float]:
    """Datagrams a second, CPU time for each, and the part that was lost."""
    with (
        tempfile.TemporaryDirectory() as directory,
        _serving(side, loop, workers, "udp", "cyasgi.examples:echo") as (pid, port),
    ):
        generator = load_generator(SOURCE, directory)
        load = _Load(pid, workers, [generator, str(port), str(CLIENTS), str(CLIENTS), str(seconds), "0"])
    # Those before the load generator was warm are not told: fewer than a thousandth.
    answers, lost, *_ = map(int, load.output.splitlines()[-1].split())
    return *load.rates(answers), lost / (answers + lost)


def probe(side: str, loop: str, size: int, seconds: int) -> Mapping[str, float]:
    requests, requests_cpu = _over_http(side, loop, size, seconds)
    datagrams, datagrams_cpu, lost = _over_udp(side, loop, size, seconds)
    return {
        "requests": requests,
        "datagrams": datagrams,
        "requests_cpu": requests_cpu,
        "datagrams_cpu": datagrams_cpu,
        "lost": lost,
    }


QUESTION = Probed(
    name="workers",
    title="Worker processes, HTTP and UDP",
    size_of="workers",
    sizes={"quick": (1, 2), "usual": (1, 2), "full": (1, 2)},
    probe=probe,
    sides=("pure", "cython"),
    loops=("uvloop",),
    figures=FIGURES,
    arguments={"quick": {"seconds": 1}, "usual": {"seconds": 3}, "full": {"seconds": 5}},
    bars=(
        Bar("cython", "cython", least=1.7, figure="requests", size=2, by_size=1),
        Bar("cython", "cython", least=1.7, figure="datagrams", size=2, by_size=1),
    ),
    hindrance=hindrance,
    told=("requests", "datagrams"),
    note=f"{CONNECTIONS} kept connections, {CLIENTS} clients of UDP. One worker is a process without a supervisor. A "
    "rate is what was served divided by the CPU time of the busiest worker: what is served where each has a core of "
    "its own. So the load generators (wrk, and one in C for datagrams) and whoever else runs on the machine are "
    "counted out, and how unevenly the kernel spreads clients is counted.",
)


def test_workers(benchmark: Any, case: Any) -> None:
    """Puts one worker and two under load."""
    case(benchmark)
