"""What charts are drawn with: the look of each side, medians with their quartiles, axes and bars."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from benchmarks.catalogue import QUESTIONS
from benchmarks.judge import SCALE, Answers, shown
from benchmarks.question import BUSY_ENOUGH, Question
from benchmarks.sides import FLOOR, LOOPS, SIDES

#: Told apart by people who see few colours too, by lightness in print, and by mark, line and hatching without either.
COLOURS = {
    "reference": "#c1440e",
    "pure": "#e3a01b",
    "cython": "#1660a8",
    FLOOR: "#7d848c",
    "minimal": "#a9afb6",
    "granian": "#7a4fa3",
    "gunicorn": "#b5538c",
    "hypercorn": "#2e8b6f",
    "daphne": "#8c6d46",
}
LABELS = {
    "reference": "asgiref",
    "pure": "cyasgi, pure Python",
    "cython": "cyasgi, compiled",
    FLOOR: "floor (as little as does it)",
    "minimal": "minimal ASGI in Python",
}
MARKS = {
    "reference": "o",
    "pure": "^",
    "cython": "s",
    FLOOR: "|",
    "minimal": "x",
    "granian": "D",
    "gunicorn": "*",
    "hypercorn": "v",
    "daphne": "P",
}
DASHES = {"reference": "-", "pure": "--", "cython": "-", FLOOR: ":"}
HATCHES = {
    "reference": "////",
    "pure": "....",
    "minimal": "",
    "granian": "xxxx",
    "gunicorn": "oo",
    "hypercorn": "\\\\\\\\",
    "daphne": "++++",
}
LOOP_MARKS = {"asyncio": "^", "uvloop": "o"}
DRAWN = (*SIDES, FLOOR)
#: Connections that servers are compared at.
SERVED = 64
#: Inches, at 72 points each: 800 pixels in a browser, as wide as a page of GitHub's shows a picture.
WIDTH = 600 / 72
#: Ink of lines and letters that belong to no side.
INK = "#24292f"

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "cyasgi",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "grid.color": "#dfe3e8",
    "grid.linewidth": 0.7,
    "axes.edgecolor": "#5f6673",
    "hatch.color": "white",
    "hatch.linewidth": 0.8,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    # Not transparent: the letters are dark, and the page behind them may be too.
    "figure.facecolor": "white",
}


def loops_of(answers: Answers, question: str) -> list[str]:
    """Return the event loops that a question was asked on, in the usual order."""
    asked = {one.loop for one in answers.of(question)}
    return [loop for loop in LOOPS if loop in asked]


@dataclass(frozen=True)
class Point:
    """A median and the quartiles around it, in the figure's unit."""

    size: int
    median: float
    first: float
    third: float
    #: A rate that is the load generator's rather than the server's, which had time left.
    idle: bool = False


def points(answers: Answers, question: str, figure: str, side: str, loop: str) -> list[Point]:
    """Return what was measured, by size."""
    scale = SCALE.get(QUESTIONS[question].figures[figure].unit, 1.0)
    found = [
        Point(one.size, one.median * scale, one.quartiles[0] * scale, one.quartiles[1] * scale)
        for one in answers.of(question)
        if (one.figure, one.side, one.loop, one.collector) == (figure, side, loop, "on")
    ]
    return sorted(found, key=lambda point: point.size)


def point(answers: Answers, question: str, figure: str, side: str, loop: str, size: int) -> Point | None:
    """Return what was measured at one size."""
    return next((one for one in points(answers, question, figure, side, loop) if one.size == size), None)


def rate(answers: Answers, question: str, side: str, loop: str, size: int) -> Point | None:
    """Return what a server answered in a second, marked if it could have done more."""
    found = point(answers, question, "rate", side, loop, size)
    busy = answers.get(question, "busy", size, side, loop)
    return found and replace(found, idle=busy is not None and busy.median < BUSY_ENOUGH)


def footnote(ax: Axes, found: Iterable[Point | None]) -> None:
    """Explain the stars below the axis, if there are any."""
    if any(one is not None and one.idle for one in found):
        ax.set_xlabel(f"{ax.get_xlabel()}\n* the load generator was the limit")


def panels(count: int, title: str, height: float = 3.7, *, sharey: bool = True) -> tuple[Figure, list[Axes]]:
    """Return a drawing with panels side by side, on one scale."""
    drawing, axes = pyplot.subplots(1, count, figsize=(WIDTH, height), sharey=sharey, squeeze=False)
    entitle(drawing, title)
    return drawing, list(axes[0])


