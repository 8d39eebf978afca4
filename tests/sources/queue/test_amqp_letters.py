"""Letters as messages of AMQP: headers of every kind, and dead letters that have too many of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given, strategies

from cyasgi.wire.queue import Letter
from support.property_model import effort

pytest.importorskip("aiormq")

from cyasgi.sources.queue.amqp_letters import header_size, properties_of
from cyasgi.sources.queue.dead_letters import shortened

NAMES = strategies.text(min_size=1, max_size=60).filter(lambda text: text.isprintable())
VALUES = strategies.recursive(
    strategies.none()
    | strategies.booleans()
    | strategies.integers(-(2**63), 2**63 - 1)
    | strategies.floats(allow_nan=False)
    | NAMES
    | strategies.binary().map(bytearray)
    | strategies.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1), timezones=strategies.just(UTC)).map(
        lambda time: time.replace(microsecond=0)
    )
    | strategies.decimals(-(2**31), 2**31 - 1, places=0),
    lambda inner: strategies.lists(inner, max_size=4) | strategies.dictionaries(NAMES, inner, max_size=4),
    max_leaves=20,
)


def read(letter):
    """The letter's properties as the library reads them."""
    from aiormq import spec
    from pamqp.header import ContentHeader

    header = ContentHeader(body_size=0, properties=properties_of(letter))
    found = ContentHeader(properties=spec.Basic.Properties())
    found.unmarshal(header.marshal())
    return found.properties


@pytest.mark.slow
@effort(100)
@given(strategies.dictionaries(NAMES, VALUES, min_size=1, max_size=6))
def test_any_headers(headers):
    """The library reads what we write."""
    assert read(Letter(b"", headers)).headers == headers


@pytest.mark.parametrize(
    ("value", "there"),
    [
        (Decimal("1.50"), Decimal("1.50")),
        (Decimal("-1.50"), Decimal("-1.50")),
        (Decimal("21474836.48"), "21474836.48"),
        (Decimal("NaN"), "NaN"),
        (2**70, str(2**70)),
        (object, str(object)),
        ("\ud800", "\\ud800"),
        ((1, 2), [1, 2]),
        (b"x", bytearray(b"x")),
    ],
)
def test_what_amqp_does_not_have(value, there):
    """It is there in words."""
    assert read(Letter(b"", {"a": value})).headers == {"a": there}


def test_a_long_name():
    assert read(Letter(b"", {"x" * 300: 1})).headers == {"x" * 255: 1}


def test_nested_by_the_hundred():
    deep = {}
    for _ in range(900):
        deep = {"a": deep}
    found, depth = read(Letter(b"", deep)).headers, 0
    while isinstance(found, dict):
        found, depth = found["a"], depth + 1
    assert (found, depth) == ("...", 101)


OWN = {"x-failure": "f" * 1000, "x-queue": "orders", "x-scope-id": "a", "x-deliveries": 5}


def test_a_dead_letter_that_fits():
    letter = Letter(b"body", {"small": 1, **OWN}, correlation_id="c")
    assert shortened(letter, header_size(letter), header_size) is letter


@pytest.mark.parametrize("most", [4096, 60_000, 130_000])
def test_a_dead_letter_with_too_many_headers(most):
    """The largest ones are left out, and named."""
    headers = {f"h{number}": "x" * number * 1000 for number in range(50)}
    letter = Letter(b"body", {**headers, **OWN}, correlation_id="c")
    found = shortened(letter, most, header_size)
    assert header_size(found) <= most
    assert found.headers.items() >= OWN.items()
    dropped = [f"h{number}" for number in range(49, -1, -1) if f"h{number}" not in found.headers]
    assert found.headers["x-dropped"].startswith(" ".join(dropped)[:190])
    assert dropped == [f"h{number}" for number in range(49, 49 - len(dropped), -1)]
    assert replace(found, headers={}) == replace(letter, headers={})


def test_a_dead_letter_with_many_small_headers():
    """The list of those that were left out is bounded, too."""
    letter = Letter(b"body", {**{f"{number:0250}": number for number in range(300)}, **OWN})
    found = shortened(letter, 4096, header_size)
    assert header_size(found) <= 4096
    assert len(found.headers["x-dropped"]) == 200


def test_a_dead_letter_with_a_long_failure():
    letter = Letter(b"body", {**OWN, "x-failure": "é" * 2000})
    assert shortened(letter, 1024, header_size).headers == {**OWN, "x-failure": "é" * 200}
