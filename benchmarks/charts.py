"""Draws what a run found, as SVG."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.catalogue import QUESTIONS
from benchmarks.judge import SCALE, Answers, Verdict, shown, verdicts
from benchmarks.question import Question
from benchmarks.sides import FLOOR, LOOPS, PEERS, SIDES

#: Told apart by people who see few colours too, and by lightness in print.
COLOURS = {
    "reference": "#c1440e",
    "pure": "#e3a01b",
    "cython": "#1660a8",
    FLOOR: "#9aa0a6",
    "minimal": "#c8ccd1",
    "granian": "#7a4fa3",
    "hypercorn": "#2e8b6f",
    "daphne": "#8c6d46",
}
LABELS = {
    "reference": "asgiref",
    "pure": "cyasgi, pure",
    "cython": "cyasgi, Cython",
    FLOOR: "floor",
    "minimal": "minimal ASGI in Python",
}
MARKS = {"reference": "o", "pure": "^", "cython": "s", FLOOR: "_"}
DRAWN = (*SIDES, FLOOR)
#: Connections that servers are compared at.
SERVED = 64

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "cyasgi",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "grid.color": "#e4e7eb",
    "grid.linewidth": 0.7,
    "axes.edgecolor": "#5f6673",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "figure.facecolor": "white",
}


def loops_of(answers: Answers, question: str) -> list[str]:
    """The event loops that a question was asked on, in the usual order."""
    asked = {one.loop for one in answers.of(question)}
    return [loop for loop in LOOPS if loop in asked]


def points(answers: Answers, question: str, figure: str, side: str, loop: str) -> list[tuple[int, float]]:
    """Size and median, in the figure's unit, by size."""
    scale = SCALE.get(QUESTIONS[question].figures[figure].unit, 1.0)
    return sorted(
        (one.size, one.median * scale)
        for one in answers.of(question)
        if (one.figure, one.side, one.loop, one.collector) == (figure, side, loop, "on")
    )


def panels(count: int, title: str) -> tuple[Figure, list[Axes]]:
    """Side by side, on one scale."""
    drawing, axes = pyplot.subplots(1, count, figsize=(4.8 * count, 3.9), sharey=True, squeeze=False)
    drawing.suptitle(title, x=0.02, ha="left", fontsize=12, fontweight="bold")
    return drawing, list(axes[0])


def plain_numbers(axis: Any) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: shown(value)))
    axis.set_minor_formatter(NullFormatter())


def curve(answers: Answers, question: str, figure: str, title: str) -> Figure:
    """How a figure grows with the size, both logarithmic; a panel for each loop."""
    loops = loops_of(answers, question)
    asked = QUESTIONS[question]
    drawing, axes = panels(len(loops), title)
    for loop, ax in zip(loops, axes, strict=True):
        for side in DRAWN:
            if found := points(answers, question, figure, side, loop):
                sizes, values = zip(*found, strict=True)
                dashes = "--" if side == FLOOR else "-"
                ax.plot(sizes, values, dashes, color=COLOURS[side], marker=MARKS[side], label=LABELS[side])
        ax.set(xscale="log", yscale="log", title=loop, xlabel=asked.size_of)
        plain_numbers(ax.xaxis)
        plain_numbers(ax.yaxis)
    axes[0].set_ylabel(f"{asked.figures[figure].title}, {asked.figures[figure].unit}")
    axes[0].legend()
    return drawing


def grouped(
    ax: Axes, groups: list[str], values: dict[str, list[float | None]], question: Question | None = None
) -> None:
    """Bars side by side in each group, the value above each; sides are called as in the question, if one is given."""
    width = 0.8 / max(1, len(values))
    names = {side: label(question, side) if question else LABELS[side] for side in values}
    named: set[str] = set()
    for place, (side, heights) in enumerate(values.items()):
        for group, height in enumerate(heights):
            if height is not None:
                x = group - 0.4 + (place + 0.5) * width
                ax.bar(x, height, width * 0.92, color=COLOURS[side], label=None if side in named else names[side])
                named.add(side)
                ax.annotate(shown(height), (x, height), (0, 2), textcoords="offset points", ha="center", fontsize=7.5)
    ax.set_xticks(range(len(groups)), groups)
    ax.grid(axis="x", visible=False)


def eviction(answers: Answers) -> Figure:
    return curve(answers, "evict", "time", "Creating an instance on a full table")


