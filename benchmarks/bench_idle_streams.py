"""Memory of idle connections, each with its instance, as the machine counts it."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.fresh import ROOT, command
from benchmarks.processes import pinned
from benchmarks.question import Bar, Figure, Probed
from benchmarks.servers import serving
from benchmarks.sides import FLOOR, SIDES

#: Connections that there are to be, and descriptors that a process needs beside.
WANTED, BESIDE = 100_000, 300
CAP_SYS_RESOURCE = 24
#: Connections from one address: the system has some 28,000 ports for each, and finds a free one fast while most are.
EACH = 5_000
#: Linux's: the port is found when it is connected.
IP_BIND_ADDRESS_NO_PORT = 24
#: Connections that are begun before their answers are read.
BATCH = 100
PATIENCE = 60.0
LINE = b"x" * 63 + b"\n"


def may_raise() -> bool:
    """Whether this process has CAP_SYS_RESOURCE, which allows higher limits."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return bool(int(fields["CapEff"], 16) >> CAP_SYS_RESOURCE & 1)


def reachable() -> int:
    """How many connections the limit of open files allows here; who may raise it does."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY:
        return WANTED
    if may_raise():
        hard = max(hard, int(Path("/proc/sys/fs/nr_open").read_text()))
    return max(1, min(WANTED, hard - BESIDE))


def raise_limit(count: int) -> None:
    """Lets this process, and those that it starts, have so many connections.

    Raises:
        RuntimeError: it may not.
    """
    needed = count + BESIDE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, max(hard, needed)))
    except (OSError, ValueError) as error:
        raise RuntimeError(f"{count} connections: the limit of open files is {hard} ({error})") from None


def connect(port: int, count: int) -> None:
    """Opens so many connections, each of which is answered one line, and holds them until standard input ends."""
    connections: list[socket.socket] = []
    while len(connections) < count:
        batch = []
        for number in range(len(connections), min(count, len(connections) + BATCH)):
            one = socket.socket()
            one.settimeout(PATIENCE)
            one.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            one.bind((f"127.0.0.{2 + number // EACH}", 0))
            one.connect(("127.0.0.1", port))
            one.sendall(LINE)
            batch.append(one)
        for one in batch:
            answer = b""
            while len(answer) < len(LINE) and (data := one.recv(len(LINE))):
                answer += data
            if answer != LINE:
                raise RuntimeError(f"answered {answer!r}")
        connections += batch
    sys.stderr.write("connected\n")
    sys.stderr.flush()
    sys.stdin.read()


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def probe(side: str, loop: str, size: int) -> Mapping[str, float]:
    raise_limit(size)
    with serving(side, "lines", loop, patience=PATIENCE) as server:
        words = pinned(1, command(connect, {"port": server.port, "count": 1}))
        # Whatever is made at the first connection.
        subprocess.run(words, check=True, cwd=ROOT, input=b"", capture_output=True)
        before = resident(server.pid)
        words = pinned(1, command(connect, {"port": server.port, "count": size}))
        began = time.perf_counter()
        with subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=ROOT, text=True
        ) as clients:
            assert clients.stderr is not None
            assert clients.stdin is not None
            said = clients.stderr.readline()
            took = time.perf_counter() - began
            grown = resident(server.pid) - before
            clients.stdin.close()
            said += clients.stderr.read()
        if not said.startswith("connected\n"):
            raise RuntimeError(f"{side}: the clients said {said[-2000:]!r}; {server.said()}")
    return {"idle": grown / size, "open": took}


def hindrance() -> str:
    return "" if sys.platform.startswith("linux") else "addresses, limits and memory are looked up as Linux has them"


REACHED = reachable() if not hindrance() else 0

QUESTION = Probed(
    name="idle_streams",
    title="memory of an idle connection with its instance, lines over TCP",
    size_of="connections",
    sizes={"quick": (min(2_000, REACHED),), "usual": (REACHED,), "full": (REACHED,)},
    probe=probe,
    figures={"idle": Figure("per idle connection", "B"), "open": Figure("to open all, and one line on each", "s")},
    rounds={"quick": 1, "usual": 1, "full": 3},
    sides=(*SIDES, FLOOR),
    loops=("uvloop",),
    called={"reference": "asyncio's streams"},
    floor_is="an asyncio protocol that splits what comes into lines, and sends each back",
    bars=(Bar("cython", most=6_000, figure="idle"),),
    hindrance=hindrance,
    note="Resident memory of the server, without the kernel's. The clients are in a process of their own, and come "
    f"from several addresses of the loopback interface. {WANTED:,} connections are asked for"
    + ("." if REACHED >= WANTED else f"; the limit of open files allows {REACHED:,} here."),
)


def test_idle_streams(benchmark: Any, case: Any) -> None:
    """Weighs a server with idle connections."""
    case(benchmark)
