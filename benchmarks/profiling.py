"""Where a server's time goes: `perf` looks at it while a question puts it under load."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks import processes
from benchmarks.question import Probed

#: How often `perf` looks, in Hz; an odd number, so that it keeps no step with anything periodic.
FREQUENCY = 4_999

#: What the object that a sample was taken in belongs to, by parts of its name; the first that fits.
PARTS = (
    ("kernel", ("[kernel", "[unknown]", "[vdso]", "[guest")),
    ("interpreter", ("libpython", "python3", "_asyncio", "_contextvars", "_socket", "_struct")),
    ("event loop", ("uvloop", "loop.cpython")),
    ("cyasgi, compiled", ("_core.", "_fast_path.", "_batches.", "_headers.", "_head.")),
    ("httptools", ("httptools", "parser.cpython", "url_parser")),
    ("granian", ("granian",)),
    ("libc", ("libc.", "libc-", "ld-linux", "libpthread")),
)


def hindrance() -> str:
    """Why nothing can be profiled here, or an empty string."""
    return "" if shutil.which("perf") else "perf is not installed (on Debian: apt install linux-perf)"


class Profile:
    """Samples of a server between the two looks at its CPU time that a question takes."""

    def __init__(self, directory: Path) -> None:
        self.data = directory / "perf.data"
        self._perf: subprocess.Popen[bytes] | None = None

    def __call__(self, pid: int) -> None:
        """Starts before the load, and stops after it."""
        if self._perf is None:
            words = ["perf", "record", "-q", "-F", str(FREQUENCY), "-o", str(self.data), "-p", str(pid)]
            self._perf = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        elif self._perf.poll() is None:
            self._perf.send_signal(signal.SIGINT)
            self._perf.wait()

    def samples(self, *fields: str) -> Counter[tuple[str, ...]]:
        """How many samples were taken in each object, or object and symbol."""
        words = ["perf", "report", "-i", str(self.data), "--stdio", "-q", "-n", "-t", "\t", "--sort", ",".join(fields)]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        found: Counter[tuple[str, ...]] = Counter()
        for line in done.stdout.splitlines():
            words = [word.strip() for word in line.split("\t")]
            if len(words) >= 2 + len(fields) and words[1].isdigit():
                found[tuple(words[2 : 2 + len(fields)])] += int(words[1])
        return found


def part_of(name: str) -> str:
    return next((part for part, marks in PARTS if any(mark in name for mark in marks)), "other")


@contextmanager
def _watched(watch: Profile) -> Iterator[None]:
    processes.watch = watch
    try:
        yield
    finally:
        processes.watch = None


def profile(question: Probed, side: str, loop: str, size: int, mode: str, symbols: int) -> str:
    """Asks a question of one side and tells where its server's time went, as lines of Markdown.

    Raises:
        RuntimeError: the server did not start or answered wrongly, or nothing was sampled.
    """
    arguments: Mapping[str, float] = question.arguments.get(mode, {})
    with ExitStack() as stack:
        watch = Profile(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        stack.enter_context(_watched(watch))
        cost = question.probe(side, loop, size, **arguments)["cpu"] * 1e6
        objects = watch.samples("dso")
        places = watch.samples("dso", "symbol")
    total = objects.total()
    if not total:
        raise RuntimeError(f"{question.name}, {side}: perf has taken no sample")
    parts: Counter[str] = Counter()
    for (name,), count in objects.items():
        parts[part_of(name)] += count
    lines = [
        f"### {question.name}, {side} on {loop}: {cost:.1f} µs, {total:,} samples",
        "",
        "| part | share | µs |",
        "| --- | --- | --- |",
        *(f"| {name} | {count / total:.0%} | {cost * count / total:.1f} |" for name, count in parts.most_common()),
        "",
        "```text",
        *(
            f"{count / total:6.1%} {cost * count / total:6.2f} µs  {name:18.18}  {symbol.removeprefix('[.] ')}"
            for (name, symbol), count in places.most_common(symbols)
        ),
        "```",
        "",
    ]
    return "\n".join(lines)