def entitle(drawing: Figure, title: str) -> None:
    """Lay the drawing out, and give it a title."""
    drawing.set_layout_engine("constrained", w_pad=0.1, h_pad=0.06)
    drawing.suptitle(title, x=0.01, ha="left", fontsize=11.5, fontweight="bold")


def explain(drawing: Figure, axes: Iterable[Axes]) -> None:
    """Add one legend for all panels, below them, where no curve runs."""
    found = {name: handle for ax in axes for handle, name in zip(*ax.get_legend_handles_labels(), strict=True)}
    drawing.legend(list(found.values()), list(found), loc="outside lower left", ncols=min(4, len(found)))


def plain_numbers(axis: Any) -> None:
    """Write numbers in full; on a logarithmic axis of less than two decades also between the powers of ten."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
    if axis.get_scale() == "log":
        low, high = sorted(axis.get_view_interval())
        if high < 100 * low:
            axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high > 10 * low else (1, 1.5, 2, 3, 4, 5, 7)))
    axis.set_minor_formatter(NullFormatter())


def better(question: str, figure: str) -> str:
    """Return the label of an axis: what it shows, in which unit, and which way is better."""
    described = QUESTIONS[question].figures[figure]
    unit = "" if described.unit == "/s" else f", {described.unit}"
    return f"{described.title}{unit} ({'more' if described.more else 'less'} is better)"


def curve(answers: Answers, question: str, figure: str, title: str, what: str) -> Figure:
    """Draw how a figure grows with the size, both logarithmic, with the quartiles; a panel for each loop."""
    loops = loops_of(answers, question)
    asked = QUESTIONS[question]
    drawing, axes = panels(len(loops), title)
    for loop, ax in zip(loops, axes, strict=True):
        for side in DRAWN:
            if found := [one for one in points(answers, question, figure, side, loop) if one.median > 0]:
                sizes, values = [one.size for one in found], [one.median for one in found]
                style: Any = {"color": COLOURS[side], "linestyle": DASHES[side], "marker": MARKS[side]}
                ax.plot(sizes, values, label=LABELS[side], **style)
                ax.fill_between(
                    sizes, [one.first for one in found], [one.third for one in found], color=COLOURS[side], alpha=0.2
                )
        ax.set(xscale="log", yscale="log", title=loop, xlabel=asked.size_of)
        ax.margins(x=0.08)
    for ax in axes:
        plain_numbers(ax.xaxis)
        plain_numbers(ax.yaxis)
    axes[0].set_ylabel(what)
    explain(drawing, axes)
    return drawing


def bars(ax: Axes, groups: list[str], values: Mapping[str, list[Point | None]], names: Mapping[str, str]) -> None:
    """Draw horizontal bars in groups from the top down, each with its quartiles and its median."""
    thickness = 0.84 / max(1, len(values))
    most = max((one.third for column in values.values() for one in column if one), default=1.0)
    for place, (side, column) in enumerate(values.items()):
        named = False
        for group, one in enumerate(column):
            if one is None:
                continue
            y = group - 0.42 + (place + 0.5) * thickness
            bar(ax, y, one, side, thickness * 0.9, label=None if named else names.get(side, side))
            named = True
    ax.set_yticks(range(len(groups)), groups)
    ax.set_ylim(len(groups) - 0.45, -0.55)
    ax.set_xlim(0, most * 1.22)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    plain_numbers(ax.xaxis)


def bar(ax: Axes, y: float, one: Point, side: str, thickness: float, label: str | None = None) -> None:
    """Draw one bar, hatched as its side is, with a line between the quartiles and the median written behind it."""
    colours: Any = {"color": COLOURS[side], "hatch": HATCHES.get(side, "")}
    if side in (FLOOR, "minimal"):
        colours = {"facecolor": "white", "edgecolor": COLOURS[side], "linewidth": 1.0}
    ax.barh(y, one.median, thickness, label=label, **colours)
    ax.plot([one.first, one.third], [y, y], color=INK, linewidth=1.2)
    end = max(one.third, one.median)
    ax.annotate(
        shown(one.median) + "*" * one.idle, (end, y), (4, 0), textcoords="offset points", va="center", fontsize=8.5
    )


def label(question: Question, side: str) -> str:
    """Return the name of a side in the chart of a question."""
    return question.called.get(side, LABELS.get(side, side))


def size_of(answers: Answers, question: str) -> int:
    """Return the number of connections that servers are compared at, or the nearest one that was measured."""
    return min((one.size for one in answers.of(question)), key=lambda size: abs(size - SERVED))


def fold(text: str, width: int) -> str:
    """Break the text into lines."""
    return "\n".join(textwrap.wrap(text, width))