def sweep(answers: Answers) -> Figure:
    return curve(answers, "checker", "share", "What idle instances cost: the checker's share of a core")


def memory(answers: Answers) -> Figure:
    loops = loops_of(answers, "memory")
    drawing, axes = panels(len(loops), "Memory of an idle instance")
    for loop, ax in zip(loops, axes, strict=True):
        asked = [name for name in ("memory", "resident") if answers.of(name)]
        found: dict[str, list[float | None]] = {}
        for side in DRAWN:
            last = [points(answers, name, "idle", side, loop)[-1:] for name in asked]
            found[side] = [one[0][1] if one else None for one in last]
        names = {"memory": "allocated (tracemalloc)", "resident": "resident"}
        grouped(ax, [names[name] for name in asked], found)
        ax.set_title(loop)
    axes[0].set_ylabel("bytes")
    axes[0].legend()
    return drawing


def gateway(answers: Answers) -> Figure:
    loops = loops_of(answers, "udp")
    drawing, axes = panels(len(loops), "UDP echo through a gateway, answers per second")
    roaming = bool(answers.of("roaming"))
    for loop, ax in zip(loops, axes, strict=True):
        sizes = sorted({one.size for one in answers.of("udp")})
        found: dict[str, list[float | None]] = {}
        for side in DRAWN:
            rates = dict(points(answers, "udp", "rate", side, loop))
            found[side] = [rates.get(size) for size in sizes]
            if roaming:
                found[side].append(next((rate for _, rate in points(answers, "roaming", "rate", side, loop)), None))
        groups = [f"{size:,} client{'s' * (size > 1)}" for size in sizes] + ["all new,\nat the limit"] * roaming
        grouped(ax, groups, found)
        ax.set_title(loop)
    axes[0].legend()
    return drawing


def label(question: Question, side: str) -> str:
    """What a side is called in the chart of a question."""
    return question.called.get(side, LABELS.get(side, side))


def servers(answers: Answers) -> Figure:
    """The servers from the cheapest to the dearest for the smallest request, beside what each then answers a second."""
    question = QUESTIONS["http"]
    loop = loops_of(answers, "http")[-1]
    size = SERVED if any(one.size == SERVED for one in answers.of("http")) else answers.of("http")[0].size
    drawing, axes = pyplot.subplots(1, 2, figsize=(9.6, 3.6))
    drawing.suptitle(f"{question.title}, {size} connections", x=0.02, ha="left", fontsize=12, fontweight="bold")
    values = {
        figure: {side: dict(points(answers, "http", figure, side, loop)).get(size) for side in (*DRAWN, *PEERS)}
        for figure in ("cpu", "rate")
    }
    order = sorted((side for side, cost in values["cpu"].items() if cost), key=lambda side: -(values["cpu"][side] or 0))
    for ax, (figure, by_side) in zip(axes, values.items(), strict=True):
        found = [by_side[side] or 0.0 for side in order]
        ax.barh(range(len(order)), found, 0.7, color=[COLOURS[side] for side in order])
        for place, value in enumerate(found):
            ax.annotate(shown(value), (value, place), (4, 0), textcoords="offset points", va="center", fontsize=8.5)
        ax.set(title=f"{question.figures[figure].title}, {question.figures[figure].unit}")
        ax.set_yticks(range(len(order)), [label(question, side) for side in order] if ax is axes[0] else [])
        ax.margins(x=0.15)
        ax.grid(axis="y", visible=False)
        plain_numbers(ax.xaxis)
    return drawing


def beside_servers(answers: Answers) -> Figure:
    """What requests and messages cost on each server, as a part of what they cost on the reference."""
    asked = [question for question in QUESTIONS.values() if question.called and answers.of(question.name)]
    found: dict[str, list[float | None]] = {side: [] for side in (*SIDES, *PEERS) if side != "minimal"}
    for question in asked:
        loop = loops_of(answers, question.name)[-1]
        costs = {side: dict(points(answers, question.name, "cpu", side, loop)) for side in found}
        for side, by_size in costs.items():
            size = SERVED if SERVED in by_size else max(by_size, default=SERVED)
            reference = costs["reference"].get(size)
            found[side].append(by_size[size] / reference if reference and by_size else None)
    found = {side: shares for side, shares in found.items() if any(shares)}
    drawing, ax = pyplot.subplots(figsize=(2.2 + 1.7 * len(asked), 4.2))
    drawing.suptitle("CPU time of the server, as a part of uvicorn's", x=0.02, ha="left", fontweight="bold")
    grouped(ax, [question.name for question in asked], found, asked[0])
    ax.axhline(1.0, color=COLOURS["reference"], linewidth=0.8)
    ax.legend(ncols=2)
    return drawing


