"""Puts a UDP echo server under load and reads what it cost: both in processes, and on cores, of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.fresh import ROOT, command
from benchmarks.processes import load_generator, pinned, usage
from benchmarks.udp_server import serve

SOURCE = Path(__file__).with_name("udp_load.c")


def hindrance() -> str:
    if not sys.platform.startswith("linux"):
        return "the load generator is for Linux"
    return "" if shutil.which("cc") else "the load generator needs a C compiler (cc)"


def under_load(
    side: str, loop: str, *, clients: int, window: int, seconds: float, limit: int, roam: bool
) -> Mapping[str, float]:
    """CPU time of the server for each datagram answered, answers a second, and how long they took."""
    with tempfile.TemporaryDirectory() as directory:
        generator = load_generator(SOURCE, directory)
        reads, writes = os.pipe()
        arguments = {"side": side, "loop": loop, "limit": limit, "descriptor": writes}
        server = subprocess.Popen(
            pinned(0, command(serve, arguments)), stdout=subprocess.DEVNULL, cwd=ROOT, pass_fds=[writes]
        )
        os.close(writes)
        try:
            with open(reads) as ports:
                port = ports.readline().strip()
            if not port:
                raise RuntimeError(f"the server of {side} on {loop} did not start")
            words = [generator, port, str(clients), str(window), str(seconds), str(int(roam))]
            with subprocess.Popen(pinned(1, words), stdout=subprocess.PIPE, text=True) as load:
                assert load.stdout is not None
                warm = load.stdout.readline()
                before = usage(server.pid)
                told = load.stdout.readline().split()
                spent = usage(server.pid).since(before)
            if warm != "warm\n" or len(told) != 4:
                raise RuntimeError(f"the load generator said {warm!r} and {told!r}")
        finally:
            server.kill()
            server.wait()
    answers, lost, half, most = map(int, told)
    if not answers:
        raise RuntimeError(f"the server of {side} on {loop} gave no answers")
    return {
        "cpu": spent.ran / answers,
        "rate": answers / seconds,
        "p50": half * 1e-6,
        "p99": most * 1e-6,
        "lost": lost / (answers + lost),
        "busy": spent.busy(seconds),
    }
