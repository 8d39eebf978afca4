"""The charts of a run, as SVG."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.catalogue import QUESTIONS
from benchmarks.drawing import (
    COLOURS,
    DASHES,
    DRAWN,
    INK,
    LABELS,
    LOOP_MARKS,
    MARKS,
    STYLE,
    WIDTH,
    Point,
    bar,
    bars,
    better,
    curve,
    entitle,
    explain,
    fold,
    footnote,
    label,
    loops_of,
    panels,
    plain_numbers,
    point,
    points,
    rate,
    size_of,
)
from benchmarks.judge import Answers, gain_of, shown, verdicts
from benchmarks.question import Bar, Question, Timed
from benchmarks.sides import FLOOR, LOOPS, PEERS


def eviction(answers: Answers) -> Figure:
    what = "time per new instance, µs (less is better)"
    return curve(answers, "evict", "time", "A new instance on a full table: one is evicted", what)


def sweep(answers: Answers) -> Figure:
    what = "share of a core, % (less is better)"
    title = "Clients that say nothing: the share of a core that the checker takes"
    return curve(answers, "checker", "share", title, what)


def memory(answers: Answers) -> Figure:
    """Draw one loop: the loop makes no difference to an instance's memory."""
    loop = loops_of(answers, "memory")[0]
    ways = {"memory": "allocated\n(tracemalloc)", "resident": "resident"}
    asked = [name for name in ways if answers.of(name)]
    size = max(one.size for name in asked for one in answers.of(name))
    drawing, axes = panels(1, f"Memory of an idle instance, of {size:,} ({loop})", 1.5 + 0.95 * len(asked))
    found: dict[str, list[Point | None]] = {
        side: [next(reversed(points(answers, name, "idle", side, loop)), None) for name in asked] for side in DRAWN
    }
    bars(axes[0], [ways[name] for name in asked], found, LABELS)
    axes[0].set_xlabel("bytes for each (less is better)")
    explain(drawing, axes)
    return drawing


def gateway(answers: Answers) -> Figure:
    loops = loops_of(answers, "udp")
    sizes = sorted({one.size for one in answers.of("udp")})
    groups = [("udp", size, f"{size:,} client{'s' * (size > 1)}") for size in sizes]
    if found := answers.of("roaming"):
        groups.append(("roaming", min(one.size for one in found), "all clients new,\nat the limit"))
    drawing, axes = panels(len(loops), "UDP echo through a gateway", 1.5 + 0.8 * len(groups))
    for loop, ax in zip(loops, axes, strict=True):
        values = {side: [rate(answers, name, side, loop, size) for name, size, _ in groups] for side in DRAWN}
        bars(ax, [name for *_, name in groups], values, LABELS)
        ax.set(title=loop, xlabel="answers per second (more is better)")
        footnote(ax, itertools.chain(*values.values()))
    explain(drawing, axes)
    return drawing


def servers(answers: Answers, name: str) -> Figure:
    """Draw the CPU time of each server, the cheapest first, and beside it what it answers in a second."""
    question = QUESTIONS[name]
    loop = loops_of(answers, name)[-1]
    size = size_of(answers, name)
    found = {
        side: {"cpu": cost, "rate": answered}
        for side in (*DRAWN, *PEERS)
        if (cost := point(answers, name, "cpu", side, loop, size)) is not None
        and (answered := rate(answers, name, side, loop, size)) is not None
    }
    order = sorted(found, key=lambda side: found[side]["cpu"].median)
    drawing, axes = panels(2, f"{question.title}, {size} connections ({loop})", 1.2 + 0.32 * len(order))
    for ax, figure in zip(axes, ("cpu", "rate"), strict=True):
        shown_here = [found[side][figure] for side in order]
        most = max(one.third for one in shown_here)
        for place, (side, one) in enumerate(zip(order, shown_here, strict=True)):
            bar(ax, place, one, side, 0.7)
        ax.set_yticks(range(len(order)), [label(question, side) for side in order])
        ax.set(xlabel=better(name, figure), xlim=(0, most * 1.22), ylim=(len(order) - 0.5, -0.5))
        footnote(ax, shown_here)
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="y", visible=False)
        ax.xaxis.set_major_locator(MaxNLocator(5))
        plain_numbers(ax.xaxis)
    return drawing