def latency(answers: Answers) -> Figure:
    size = max(one.size for one in answers.of("latency"))
    loops = loops_of(answers, "latency")
    drawing, axes = panels(len(loops), f"From a client's send to the application's receive, {size:,} live instances")
    figures = ("p50", "p99", "p99.9", "worst")
    for loop, ax in zip(loops, axes, strict=True):
        for side in DRAWN:
            found = [dict(points(answers, "latency", figure, side, loop)).get(size) for figure in figures]
            values = [value for value in found if value is not None]
            if len(values) == len(figures):
                dashes = "--" if side == FLOOR else "-"
                ax.plot(figures, values, dashes, color=COLOURS[side], marker=MARKS[side], label=LABELS[side])
        ax.set(yscale="log", title=loop, xlabel="share of the messages")
        plain_numbers(ax.yaxis)
    axes[0].set_ylabel("ms")
    axes[0].legend()
    return drawing


def compared(verdict: Verdict) -> bool:
    """Whether a promise is about the Cython back end against the reference."""
    return {verdict.bar.of, verdict.bar.by} == {"reference", "cython"} and verdict.value > 0


def overview(answers: Answers) -> Figure:
    """How many times better the Cython back end is than the reference, beside what was promised."""
    rows = []
    for question in QUESTIONS.values():
        for verdict in verdicts(question, answers):
            if compared(verdict):
                upside_down = verdict.bar.of == "cython"
                promised = verdict.bar.least if verdict.bar.least is not None else verdict.bar.most
                assert promised is not None
                gain, bar = (1 / verdict.value, 1 / promised) if upside_down else (verdict.value, promised)
                beside = f" ({question.called['reference']})" if "reference" in question.called else ""
                rows.append((f"{question.name}, {verdict.size:,}, {verdict.loop}{beside}", gain, bar))
    rows.reverse()
    drawing, ax = pyplot.subplots(figsize=(9, 1.2 + 0.26 * len(rows)))
    for place, (_, gain, bar) in enumerate(rows):
        colour = COLOURS["cython"] if gain >= bar else COLOURS["reference"]
        ax.plot([1, gain], [place, place], color=colour, linewidth=5, solid_capstyle="butt")
        ax.plot([bar, bar], [place - 0.4, place + 0.4], color="black", linewidth=1.5)
        ax.annotate(f"{shown(gain)}×", (max(gain, bar), place), (5, 0), textcoords="offset points", va="center")
    ax.set(xscale="log", xlabel="times better than asgiref, or what stands in brackets; black: promised")
    ax.set_yticks(range(len(rows)), [row[0] for row in rows], fontsize=8)
    ax.grid(axis="y", visible=False)
    plain_numbers(ax.xaxis)
    drawing.suptitle("cyasgi with its Cython back end against its references", x=0.02, ha="left", fontweight="bold")
    return drawing


#: File name, what must have been asked, and what draws it.
CHARTS: tuple[tuple[str, str, Callable[[Answers], Figure]], ...] = (
    ("eviction.svg", "evict", eviction),
    ("sweep.svg", "checker", sweep),
    ("memory.svg", "memory", memory),
    ("gateway.svg", "udp", gateway),
    ("servers.svg", "http", servers),
    ("beside_servers.svg", "http", beside_servers),
    ("latency.svg", "latency", latency),
)


def draw_all(answers: Answers, directory: Path) -> list[tuple[str, str]]:
    """Draws every chart that there are answers for; title and file name of each."""
    drawn = []
    with matplotlib.rc_context(STYLE):
        for name, draw in _possible(answers):
            drawing = draw(answers)
            drawing.tight_layout(rect=(0, 0, 1, 0.97))
            drawing.savefig(directory / name, metadata={"Date": None})
            pyplot.close(drawing)
            drawn.append((draw.__name__, name))
    return drawn


def _possible(answers: Answers) -> Iterable[tuple[str, Callable[[Answers], Figure]]]:
    if any(compared(verdict) for question in QUESTIONS.values() for verdict in verdicts(question, answers)):
        yield "overview.svg", overview
    for name, question, draw in CHARTS:
        if answers.of(question):
            yield name, draw
