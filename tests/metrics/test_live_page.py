"""The live page: what it shows, also in a browser, whatever scopes and errors are made of."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from support.metrics import Fixed, answer, worker

NASTY = "<script>alert(1)</script>&\"'</pre></table>"


class Cells(HTMLParser):
    """The text of each row of each table, of each `pre`, and all tags."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.texts, self.tags = {}, [], []
        self._into = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "table":
            self.rows = self.tables[dict(attributes)["id"]] = []
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._into = "cell"
        elif tag == "pre":
            self.texts.append("")
            self._into = "pre"

    def handle_endtag(self, tag):
        if tag in ("td", "th", "pre"):
            self._into = None

    def handle_data(self, data):
        if self._into == "cell":
            self.rows[-1][-1] += data
        elif self._into == "pre":
            self.texts[-1] += data


def page_of(source):
    from cyasgi.metrics.application import MetricsApplication

    return MetricsApplication(source)


async def shown(application, **changes):
    status, headers, body = await answer(application, "/", **changes)
    assert status == 200 and headers[b"content-type"] == b"text/html; charset=utf-8"
    return Cells(body.decode())


def test_workers(cy, run, monkeypatch):
    """A row for each, and their sum if there are several; rates are those of the time between two looks."""
    from cyasgi._common.cells import REQUEST_TIME, REQUESTS
    from cyasgi.metrics import rates

    async def main():
        source = Fixed(worker(1, 100, age=90_061, cells={REQUESTS: 1000}, http={"live": 7, "idle": 2}), worker(2, 200))
        application = page_of(source)
        cells = await shown(application)
        heads, first, second, both = cells.tables["processes"]
        row = dict(zip(heads, first, strict=True))
        assert (row["worker"], row["process"], row["state"], row["up"]) == ("1", "100", "serving", "1 d 1 h")
        assert (row["instances, idle"], row["queued, by"], row["request 50 %, 99 %"]) == ("7, 2", "0, 0", "–, –")
        assert second[:2] == ["2", "200"] and both[0] == "all"
        # A moment later.
        monkeypatch.setattr(rates, "APART", 0.0)
        counted = {REQUESTS: 1000 + 10**6, REQUEST_TIME + 3: 99, REQUEST_TIME + 16: 1}
        source.workers[0] = worker(1, 100, age=90_062, cells=counted, http={"live": 7})
        heads, first, second, both = (await shown(application)).tables["processes"]
        row = dict(zip(heads, first, strict=True))
        assert float(row["requests/s"].replace(",", "")) > 1000
        assert row["request 50 %, 99 %"] == "≤ 1 ms, ≤ 1 ms"
        assert dict(zip(heads, second, strict=True))["requests/s"] == "0"

    run(main())


def test_looks_of_several_people(cy, run):
    """Rates are taken over a second at least, and old looks are forgotten."""
    from cyasgi._common.cells import REQUESTS
    from cyasgi.metrics.rates import LOOKS, Looks
    from cyasgi.metrics.snapshot import Snapshot

    looks = Looks()
    begin = Fixed().snapshot().moment
    for tenths in range(0, 1000, 4):
        workers = (worker(1, 100, age=1000, cells={REQUESTS: tenths}),)
        snapshot = Snapshot(begin + tenths / 10, "serving", workers)
        changes = looks.take(snapshot, snapshot.totals())
        if tenths > 20:
            assert 1 <= changes.seconds <= 2.5
            assert changes.all.rate(REQUESTS) == pytest.approx(10)
            assert changes.of(workers[0]).rate(REQUESTS) == pytest.approx(10)
    assert len(looks._looks) == LOOKS


def test_hostile_texts(cy, run):
    """Whatever a scope, an error or a traceback is made of, it is text; there is no script, and nothing to load."""
    from cyasgi.metrics.overview import BusyScope, Failure, ServerOverview

    async def main():
        server = ServerOverview({NASTY: 5}, 1, 5, (BusyScope(NASTY, 5),))
        failure = Failure(1e300, NASTY, NASTY, NASTY, f"Traceback\n  {NASTY}")
        source = Fixed(worker(state=NASTY, **{NASTY: server}), failures=[(1, failure)], restarts={NASTY: 1})
        cells = await shown(page_of(source), root_path=f"/{NASTY}")
        assert {tag for tag, _ in cells.tags} <= {
            *("html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "a", "b", "span", "div"),
            *("table", "thead", "tbody", "tr", "th", "td", "pre"),
        }
        assert cells.tables["scopes"][1] == ["5", "1", NASTY, NASTY]
        assert [NASTY, "since the start", "5"] in cells.tables["servers"]
        assert cells.texts == [f"Traceback\n  {NASTY}"]
        assert all(name not in ("src", "onload", "onerror") for _, attributes in cells.tags for name in attributes)

    run(main())


def test_many_workers(cy, run):
    """As many as there may be: the page stays short, and says how many it does not show."""

    async def main():
        source = Fixed(*(worker(number, number, http={"live": 1}) for number in range(1, 1025)))
        _, _, body = await answer(page_of(source))
        assert b"and 960 more" in body
        assert len(body) < 100_000
        cells = Cells(body.decode())
        heads, *rows = cells.tables["processes"]
        assert len(rows) == 65
        assert dict(zip(heads, rows[-1], strict=True))["instances, idle"] == "1,024, 0"

    run(main())


def test_it_loads_itself_anew(cy, run):
    """Unless it was asked not to."""

    async def main():
        application = page_of(Fixed(worker()))
        refresh = ("meta", {"http-equiv": "refresh", "content": "2"})
        cells = await shown(application)
        assert refresh in cells.tags and ("a", {"href": "/?refresh=off"}) in cells.tags
        cells = await shown(application, query_string=b"refresh=off")
        assert refresh not in cells.tags and ("a", {"href": "/"}) in cells.tags
        for query in (b"\xff=%ff&;", b"refresh", b"&" * 500):
            assert refresh in (await shown(application, query_string=query)).tags

    run(main())


def test_times():
    from cyasgi.metrics.live_page import _duration, _quantiles, _rate, _time
    from cyasgi.metrics.snapshot import histogram_in, quantile

    assert [_time(seconds) for seconds in (0, 0.0001, 0.025, 1, 2.5, 60, 1234)] == [
        *("0 ms", "0.1 ms", "25 ms", "1 s", "2.5 s", "60 s", "1,234 s")
    ]
    assert [_duration(seconds) for seconds in (0.5, 61, 3700, 90_000)] == ["0 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"]
    assert [_rate(value) for value in (0, 0.04, 9.99, 12345.6)] == ["0", "0.0", "10.0", "12,346"]
    nothing, slow = histogram_in([0] * 18, 0), histogram_in([1, *[0] * 15, 1, 10**9], 0)
    assert quantile(nothing, 0.5) is None
    assert quantile(slow, 0.5) == 0.0001 and quantile(slow, 0.99) == float("inf")
    assert _quantiles(slow, 0.5, 0.99) == "≤ 0.1 ms, > 60 s" and _quantiles(nothing, 0.5) == "–"


def test_it_is_without_outside_help(cy, run):
    """No address but its own, and no file beside it."""

    async def main():
        _, _, body = await answer(page_of(Fixed(worker())))
        assert not re.search(rb"https?://|src=|<link|<script|@import|url\(", body)

    run(main())
