"""HTTP/1.1 on connections that are kept: the smallest request and answer, so that all there is is the server's work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.applications import ANSWER
from benchmarks.http_load import question, under_load
from benchmarks.question import Bar
from benchmarks.sides import FLOOR, PEERS, SIDES


def probe(side: str, loop: str, size: int, seconds: int) -> Mapping[str, float]:
    return under_load(side, loop, application="answer", connections=size, seconds=seconds, expected=ANSWER)


QUESTION = question(
    name="http",
    title="HTTP, kept connections, 13 bytes answered",
    sizes={"quick": (64,), "usual": (64,), "full": (1, 64, 512)},
    probe=probe,
    sides=(*SIDES, FLOOR, *PEERS),
    floor_is="a constant answer after httptools; minimal: a scope, a task and two sends for each request, in plain "
    "Python, nothing checked",
    bars=(
        Bar("cython", "reference", most=0.4, figure="cpu", size=64),
        Bar("cython", "granian", most=0.65, figure="cpu", size=64),
        Bar("pure", "reference", most=1.0, figure="cpu"),
    ),
    note="One worker, without access log; uvicorn with httptools and without one too. Each server as its own command "
    "starts it, so with its own settings of the garbage collector and the allocator. Server and load generator (wrk) "
    "have a core each; CPU time is that of the whole server: its processes and threads. A request is under way on each "
    "connection at a time, so the times are those of a closed loop. daphne has a loop of its own. gunicorn is its "
    "own ASGI worker, without the lifespan, with its parser in C only where gunicorn_h1c is installed.",
)


def test_http(benchmark: Any, case: Any) -> None:
    """Puts a server under load."""
    case(benchmark)
