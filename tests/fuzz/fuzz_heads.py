"""Both twins of the head parser on the same bytes, millions of times: each must give what the other one gives.

Run it by hand, with the extensions built:

    python tests/fuzz/fuzz_heads.py [INPUTS] [--seed SEED] [--results FILE]

An input is what a connection receives, and how that is cut. `head_twins` makes them: cases of the corpora with changes,
heads that are like the ones before, bytes at random; besides, every case cut in two at every byte, and every pair of
cases. The compiled twin reads each of them twice, as Python calls it and as compiled code does. The first difference
ends the run. The results are written as JSON, at the end and after each million.
"""

from __future__ import annotations

import argparse
import collections
import importlib.metadata
import itertools
import json
import platform
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from cyasgi.wire.http._head import HeadParser

from cyasgi.wire.http._head_py import HeadParser as PureHeadParser
from cyasgi.wire.http.request import HeadLimits
from support.head_twins import LIMITS, SEEDS, alike, check_alike, cut, mutated, scanned, stream, taken

Input = tuple[HeadLimits, bool, list[bytes]]


def cut_everywhere() -> Iterator[Input]:
    for data in SEEDS:
        for at in range(1, len(data)):
            yield HeadLimits(), True, [data[:at], data[at:]]


def in_pairs() -> Iterator[Input]:
    for one, other in itertools.product(SEEDS, repeat=2):
        yield HeadLimits(), True, [one + other]


def random_bytes(chance: random.Random) -> bytes:
    return mutated(
        chance, b"GET / HTTP/1.1\r\nHost: a\r\n" * chance.randrange(2) + chance.randbytes(chance.randrange(60))
    )


KINDS = {"changed": stream, "alike": alike, "random": random_bytes}


def at_random(seed: int) -> Iterator[tuple[str, Input]]:
    chance = random.Random(seed)
    names = list(KINDS)
    while True:
        name = chance.choices(names, (5, 4, 1))[0]
        data = KINDS[name](chance)
        yield name, (chance.choice(LIMITS), chance.random() < 0.6, cut(chance, data))


class Run:
    """Counts what was read, and what came of it."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.kinds: collections.Counter[str] = collections.Counter()
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.difference: str | None = None

    def compare(self, kind: str, limits: HeadLimits, strict: bool, pieces: list[bytes]) -> bool:
        """Read an input with both twins; return whether they give the same."""
        self.kinds[kind] += 1
        pure = taken(PureHeadParser(limits, strict), pieces)
        try:
            check_alike(pure, taken(HeadParser(limits, strict), pieces))
            check_alike(pure, scanned(HeadParser(limits, strict), pieces))
        except AssertionError:
            self.difference = repr((limits, strict, pieces))
            return False
        self.outcomes["heads accepted"] += len(pure) - 1
        self.outcomes[str(pure[-1][0]) if isinstance(pure[-1], tuple) else "nothing refused"] += 1
        return True

    def results(self) -> str:
        found = {
            "inputs": self.kinds.total(),
            "seed": self.seed,
            "cases": len(SEEDS),
            "kinds": dict(self.kinds),
            "outcomes": dict(sorted(self.outcomes.items())),
            "difference": self.difference,
            "cpu_seconds": round(time.process_time()),
            "python": platform.python_version(),
            "httptools": importlib.metadata.version("httptools"),
        }
        return json.dumps(found, indent=2) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("inputs", type=int, nargs="?", default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    run = Run(given.seed)
    fixed = itertools.chain(
        (("cut at every byte", one) for one in cut_everywhere()), (("joined in pairs", one) for one in in_pairs())
    )
    inputs = itertools.islice(itertools.chain(fixed, at_random(given.seed)), given.inputs)
    for number, (kind, one) in enumerate(inputs, 1):
        if not run.compare(kind, *one):
            break
        if given.results and number % 1_000_000 == 0:
            given.results.write_text(run.results(), encoding="utf-8")
    if given.results:
        given.results.write_text(run.results(), encoding="utf-8")
    print(run.results())
    return run.difference is not None


if __name__ == "__main__":
    sys.exit(main())
