"""What changed between two runs, in ratios only: times differ with the machine, advantages hardly do."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path

from benchmarks.judge import ratios, shown
from benchmarks.report import read


def compare(before: Path, after: Path, threshold: float, names: Collection[str] = ()) -> int:
    """Prints each twin's advantage over the reference in both runs, of these questions only if any are named; 1 if an
    advantage shrank by more than the threshold."""
    (environment, earlier), (_, later) = read(before), read(after)
    was, now = (
        {key: ratio for key, ratio in ratios(answers).items() if not names or key[0] in names}
        for answers in (earlier, later)
    )
    print(f"Advantage over the reference: {before} ({environment['commit'][:12]}) and {after}")
    print(f"{'':66}{'before':>10}{'after':>10}{'change':>9}")
    worse = 0
    for key in now:
        name = " ".join(key)
        if key not in was:
            print(f"{name:66}{'':>10}{shown(now[key]) + 'x':>10}")
            continue
        change = now[key] / was[key] - 1
        mark = ""
        if change < -threshold:
            worse += 1
            mark = "  worse"
        print(f"{name:66}{shown(was[key]) + 'x':>10}{shown(now[key]) + 'x':>10}{change:>+8.0%}{mark}")
    common = len(was.keys() & now.keys())
    if not common:
        print("The two runs have no ratio in common.", file=sys.stderr)
        return 2
    print(f"{worse} of {common} advantages shrank by more than {threshold:.0%}.")
    return 1 if worse else 0