def http_servers(answers: Answers) -> Figure:
    return servers(answers, "http")


def websocket_servers(answers: Answers) -> Figure:
    return servers(answers, "websocket")


def beside_servers(answers: Answers) -> Figure:
    """Draw what requests and messages cost on each server, relative to the reference."""
    asked = [
        question
        for question in QUESTIONS.values()
        if question.called and "cpu" in question.figures and answers.of(question.name)
    ]
    drawing, axes = panels(1, "CPU time of the server for each request or message", 1.5 + 0.42 * len(asked))
    ax = axes[0]
    ax.axvline(1.0, color=COLOURS["reference"], linewidth=1.2)
    for side in ("reference", "pure", "cython", "granian", "gunicorn", "hypercorn", "daphne"):
        found = []
        for place, question in enumerate(asked):
            size, loop = size_of(answers, question.name), loops_of(answers, question.name)[-1]
            cost, reference = (point(answers, question.name, "cpu", one, loop, size) for one in (side, "reference"))
            if cost and reference and reference.median:
                found.append((cost.median / reference.median, place))
        if found:
            shares, places = zip(*found, strict=True)
            ax.plot(shares, places, MARKS[side], color=COLOURS[side], markersize=7, label=label(asked[0], side))
        for share, place in found if side == "cython" else ():
            ax.annotate(f"{share:.2f}", (share, place), (0, 6), textcoords="offset points", ha="center", fontsize=8.5)
    ax.set(xscale="log", xlabel="as a part of uvicorn's (less is better)", ylim=(len(asked) - 0.4, -0.7))
    ax.set_yticks(range(len(asked)), [fold(question.title, 46) for question in asked], fontsize=8.5)
    ax.tick_params(axis="y", length=0)
    plain_numbers(ax.xaxis)
    explain(drawing, axes)
    return drawing


def server_instructions(answers: Answers) -> Figure:
    """Draw the instructions of the servers for each request, relative to the reference."""
    name = "server_instructions"
    question = QUESTIONS[name]
    loop, size = loops_of(answers, name)[-1], size_of(answers, name)
    found: dict[str, list[Point | None]] = {}
    for side in ("pure", "cython", FLOOR, *PEERS):
        shares = [_share(answers, name, figure, side, loop, size) for figure in question.figures]
        if any(shares):
            found[side] = shares
    drawing, axes = panels(1, f"Instructions of the server, user mode ({loop})", 1.5 + 0.75 * len(question.figures))
    bars(axes[0], [fold(figure.title, 24) for figure in question.figures.values()], found, LABELS)
    axes[0].axvline(1.0, color=COLOURS["reference"], linewidth=1.2)
    axes[0].set_xlabel(f"as a part of {label(question, 'reference')}'s (less is better)")
    explain(drawing, axes)
    return drawing


def _share(answers: Answers, question: str, figure: str, side: str, loop: str, size: int) -> Point | None:
    """Return a figure as a part of the reference's."""
    one, reference = (point(answers, question, figure, each, loop, size) for each in (side, "reference"))
    if one is None or reference is None or not reference.median:
        return None
    return Point(size, *(value / reference.median for value in (one.median, one.first, one.third)))


def latency(answers: Answers) -> Figure:
    size = max(one.size for one in answers.of("latency"))
    loops = loops_of(answers, "latency")
    drawing, axes = panels(len(loops), f"From a client's send to the application's receive, {size:,} live instances")
    figures = {"p50": "p50", "p99": "p99", "p99.9": "p99.9", "worst": "worst"}
    for loop, ax in zip(loops, axes, strict=True):
        for side in DRAWN:
            found = [point(answers, "latency", figure, side, loop, size) for figure in figures]
            values = [one for one in found if one is not None]
            if len(values) == len(figures):
                style: Any = {"color": COLOURS[side], "linestyle": DASHES[side], "marker": MARKS[side]}
                ax.plot(list(figures.values()), [one.median for one in values], label=LABELS[side], **style)
                spread = [one.first for one in values], [one.third for one in values]
                ax.fill_between(list(figures.values()), *spread, color=COLOURS[side], alpha=0.2)
        ax.set(yscale="log", title=loop, xlabel="percentile of the messages")
    for ax in axes:
        plain_numbers(ax.yaxis)
    axes[0].set_ylabel("delay, ms (less is better)")
    explain(drawing, axes)
    return drawing


