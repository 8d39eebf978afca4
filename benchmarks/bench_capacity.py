"""What many clients take: memory of each instance, and CPU time of each datagram, among ever more of them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.bench_resident import weigh
from benchmarks.fresh import ROOT
from benchmarks.probing import run
from benchmarks.processes import load_generator, usage
from benchmarks.question import Figure, Probed
from benchmarks.sides import BACKENDS
from benchmarks.udp import SOURCE, hindrance

WINDOW = 256
#: Seconds that the command may take to serve.
PATIENCE = 30.0

FIGURES = {
    "bytes": Figure("resident memory per idle instance", "B"),
    "udp_cpu": Figure("CPU time per datagram, one worker", "µs"),
    "udp_rate": Figure("datagrams per second, one worker with a core", "/s", more=True),
    "udp_cpu_two": Figure("CPU time per datagram, two workers", "µs"),
    "udp_rate_two": Figure("datagrams per second, two workers with a core each", "/s", more=True),
}


def over_udp(side: str, loop: str, workers: int, clients: int, seconds: float) -> tuple[float, float]:
    """CPU time of all workers for each datagram answered, and the rate at which they were if each has a core."""
    words = [sys.executable, "-m", "cyasgi", "serve", "--udp", "127.0.0.1:0", "--loop", loop]
    words += ["--workers", str(workers), "--max-applications", str(2 * clients), "cyasgi.examples:echo"]
    with tempfile.TemporaryDirectory() as directory:
        generator = load_generator(SOURCE, directory)
        output = Path(directory, "output")
        with output.open("wb") as file:
            environment = os.environ | {"CYASGI_BACKEND": BACKENDS[side]}
            process = subprocess.Popen(
                words, stdout=file, stderr=file, cwd=ROOT, env=environment, start_new_session=True
            )
        try:
            port = _port(output, process)
            pids = [process.pid]
            if workers > 1:
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                pids = [int(child) for child in children]
            load = [generator, str(port), str(clients), str(min(WINDOW, clients)), str(seconds), "0"]
            with subprocess.Popen(load, stdout=subprocess.PIPE, text=True) as sending:
                assert sending.stdout is not None
                # By then, each client has an instance.
                warm = sending.stdout.readline()
                before = [usage(pid).ran for pid in pids]
                told = sending.stdout.readline().split()
                spent = [usage(pid).ran - earlier for pid, earlier in zip(pids, before, strict=True)]
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if warm != "warm\n" or not told or not int(told[0]):
        raise RuntimeError(f"the load generator said {warm!r} and {told!r}")
    return sum(spent) / int(told[0]), int(told[0]) / max(spent)


def _port(output: Path, process: subprocess.Popen[bytes]) -> int:
    """The port that the command serves on, once it does."""
    ends = time.monotonic() + PATIENCE
    while True:
        said = output.read_text()
        found = re.search(r"listening on udp \S*:(\d+)", said)
        if found and " serves " in said:
            return int(found[1])
        if process.poll() is not None or time.monotonic() > ends:
            raise RuntimeError(f"the command does not serve: {said[-2000:]}")
        time.sleep(0.05)


def probe(side: str, loop: str, size: int, seconds: float) -> Mapping[str, float]:
    found = {"bytes": run(loop, weigh(side, size))["idle"]}
    found["udp_cpu"], found["udp_rate"] = over_udp(side, loop, 1, size, seconds)
    found["udp_cpu_two"], found["udp_rate_two"] = over_udp(side, loop, 2, size, seconds)
    return found


QUESTION = Probed(
    name="capacity",
    title="What many clients take",
    size_of="clients",
    sizes={"quick": (1_000, 10_000), "usual": (10_000, 50_000, 200_000), "full": (10_000, 50_000, 200_000)},
    probe=probe,
    sides=("cython",),
    loops=("uvloop",),
    figures=FIGURES,
    rounds={"quick": 1, "usual": 3, "full": 5},
    arguments={"quick": {"seconds": 0.5}, "usual": {"seconds": 2.0}, "full": {"seconds": 4.0}},
    hindrance=hindrance,
    told=("bytes", "udp_cpu", "udp_cpu_two"),
    note="Each client has an instance of its own; 64 bytes are echoed, 256 datagrams under way. A rate is what was "
    "answered divided by the CPU time of the busiest worker. `python -m benchmarks model` has what follows from it.",
)


def test_capacity(benchmark: Any, case: Any) -> None:
    """Puts one worker and two under the load of many clients."""
    case(benchmark)
