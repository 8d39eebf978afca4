"""Puts an echo server under load and reads what it cost: both in processes, and on cores, of their own."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.processes import load_generator, pinned
from benchmarks.question import BUSY, Figure
from benchmarks.servers import serving

SOURCE = Path(__file__).with_name("websocket_load.c")
WITH_ZLIB = ("-DDEFLATE", "-lz")

FIGURES = {
    "cpu": Figure("server's CPU time per message", "µs"),
    "rate": Figure("messages per second", "/s", more=True),
    "p50": Figure("half of the answers within", "ms"),
    "p99": Figure("99 % within", "ms"),
    **BUSY,
}


def hindrance(*, deflate: bool = False) -> str:
    if not sys.platform.startswith("linux"):
        return "the load generator is for Linux"
    if not shutil.which("cc"):
        return "the load generator needs a C compiler (cc)"
    if not deflate:
        return ""
    with tempfile.TemporaryDirectory() as directory:
        try:
            load_generator(SOURCE, directory, WITH_ZLIB)
        except RuntimeError:
            return "the load generator needs zlib's header and library"
    return ""


def under_load(
    side: str, loop: str, *, connections: int, length: int, seconds: float, deflate: bool
) -> Mapping[str, float]:
    """As `echoed`, for WebSockets."""
    return echoed(
        SOURCE,
        side,
        "websocket",
        loop,
        WITH_ZLIB if deflate else (),
        connections=connections,
        length=length,
        seconds=seconds,
    )


def echoed(
    source: Path,
    side: str,
    application: str,
    loop: str,
    options: tuple[str, ...] = (),
    *,
    connections: int,
    length: int,
    seconds: float,
) -> Mapping[str, float]:
    """CPU time of the server for each message sent back, messages a second, and how long they took.

    Args:
        source: of the load generator, which is compiled with these options.

    Raises:
        RuntimeError: an answer was not what was sent, or did not come.
    """
    with tempfile.TemporaryDirectory() as directory, serving(side, application, loop) as server:
        generator = load_generator(source, directory, options)
        words = [generator, str(server.port), str(connections), str(length), str(seconds)]
        with subprocess.Popen(pinned(1, words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as load:
            assert load.stdout is not None
            warm = load.stdout.readline()
            before = server.usage()
            told = load.stdout.readline().split()
            spent = server.usage().since(before)
            said = load.communicate()[1]
        if load.returncode or warm != "warm\n" or len(told) != 3 or told[0] == "0":
            raise RuntimeError(f"{side}: the load generator said {warm!r}, {told!r} and {said!r}; {server.said()}")
    answers, half, most = map(int, told)
    return {
        "cpu": spent.ran / answers,
        "rate": answers / seconds,
        "p50": half * 1e-6,
        "p99": most * 1e-6,
        "busy": spent.busy(seconds),
    }
