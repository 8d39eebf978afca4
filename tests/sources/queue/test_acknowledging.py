"""Acknowledgements in batches: never for a message that is still in hand, and each within a moment."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, strategies

from cyasgi.sources.queue.acknowledging import Acknowledgements
from support.property_model import effort
from support.serving import in_time


def acknowledged_by(sent, delivered):
    """The tags that these acknowledgements stand for, each of which must be one that was not acknowledged before."""
    found = []
    for tag, multiple in sent:
        here = [one for one in delivered if one <= tag and one not in found] if multiple else [tag]
        assert set(here).isdisjoint(found)
        found += here
    return found


def test_one_for_many():
    sent = []
    collected = Acknowledgements(lambda *one: sent.append(one), batch=3)

    async def main():
        for tag in range(1, 8):
            collected.delivered(tag)
        for tag in (1, 2, 3, 5, 4, 7):
            collected.settle(tag)
        collected.flush()

    asyncio.run(main())
    assert sent == [(3, True), (5, True), (7, False)]


def test_within_a_moment():
    sent = []

    async def main():
        collected = Acknowledgements(lambda *one: sent.append(one))
        collected.delivered(1)
        collected.settle(1)
        assert sent == []
        await in_time(lambda: sent)

    asyncio.run(main())
    assert sent == [(1, False)]


def test_what_is_given_back_is_passed_over():
    sent = []

    async def main():
        collected = Acknowledgements(lambda *one: sent.append(one))
        for tag in (1, 2, 3):
            collected.delivered(tag)
        collected.forget(2)
        collected.settle(1)
        collected.flush()
        collected.settle(3)
        collected.flush()

    asyncio.run(main())
    assert sent == [(1, False), (3, False)]


@pytest.mark.parametrize("ending", ["settle", "forget"])
def test_one_that_stays_in_hand(ending):
    """It keeps nothing of those behind it, of which the broker was told."""
    sent = []

    async def main():
        collected = Acknowledgements(lambda *one: sent.append(one), batch=5)
        collected.delivered(1)
        for tag in range(2, 502):
            collected.delivered(tag)
            getattr(collected, ending)(tag)
            assert len(collected) <= 6
        collected.flush()
        assert len(collected) == 1
        sent.clear()
        collected.delivered(502)
        collected.settle(1)
        collected.settle(502)
        collected.flush()
        assert (sent, len(collected)) == ([(502, True)], 0)

    asyncio.run(main())


@pytest.mark.slow
@effort(50)
@given(strategies.permutations(range(1, 13)), strategies.integers(1, 6), strategies.sets(strategies.integers(0, 11)))
def test_any_order(order, batch, flushes):
    """However they are settled, what is acknowledged is settled, and at the end that is all."""
    sent = []

    async def main():
        collected = Acknowledgements(lambda *one: sent.append(one), batch)
        for tag in range(1, 13):
            collected.delivered(tag)
        for count, tag in enumerate(order):
            collected.settle(tag)
            if count in flushes:
                collected.flush()
            assert set(acknowledged_by(sent, range(1, 13))) <= set(order[: count + 1])
        collected.flush()

    asyncio.run(main())
    assert sorted(acknowledged_by(sent, range(1, 13))) == list(range(1, 13))
