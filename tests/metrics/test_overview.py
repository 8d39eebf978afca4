"""What a process tells of itself: bounded, harmless, and checked by whoever reads it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st

from cyasgi.metrics.overview import (
    LINE,
    MOST_COUNTERS,
    MOST_FAILURES,
    MOST_SCOPES,
    MOST_SERVERS,
    MOST_TYPES,
    NAME,
    TRACEBACK,
    BusyScope,
    Failure,
    Overview,
    ServerOverview,
)
from cyasgi.metrics.text import bounded
from cyasgi.workers.channel import MAX_MESSAGE


def test_text():
    assert bounded("as it is\n\tä", 20) == "as it is\n\tä"
    assert bounded("x" * 10, 10) == "x" * 10
    assert bounded("x" * 11, 10) == "x" * 9 + "…"
    assert bounded("abc" * 10, 5, keep_end=True) == "…cabc"
    assert bounded("\0\x1b[31m\udc80\x85", 50) == r"\x00\x1b[31m\udc80\x85"


@given(st.text(st.characters()), st.integers(1, 20), st.booleans())
def test_any_text_is_short_and_can_be_shown(text, most, keep_end):
    found = bounded(text, most, keep_end=keep_end)
    assert len(found) <= most
    assert all(one.isprintable() or one in "\n\t" for one in found)
    found.encode()
    assert bounded(found, most, keep_end=keep_end) == found


def full(character="\N{GRINNING FACE}"):
    """The largest overview that there can be."""
    line = character * LINE
    server = ServerOverview(
        stats={f"{number:03}{character * (NAME - 3)}": 2**63 for number in range(MOST_COUNTERS)},
        waiting=2**63,
        queued=2**63,
        busiest=(BusyScope(line, 2**63),) * MOST_SCOPES,
    )
    return Overview(
        servers={f"{number:02}{character * (NAME - 2)}": server for number in range(MOST_SERVERS)},
        lag=1e9 / 3,
        failure_types={f"{number:02}{character * (LINE - 2)}": 2**63 for number in range(MOST_TYPES + 1)},
        failures=(Failure(1e9 / 3, character * NAME, line, line, character * TRACEBACK),) * MOST_FAILURES,
    )


@pytest.mark.parametrize("overview", [Overview(), Overview(failures=None), full("ä")], ids=["empty", "none", "full"])
def test_by_way_of_json(overview):
    assert Overview.from_json(json.loads(json.dumps(overview.to_json()))) == overview


def test_the_largest_one_of_two_servers_is_a_message():
    """More servers than HTTP, WebSockets and UDP no worker has."""
    largest = full()
    few = Overview(dict(list(largest.servers.items())[:3]), 0.1, largest.failure_types, largest.failures)
    assert len(json.dumps({"kind": "beat", "overview": few.to_json()})) < MAX_MESSAGE


def changed(**changes):
    return {**Overview().to_json(), **changes}


def of_server(**changes):
    return changed(servers={"http": {"stats": {}, "waiting": 0, "queued": 0, "busiest": [], **changes}})


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "overview",
        {},
        changed(lag=-1),
        changed(lag=float("nan")),
        changed(lag=float("inf")),
        changed(lag="1"),
        changed(lag=10**400),
        changed(lag=None),
        changed(servers=None),
        changed(servers={"http": None}),
        changed(servers={str(number): {} for number in range(MOST_SERVERS + 1)}),
        changed(failure_types={"x": -1}),
        changed(failure_types={"x": 1.5}),
        changed(failure_types={"x": 2**64}),
        changed(failure_types={str(number): 1 for number in range(MOST_TYPES + 2)}),
        changed(failures=5),
        changed(failures=[[]]),
        changed(failures=[[1, "http", "scope", "error"]]),
        changed(failures=[[1, "http", "scope", "error", 5]]),
        changed(failures=[[1, "http", "scope", "error", "text"]] * (MOST_FAILURES + 1)),
        changed(failures=[[1, "http", "scope", "error", "text", "more"]]),
        of_server(stats={"live": None}),
        of_server(stats={str(number): 1 for number in range(MOST_COUNTERS + 1)}),
        of_server(busiest=[["scope", "many"]]),
        of_server(busiest=[["scope", 1]] * (MOST_SCOPES + 1)),
        of_server(waiting=-1),
        of_server(queued=[]),
    ],
)
def test_what_is_none(value):
    with pytest.raises(ValueError, match="overview"):
        Overview.from_json(value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["servers", "stats", "busiest", "failures", "lag", "x"]), inner, max_size=5)
    ),
)


@given(JSON)
def test_any_json(value):
    """It is read, or refused with a ValueError."""
    try:
        found = Overview.from_json(value)
    except ValueError:
        return
    assert Overview.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_texts_from_elsewhere_are_cut():
    found = Overview.from_json(changed(failures=[[1, "n" * 999, "s" * 999, "\0", "a" * TRACEBACK * 2]]))
    [failure] = found.failures
    assert len(failure.server) == NAME and len(failure.scope) == LINE and len(failure.traceback) == TRACEBACK
    assert failure.error == r"\x00"
