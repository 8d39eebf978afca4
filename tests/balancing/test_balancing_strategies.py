"""Strategies: who takes a scope."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings, strategies as st

from cyasgi.balancing import (
    Backend,
    Breaker,
    ConsistentHash,
    LeastRunning,
    RoundRobin,
    Weighted,
    by_client,
    by_header,
    by_path,
)
from cyasgi.balancing.strategy import by_client_or_path, encode_key


async def application(scope, receive, send):
    """An application that is never run here."""


def backends(*weights, **named):
    """Backends with these weights; named a, b, c ... or as given."""
    named = dict(zip("abcdefghijklmnopqrstuvwxyz", weights, strict=False)) or named
    return [Backend(index, name, application, weight, Breaker()) for index, (name, weight) in enumerate(named.items())]


def chosen(strategy, available, count, scope=None):
    """The names that the strategy chooses, one after another."""
    return "".join(strategy.choose(available, scope).name for _ in range(count))


@pytest.mark.slow
def test_round_robin():
    """Each in turn; those that are not there are passed over without a turn being lost."""
    strategy = RoundRobin()
    a, b, c = backends(1, 1, 1)
    assert chosen(strategy, [a, b, c], 4) == "abca"
    assert chosen(strategy, [a, c], 3) == "cac"
    assert chosen(strategy, [a, b, c], 3) == "abc"
    assert chosen(strategy, [b], 2) == "bb"


def test_least_running():
    """The fewest running; equals in turn; in proportion to the weight."""
    strategy = LeastRunning()
    a, b, c = backends(1, 1, 1)
    assert chosen(strategy, [a, b, c], 4) == "abca"
    a.running, b.running, c.running = 3, 1, 2
    assert chosen(strategy, [a, b, c], 2) == "bb"
    assert chosen(strategy, [a, c], 1) == "c"
    light, heavy = backends(1, 3)
    assert chosen(LeastRunning(), [light, heavy], 1) == "b"
    strategy, order = LeastRunning(), ""
    for _ in range(8):
        backend = strategy.choose([light, heavy], None)
        backend.running += 1
        order += backend.name
    assert Counter(order) == {"a": 2, "b": 6}


def test_weighted_is_smooth():
    """nginx's example: the heavy one's turns are spread."""
    assert chosen(Weighted(), backends(5, 1, 1), 14) == "aabacaa" * 2
    assert chosen(Weighted(), backends(1, 1, 1), 6) == "abcabc"
    assert chosen(Weighted(), backends(0.5, 0.25, 0.25), 4) == "abca"


@pytest.mark.slow
@given(weights=st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_weighted_is_exact(weights):
    """In each round of as many choices as the weights add up to, each is chosen as often as it weighs."""
    available, strategy = backends(*weights), Weighted()
    for _ in range(3):
        counts = Counter(chosen(strategy, available, sum(weights)))
        assert [counts[backend.name] for backend in available] == weights


def owners(available, keys):
    """Who takes each key."""
    strategy = ConsistentHash(lambda scope: scope)
    return {key: strategy.choose(available, key).name for key in keys}


KEYS = [f"192.0.2.{number}" for number in range(2000)]


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(count=st.integers(2, 8), gone=st.integers(0, 7), salt=st.text(max_size=5))
def test_only_the_scopes_of_who_leaves_move(count, gone, salt):
    """When an application leaves, no key of another one moves; when it joins, keys move to it alone: its share."""
    gone %= count
    keys = [salt + key for key in KEYS[:500]]
    everybody = backends(*[1] * count)
    before = owners(everybody, keys)
    after = owners([backend for backend in everybody if backend.index != gone], keys)
    moved = {key for key in keys if before[key] != after[key]}
    assert moved == {key for key in keys if before[key] == everybody[gone].name}
    # Its share, give or take five standard deviations.
    share, deviation = len(keys) / count, (len(keys) * (1 / count) * (1 - 1 / count)) ** 0.5
    assert abs(len(moved) - share) < 5 * deviation
    # What moved is spread over all the others.
    if count <= 4:
        assert {after[key] for key in moved} == {backend.name for backend in everybody} - {everybody[gone].name}


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(weights=st.lists(st.sampled_from([0.5, 1, 2, 3, 5]), min_size=2, max_size=5), raised=st.integers(0, 4))
def test_consistent_hashing_respects_weights(weights, raised):
    """Each takes a share of the keys in proportion to its weight; a changed weight moves keys to or from it alone."""
    before = owners(backends(*weights), KEYS)
    counts = Counter(before.values())
    for backend in backends(*weights):
        share = backend.weight / sum(weights)
        deviation = (len(KEYS) * share * (1 - share)) ** 0.5
        assert abs(counts[backend.name] - share * len(KEYS)) < 5 * deviation
    raised %= len(weights)
    heavier = [weight * 2 if index == raised else weight for index, weight in enumerate(weights)]
    after = owners(backends(*heavier), KEYS)
    name = "abcde"[raised]
    assert all(after[key] == name for key in KEYS if before[key] != after[key])


def test_hashes_are_the_same_everywhere():
    """Names and keys decide alone: neither the process nor the order of the applications, nor others beside them."""
    keys = ["192.0.2.1", b"x", 7, ("user", 7), "", "ä\udcff", *KEYS[:20]]
    first = owners(backends(blue=1, green=1, red=1), keys)
    assert owners(backends(red=1, blue=1, green=1), keys) == first
    # Written down: another answer would send everybody's clients elsewhere on the day of an update.
    assert [first[key] for key in KEYS[:8]] == ["blue", "blue", "green", "green", "blue", "red", "blue", "red"]


@pytest.mark.parametrize("key", [None, 1.5, ["a"], ("a", None), {}, True, object()])
def test_keys_that_are_none(key):
    """What may print differently in another process is no key; None is the lack of one, and takes turns."""
    strategy = ConsistentHash(lambda scope: key)
    if key is None:
        assert chosen(strategy, backends(1, 1, 1), 4) == "abca"
    else:
        with pytest.raises(TypeError, match="accepted is a str, bytes, int, a tuple of these, or None"):
            strategy.choose(backends(1, 1), None)


@pytest.mark.slow
@given(st.lists(st.one_of(st.text(), st.binary(), st.integers(), st.tuples(st.text(), st.integers())), unique=True))
def test_different_keys_are_different_bytes(keys):
    """No two keys are hashed as one."""
    assert len({encode_key(key) for key in keys}) == len(keys)


@pytest.mark.parametrize(
    ("key", "scope", "gives"),
    [
        (by_client, {"client": ("192.0.2.1", 5)}, "192.0.2.1"),
        (by_client, {"client": ["::1", 5]}, "::1"),
        (by_client, {"client": None}, None),
        (by_client, {"client": ("", 0)}, None),
        (by_client, {}, None),
        (by_client, "no mapping", None),
        (by_path, {"path": "/a"}, "/a"),
        (by_path, {}, None),
        (by_path, None, None),
        (by_client_or_path, {"client": ("192.0.2.1", 5), "path": "/a"}, "192.0.2.1"),
        (by_client_or_path, {"client": None, "path": "/a"}, "/a"),
        (by_client_or_path, {"type": "custom"}, None),
        (by_header("X-Session"), {"headers": [(b"host", b"x"), (b"x-session", b"7"), (b"x-session", b"8")]}, b"7"),
        (by_header("x-session"), {"headers": []}, None),
        (by_header("x-session"), {}, None),
        (by_header("x-session"), None, None),
    ],
)
def test_keys(key, scope, gives):
    """The key functions take any scope."""
    assert key(scope) == gives


@pytest.mark.parametrize(
    ("name", "error"), [(b"x", TypeError), (None, TypeError), ("", ValueError), ("a:", ValueError)]
)
def test_bad_header_names(name, error):
    """What cannot be the name of a header is refused."""
    with pytest.raises(error, match="accepted is the name of a header"):
        by_header(name)


def test_bad_key_function():
    """What cannot be called is no key function."""
    with pytest.raises(TypeError, match="key='client': accepted is a function"):
        ConsistentHash("client")