#: The questions in the chart of layers, with their titles.
LAYERS = {
    "balance": "An HTTP request to an application",
    "managed": "A message to an instance and back",
    "managed_life": "An instance from its creation to its end",
}


def layers(answers: Answers) -> Figure:
    """Draw what a load balancer and managed instances add, on one loop, for the compiled core where it was measured."""
    asked = {name: title for name, title in LAYERS.items() if answers.of(name)}
    rows: list[list[tuple[str, Point, str]]] = []
    for name in asked:
        question = QUESTIONS[name]
        assert isinstance(question, Timed)
        loop = loops_of(answers, name)[-1]
        side = "cython" if any(one.side == "cython" for one in answers.of(name)) else "pure"
        size = (
            max(one.size for one in answers.of(name))
            if question.base
            else min((one.size for one in answers.of(name)), key=lambda one: abs(one - 4))
        )
        found = []
        if not question.base and (bare := point(answers, name, next(iter(question.ways)), FLOOR, loop, size)):
            found.append(("called bare", bare, FLOOR))
        for way, title in question.ways.items():
            if (one := point(answers, name, way, side, loop, size)) is not None:
                called = title if question.base else f"LoadBalancer, {way}"
                found.append((called, one, FLOOR if way == question.base else side))
        rows.append(found)
    heights = [len(found) + 1 for found in rows]
    drawing, axes = pyplot.subplots(
        len(rows), 1, figsize=(WIDTH, 0.8 + 0.29 * sum(heights)), height_ratios=heights, sharex=True, squeeze=False
    )
    entitle(drawing, f"What a load balancer and managed instances add ({loop})")
    most = max(one.third for found in rows for _, one, _ in found)
    for ax, found, title in zip(axes[:, 0], rows, asked.values(), strict=True):
        for place, (_, one, side) in enumerate(found):
            bar(ax, place, one, side, 0.7)
        ax.set_yticks(range(len(found)), [name for name, *_ in found])
        ax.set(title=title, xlim=(0, most * 1.15), ylim=(len(found) - 0.5, -0.5))
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="y", visible=False)
        plain_numbers(ax.xaxis)
    axes[-1, 0].set_xlabel("time of each, µs (less is better); white: without")
    return drawing


#: By row of the overview and loop: how many times better, and the goal, if there is one.
Gains = dict[str, dict[str, tuple[float, float | None]]]


def gains(answers: Answers) -> Gains:
    """Compare the Cython back end with the reference, in the figure that has a goal, else in the first one."""
    rows: Gains = {}
    for question in QUESTIONS.values():
        if isinstance(question, Timed) and question.base:
            continue  # compared with cyasgi's own server, in a chart of its own
        goals = {(bar.figure, size, loop): goal for bar, size, loop, goal in _goals(question, answers)}
        figure = next((figure for figure, *_ in goals), next(iter(question.figures)))
        beside = f" ({question.called['reference']})" if "reference" in question.called else ""
        for one in sorted(answers.of(question.name), key=lambda one: one.size):
            if (one.side, one.figure, one.collector) == ("cython", figure, "on"):
                reference = answers.get(question.name, figure, one.size, "reference", one.loop)
                gain = gain_of(one, reference, more=question.figures[figure].more)
                name = f"{question.name}, {one.size:,} {question.size_of.partition(' (')[0]}{beside}"
                if gain is not None:
                    rows.setdefault(name, {})[one.loop] = gain, goals.get((figure, one.size, one.loop))
    return rows


