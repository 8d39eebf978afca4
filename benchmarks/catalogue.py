"""All questions by name, in the order in which they are asked and told."""

from __future__ import annotations

import importlib

from benchmarks.question import Probed, Timed

MODULES = (
    "bench_lookup",
    "bench_scatter",
    "bench_create",
    "bench_evict",
    "bench_flood",
    "bench_message",
    "bench_wake",
    "bench_burst",
    "bench_drain",
    "bench_reap",
    "bench_expire",
    "bench_checker",
    "bench_memory",
    "bench_resident",
    "bench_million",
    "bench_pauses",
    "bench_latency",
    "bench_soak",
    "bench_udp",
    "bench_roaming",
    "bench_http",
    "bench_http_varied",
    "bench_http_log",
    "bench_http_watched",
    "bench_http_stream",
    "bench_http_post",
    "bench_websocket",
    "bench_lines",
    "bench_idle_streams",
    "bench_websocket_deflate",
    "bench_worker",
    "bench_layer",
    "bench_workers",
    "bench_engines",
    "bench_capacity",
    "bench_balance",
    "bench_managed",
    "bench_managed_life",
    "bench_instructions",
    "bench_server_instructions",
)

QUESTIONS: dict[str, Timed | Probed] = {
    question.name: question
    for question in (importlib.import_module(f"benchmarks.{module}").QUESTION for module in MODULES)
}
