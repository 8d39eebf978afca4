"""Puts an HTTP server under load and reads what it cost: both in processes, and on cores, of their own."""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.processes import pinned
from benchmarks.question import BUSY, Figure, Probed
from benchmarks.servers import CALLED, Server, lacking, serving
from benchmarks.sides import FLOOR, SIDES

SCRIPT = Path(__file__).with_name("wrk.lua")
#: Requests before the load: each answer is compared, and what warms up is warm.
CHECKED = 200

FIGURES = {
    "cpu": Figure("server's CPU time per request", "µs"),
    "rate": Figure("requests per second", "/s", more=True),
    "p50": Figure("half of the answers within", "ms"),
    "p99": Figure("99 % within", "ms"),
    **BUSY,
}

#: Targets that are asked for in turn, where they are to differ: no connection asks twice in a row for the same.
TARGETS = 1009
#: As a browser has them; wrk itself sends nothing but Host.
HEADERS = """\
Connection: keep-alive
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8
Sec-Fetch-Site: same-origin
Sec-Fetch-Mode: navigate
Sec-Fetch-Dest: document
Referer: http://127.0.0.1/
Accept-Encoding: gzip, deflate, br, zstd
Accept-Language: en-GB,en;q=0.9
Cookie: session=0123456789abcdef0123456789abcdef
"""

#: Whole seconds: wrk takes no others.
SECONDS = {"quick": {"seconds": 1}, "usual": {"seconds": 2}, "full": {"seconds": 3}}


def hindrance() -> str:
    if not sys.platform.startswith("linux"):
        return "CPU time is read from Linux's /proc"
    return "" if shutil.which("wrk") else "the load generator, wrk, is not installed"


def question(**own: Any) -> Probed:
    """A question that HTTP servers are asked: what all of these have in common, and what this one has of its own."""
    common: dict[str, Any] = {
        "size_of": "connections",
        "sizes": {"quick": (64,), "usual": (64,), "full": (64,)},
        "figures": FIGURES,
        "arguments": SECONDS,
        "sides": (*SIDES, FLOOR, "granian", "gunicorn", "hypercorn", "daphne"),
        "full_only": ("gunicorn", "hypercorn", "daphne"),
        "loops": ("uvloop",),
        "called": CALLED,
        "hindrance": hindrance,
        "lacking": lacking,
    }
    return Probed(**(common | own))


def _check(server: Server, posted: bytes | None, expected: bytes) -> int:
    """Compares answers with what is expected; the bytes of one, at least."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    method = "GET" if posted is None else "POST"
    try:
        for _ in range(CHECKED):
            connection.request(method, "/", posted)
            response = connection.getresponse()
            body = response.read()
            if response.status != 200 or body != expected:
                raise RuntimeError(f"{server.side} answered {response.status} and {len(body)} bytes: {body[:100]!r}")
        # A status line without reason, each header with a colon and a line end, an empty line.
        head = 15 + sum(len(name) + len(value) + 3 for name, value in response.getheaders()) + 2
        return head + len(expected)
    except (OSError, http.client.HTTPException) as error:
        raise RuntimeError(f"{server.side} gave no answer: {error!r}; {server.said()}") from error
    finally:
        connection.close()


def _load(server: Server, connections: int, seconds: int, asked: Mapping[str, str]) -> list[int]:
    words = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}", "--timeout", "10s", "-s", str(SCRIPT)]
    words.append(f"http://127.0.0.1:{server.port}/")
    environment = {**os.environ, **asked}
    done = subprocess.run(pinned(1, words), check=False, capture_output=True, text=True, env=environment)
    told = [line for line in done.stdout.splitlines() if line.startswith("told ")]
    if done.returncode or not told:
        raise RuntimeError(f"wrk ended with {done.returncode}: {done.stdout}{done.stderr}")
    return [int(word) for word in told[0].split()[1:]]


def under_load(
    side: str,
    loop: str,
    *,
    application: str,
    connections: int,
    seconds: int,
    expected: bytes,
    posted: bytes | None = None,
    varied: bool = False,
    log: bool = False,
    watched: bool = False,
) -> Mapping[str, float]:
    """CPU time of the server for each request, requests a second, and how long they took.

    Raises:
        RuntimeError: an answer was wrong, or did not come; or, with `log`, was not logged.
    """
    asked = {"TARGETS": str(TARGETS), "HEADERS": HEADERS} if varied else {}
    if posted is not None:
        asked = {"BODY": posted.decode("ascii")}
    with serving(side, application, loop, log=log, watched=watched) as server:
        least = _check(server, posted, expected)
        before = server.usage()
        requests, duration, size, half, most, *errors = _load(server, connections, seconds, asked)
        spent = server.usage().since(before)
        if any(errors):
            kinds = zip(("connecting", "reading", "writing", "status", "timeout"), errors, strict=True)
            told = ", ".join(f"{kind} {count}" for kind, count in kinds if count)
            raise RuntimeError(f"{side}: errors under load: {told}; {server.said()}")
        if not requests or size < requests * least:
            raise RuntimeError(
                f"{side}: {requests} answers of {size} bytes together, {least} or more were due for each"
            )
        if log and server.lines(requests) < requests:
            raise RuntimeError(f"{side}: {requests} requests, of which {server.lines(0)} were logged")
    return {
        "cpu": spent.ran / requests,
        "rate": requests / duration * 1e6,
        "p50": half * 1e-6,
        "p99": most * 1e-6,
        "busy": spent.busy(duration * 1e-6),
    }
