"""When a worker wants to be replaced."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from cyasgi.workers.recycling import AGAIN, Limits, resident_bytes
from cyasgi.workers.settings import Recycling, Supervision


@pytest.fixture
def clock(monkeypatch):
    """The time, in a list."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def server(**stats):
    return SimpleNamespace(stats=lambda: stats)


def test_counted(clock):
    """Requests, WebSockets and datagrams of all servers count one each, from the moment the worker serves."""
    limits = Limits(Recycling(max_requests=10), [server(requests=5, websockets=2), server(datagrams_received=3)])
    assert limits.reached() is None
    limits.begin()
    assert limits.reached() == "it has taken 10 requests"
    assert Limits(Recycling(max_requests=11), [server(requests=10, created=100)]).reached() is None


def test_told_again(clock):
    """Who was not replaced says so again, a while later."""
    limits = Limits(Recycling(lifetime=50), [])
    limits.begin()
    clock[0] += 49
    assert limits.reached() is None
    clock[0] += 1
    assert limits.reached() == "it has served for 50 s"
    assert limits.reached() is None
    clock[0] += AGAIN
    assert limits.reached() == "it has served for 60 s"


def test_memory():
    limits = Limits(Recycling(max_rss=1), [])
    limits.begin()
    assert limits.reached() == f"it occupies {resident_bytes()} bytes" or resident_bytes() > 1
    assert 1_000_000 < resident_bytes() < 1 << 40


def test_jitter():
    """Each worker gets a share of its own; without a limit there is none."""
    drawn = [
        Recycling(max_requests=100, max_requests_jitter=50, lifetime=10, lifetime_jitter=5).drawn() for _ in range(200)
    ]
    assert {one.max_requests for one in drawn} <= set(range(100, 151))
    assert len({one.max_requests for one in drawn}) > 10
    assert all(10 <= one.lifetime <= 15 for one in drawn)
    assert not Recycling(max_requests_jitter=5, lifetime_jitter=5).drawn().wanted


def test_heartbeats():
    """There are several within the time after which a worker is killed."""
    assert Supervision().beat == Supervision(timeout=None).beat == 1.0
    assert Supervision(timeout=1.0).beat == 0.25
