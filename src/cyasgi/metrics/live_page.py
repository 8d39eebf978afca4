"""The live page: what each process does now, as tables that a browser shows without JavaScript."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from html import escape

from .. import __version__, backend
from .._common.cells import (
    DATAGRAMS_RECEIVED,
    DATAGRAMS_SENT,
    FAILURES,
    LOOP_LAG,
    MESSAGE_TIME,
    REQUEST_TIME,
    REQUESTS,
    RESPONSES,
    STREAM_MESSAGES_RECEIVED,
    STREAM_MESSAGES_SENT,
    UNDELIVERED,
    WEBSOCKETS,
    Histogram,
)
from .rates import Change, Looks
from .snapshot import Snapshot, Source, Totals, WorkerView, not_ready, quantile

#: Seconds after which a browser loads the page again.
REFRESH = 2
#: Scopes that are shown, and workers: more of them are counted, and not shown.
SCOPES, WORKERS = 10, 64

STYLE = """
:root { color-scheme: light dark; font: 14px/1.45 system-ui, sans-serif; }
body { margin: 1.5rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.05rem; margin: 1.6rem 0 .4rem; }
div { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #8884; text-align: right; white-space: nowrap; }
th { font-weight: 600; } .text { text-align: left; white-space: normal; }
tr:last-child td { border-bottom: 0; } .sum td { font-weight: 600; }
.good { color: #1a7f37; } .bad { color: #cf222e; } .quiet { color: #888; }
pre { background: #8881; padding: .7rem; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; }
"""

#: Of cells that are no numbers.
TEXT = ' class="text"'

#: Headings of the processes, and what they mean.
PROCESSES = (
    ("worker", "its number, which one that replaces it will have"),
    ("process", "its id"),
    ("state", "what it does"),
    ("up", "time since its start"),
    ("requests/s", "HTTP requests begun"),
    ("5xx/s", "HTTP responses with a status from 500 on"),
    ("WebSockets/s", "WebSockets begun"),
    ("datagrams/s in, out", "datagrams received, and sent"),
    ("stream messages/s in, out", "messages that applications receive from streams, and send"),
    ("request 50 %, 99 %", "within which half of the requests were answered, and 99 %"),
    ("wait 50 %, 99 %", "within which half of the messages were taken from their queues, and 99 %"),
    ("loop late now, 99 %", "how late the event loop is, and within which it was 99 % of the time"),
    ("instances, idle", "in the table; and how many of these wait for a message"),
    ("queued, by", "messages in queues; and how many instances have any"),
    ("failures", "applications that have raised, since the start"),
    ("undelivered", "messages that no application has taken, since the start"),
)


class LivePage:
    """Renders the page; rates and times are of what happened since a look at it a moment before.

    Args:
        source: knows the processes.
        lag_bound: seconds by which an event loop may be late.
    """

    def __init__(self, source: Source, lag_bound: float) -> None:
        self._source = source
        self._lag_bound = lag_bound
        self._looks = Looks()

    def render(self, root: str, *, refreshing: bool) -> bytes:
        """Return the page in UTF-8.

        Args:
            root: the path under which it is mounted.
            refreshing: whether browsers load it again by themselves.
        """
        return "".join(self._parts(escape(root), refreshing)).encode("utf-8", "backslashreplace")

    def _parts(self, root: str, refreshing: bool) -> Iterator[str]:
        snapshot = self._source.snapshot()
        totals = snapshot.totals()
        changes = self._looks.take(snapshot, totals)
        yield '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>cyasgi</title>'
        yield '<meta name="viewport" content="width=device-width">'
        if refreshing:
            yield f'<meta http-equiv="refresh" content="{REFRESH}">'
        yield f"<style>{STYLE}</style></head><body>\n"
        reason = not_ready(snapshot, self._lag_bound)
        state = '<span class="good">ready</span>' if reason is None else f'<span class="bad">{escape(reason)}</span>'
        yield f'<h1>cyasgi {__version__}: <span id="state">{state}</span></h1>\n'
        yield f'<p class="quiet">{time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())}, back end {backend}; '
        yield f"rates and times of the last {changes.seconds:.1f} s; "
        where, what = ("?refresh=off", "stop refreshing") if refreshing else ("", "refresh")
        yield f'<a href="{root}/{where}">{what}</a> · '
        yield f'<a href="{root}/metrics">metrics</a> · <a href="{root}/readyz">readyz</a></p>\n'
        rows = [_process(worker, changes.of(worker)) for worker in snapshot.workers[:WORKERS]]
        if len(snapshot.workers) > 1 or snapshot.started > 1:
            rows.append(_processes(snapshot, totals, changes.all))
        headings = [f'<span title="{escape(meaning)}">{escape(name)}</span>' for name, meaning in PROCESSES]
        yield _table("processes", headings, rows, text=(2,), summed=len(rows) > len(snapshot.workers[:WORKERS]))
        if len(snapshot.workers) > WORKERS:
            yield f'<p class="quiet">and {len(snapshot.workers) - WORKERS} more</p>\n'
        if any(snapshot.restarts.values()):
            told = ", ".join(f"{count} ({escape(reason)})" for reason, count in sorted(snapshot.restarts.items()))
            yield f"<p>Workers started: {snapshot.started}; of these in place of another one: {told}.</p>\n"
        yield from _scopes(snapshot)
        yield from _counters(snapshot, totals)
        yield from _failures(snapshot)
        yield "</body></html>\n"


def _process(worker: WorkerView, change: Change) -> list[str]:
    servers = worker.overview.servers.values()
    return [
        str(worker.number),
        str(worker.pid),
        escape(worker.state),
        _duration(worker.age),
        *_rates(change),
        f"{_time(worker.lag)}, {_quantiles(change.times(LOOP_LAG), 0.99)}",
        *_instances([worker]),
        f"{sum(server.queued for server in servers):,}, {sum(server.waiting for server in servers):,}",
        f"{worker.cells[FAILURES]:,}",
        f"{worker.cells[UNDELIVERED]:,}",
    ]


def _processes(snapshot: Snapshot, totals: Totals, change: Change) -> list[str]:
    servers = [server for worker in snapshot.workers for server in worker.overview.servers.values()]
    return [
        "all",
        "",
        "",
        "",
        *_rates(change),
        _quantiles(change.times(LOOP_LAG), 0.99),
        *_instances(snapshot.workers),
        f"{sum(server.queued for server in servers):,}, {sum(server.waiting for server in servers):,}",
        f"{totals.cells[FAILURES]:,}",
        f"{totals.cells[UNDELIVERED]:,}",
    ]


def _rates(change: Change) -> list[str]:
    return [
        _rate(change.rate(REQUESTS)),
        _rate(change.rate(RESPONSES + 4)),
        _rate(change.rate(WEBSOCKETS)),
        f"{_rate(change.rate(DATAGRAMS_RECEIVED))}, {_rate(change.rate(DATAGRAMS_SENT))}",
        f"{_rate(change.rate(STREAM_MESSAGES_RECEIVED))}, {_rate(change.rate(STREAM_MESSAGES_SENT))}",
        _quantiles(change.times(REQUEST_TIME), 0.5, 0.99),
        _quantiles(change.times(MESSAGE_TIME), 0.5, 0.99),
    ]


def _instances(workers: Iterable[WorkerView]) -> list[str]:
    stats = [server.stats for worker in workers for server in worker.overview.servers.values()]
    return [", ".join(f"{sum(one.get(name, 0) for one in stats):,}" for name in ("live", "idle"))]


def _scopes(snapshot: Snapshot) -> Iterator[str]:
    found = [
        (one.queued, worker.number, name, one.scope)
        for worker in snapshot.workers
        for name, server in worker.overview.servers.items()
        for one in server.busiest
    ]
    found.sort(key=lambda one: -one[0])
    yield "<h2>Busiest scopes</h2>\n"
    if not found:
        yield '<p class="quiet">No message waits.</p>\n'
        return
    rows = [[f"{queued:,}", str(number), escape(name), escape(scope)] for queued, number, name, scope in found[:SCOPES]]
    yield _table("scopes", ["messages waiting", "worker", "server", "scope"], rows, text=(2, 3))


def _counters(snapshot: Snapshot, totals: Totals) -> Iterator[str]:
    now = snapshot.now()
    servers = list(dict.fromkeys((*now, *totals.stats)))
    if not servers:
        return
    yield "<h2>Servers</h2>\n"
    rows = []
    for when, found in (("now", now), ("since the start", totals.stats)):
        for key in dict.fromkeys(key for stats in found.values() for key in sorted(stats)):
            values = [found.get(name, {}).get(key) for name in servers]
            if not any(values) and found is not now:
                continue
            rows.append([escape(key), when, *("" if value is None else f"{value:,}" for value in values)])
    yield _table("servers", ["", "", *map(escape, servers)], rows, text=(0, 1))


def _failures(snapshot: Snapshot) -> Iterator[str]:
    yield "<h2>Last failures</h2>\n"
    if not snapshot.failures:
        yield '<p class="quiet">None.</p>\n'
    for number, failure in snapshot.failures:
        moment = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(min(failure.moment, 1e11)))
        yield f"<p>{moment}, worker {number}, {escape(failure.server)}: {escape(failure.scope)}: "
        yield f"<b>{escape(failure.error)}</b></p>\n<pre>{escape(failure.traceback)}</pre>\n"


def _table(
    name: str, headings: Sequence[str], rows: Sequence[Sequence[str]], *, text: Sequence[int] = (), summed: bool = False
) -> str:
    """Return a table.

    Args:
        headings, rows: HTML.
        text: the columns that are no numbers.
        summed: whether the last row is a sum of the others.
    """

    def cells(kind: str, values: Sequence[str]) -> str:
        return "".join(f"<{kind}{TEXT if place in text else ''}>{value}</{kind}>" for place, value in enumerate(values))

    written = [f"<tr>{cells('td', row)}</tr>\n" for row in rows]
    if summed:
        written[-1] = written[-1].replace("<tr>", '<tr class="sum">', 1)
    head = f"<thead><tr>{cells('th', headings)}</tr></thead>"
    return f'<div><table id="{name}">{head}\n<tbody>\n{"".join(written)}</tbody></table></div>\n'


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or not value else f"{value:.1f}"


def _quantiles(times: Histogram, *parts: float) -> str:
    found = [quantile(times, part) for part in parts]
    return ", ".join("–" if one is None else "> 60 s" if one == math.inf else f"≤ {_time(one)}" for one in found)


def _time(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:,.0f} s"
    return f"{seconds * 1e3:.3g} ms"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