def _goals(question: Question, answers: Answers) -> Iterator[tuple[Bar, int, str, float]]:
    """Yield the goals of the Cython back end against the reference, as times better."""
    for verdict in verdicts(question, answers):
        bar = verdict.bar
        promised = bar.least if bar.least is not None else bar.most
        if {bar.of, bar.by} == {"reference", "cython"} and promised:
            yield bar, verdict.size, verdict.loop, 1 / promised if bar.of == "cython" else promised


def overview(answers: Answers) -> Figure:
    """Draw how many times better the Cython back end is than the reference, and the goals."""
    rows = gains(answers)
    drawing, axes = panels(1, "The compiled cyasgi beside asgiref, or what stands in brackets", 1.4 + 0.27 * len(rows))
    ax = axes[0]
    seen: set[str] = set()
    for place, by_loop in enumerate(rows.values()):
        found = [gain for gain, _ in by_loop.values()]
        ax.plot([1, max(found)], [place, place], color="#c9d1d9", linewidth=1.5, zorder=1)
        for loop, (gain, goal) in by_loop.items():
            aside = (-0.13 if loop == "asyncio" else 0.13) if len(by_loop) > 1 else 0.0
            ax.plot(
                gain,
                place + aside,
                LOOP_MARKS[loop],
                color=COLOURS["cython"],
                markerfacecolor=COLOURS["cython"] if goal is None or gain >= goal else "white",
                markersize=7,
            )
            if goal is not None:
                ax.plot([goal, goal], [place - 0.38, place + 0.38], color=INK, linewidth=1.5)
            seen.add(loop)
        told = " – ".join(dict.fromkeys(shown(gain) for gain in sorted(found)))
        right = max(*found, *(goal for _, goal in by_loop.values() if goal), 1.0)
        ax.annotate(f"{told}×", (right, place), (8, 0), textcoords="offset points", va="center", fontsize=8.5)
    ax.axvline(1.0, color=COLOURS["reference"], linewidth=1.2)
    for loop in (loop for loop in LOOPS if loop in seen):
        ax.plot([], [], LOOP_MARKS[loop], color=COLOURS["cython"], markersize=7, label=loop)
    ax.plot([], [], "s", color=INK, markerfacecolor="white", label="hollow: short of the goal")
    ax.plot([], [], "|", color=INK, markersize=11, markeredgewidth=1.5, label="the goal")
    ax.set(xscale="log", xlabel="times better (more is better)", ylim=(len(rows) - 0.4, -0.6))
    low, high = ax.get_xlim()
    ax.set_xlim(min(low, 0.9), high * (high / min(low, 0.9)) ** 0.12)
    ax.set_yticks(range(len(rows)), list(rows), fontsize=8.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)
    plain_numbers(ax.xaxis)
    explain(drawing, axes)
    return drawing


#: File name, the questions of which one must have been asked, and the function that draws the chart.
CHARTS: tuple[tuple[str, tuple[str, ...], Callable[[Answers], Figure]], ...] = (
    ("eviction.svg", ("evict",), eviction),
    ("sweep.svg", ("checker",), sweep),
    ("memory.svg", ("memory",), memory),
    ("latency.svg", ("latency",), latency),
    ("gateway.svg", ("udp",), gateway),
    ("servers.svg", ("http",), http_servers),
    ("websockets.svg", ("websocket",), websocket_servers),
    ("beside_servers.svg", ("http",), beside_servers),
    ("server_instructions.svg", ("server_instructions",), server_instructions),
    ("layers.svg", tuple(LAYERS), layers),
)


def draw_all(answers: Answers, directory: Path) -> list[tuple[str, str]]:
    """Draw every chart that there are answers for, and return the title and file name of each."""
    drawn = []
    with matplotlib.rc_context(STYLE):
        for name, draw in _possible(answers):
            drawing = draw(answers)
            drawing.savefig(directory / name, metadata={"Date": None})
            drawn.append((drawing.get_suptitle(), name))
            pyplot.close(drawing)
    return drawn


def _possible(answers: Answers) -> Iterable[tuple[str, Callable[[Answers], Figure]]]:
    if gains(answers):
        yield "overview.svg", overview
    for name, questions, draw in CHARTS:
        if any(answers.of(question) for question in questions):
            yield name, draw
