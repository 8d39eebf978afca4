"""Delays between attempts: longer each time, bounded, and never the same for everybody."""

from __future__ import annotations

from cyasgi.sources.backoff import Backoff


def test_delays_double_up_to_a_bound():
    """Each is between a half and all of its bound; after a success they begin anew."""
    backoff = Backoff(0.1, 5.0)
    for bound in (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0):
        assert bound / 2 <= backoff.failed() <= bound
    assert backoff.failures == 8
    backoff.succeeded()
    assert backoff.failed() <= 0.1


def test_delays_after_very_many_failures():
    backoff = Backoff()
    backoff.failures = 10_000
    assert 7.5 <= backoff.failed() <= 15


def test_delays_differ():
    assert len({Backoff().failed() for _ in range(20)}) > 1
