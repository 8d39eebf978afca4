"""ManagedServer: what one key may do, and what it costs to know that."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from hypothesis import given, strategies as st

from cyasgi.lifecycle.limits import Key, Keys, network_of
from support.loops import passes
from support.managed_servers import lifecycle, managed
from support.serving import Stubborn, checking, eventually, one_shot, reader


def make(server: Any, scope_id: Any, host: str | None = "192.0.2.1") -> Any:
    scope = {"type": "test", "client": None if host is None else (host, 1)}
    return server.get_or_create_application_instance(scope_id, scope)


def allowed(cy: Any, server: Any, count: int, scope_id: Any = "id", host: str | None = "192.0.2.1") -> int:
    """How many of so many messages are taken."""
    taken = 0
    for _ in range(count):
        try:
            make(server, scope_id, host)
            taken += 1
        except lifecycle(cy).LimitExceeded:
            pass
    return taken


# Keys


@pytest.mark.slow
@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("not:an:address", "not:an:address"),
        ("testclient", "testclient"),
        ("", ""),
    ],
)
def test_what_one_client_has(host, network):
    """An IPv4 address, or a /64 network."""
    assert network_of(host) == network


def test_the_usual_key(cy):
    """The client's host; none where there is no client."""
    server = lifecycle(cy).ManagedServer(reader)
    assert server.limit_key({"client": ("192.0.2.1", 5)}) == "192.0.2.1"
    assert server.limit_key({"client": None}) is None
    assert server.limit_key({}) is None


# Instances


def test_instances_of_a_key(cy, run):
    """Beyond the limit a new one is refused, and nobody is evicted for it; live ones and other keys go on."""

    async def main():
        server = managed(cy, max_instances_per_key=2)(reader, 3)
        a, b = make(server, "a"), make(server, "b")
        with pytest.raises(lifecycle(cy).LimitExceeded, match=r"'192.0.2.1' has 2 instances; 2 are allowed") as caught:
            make(server, "c")
        error = caught.value
        assert (error.key, error.limit, error.retry_after) == ("192.0.2.1", "instances", None)
        assert make(server, "a") is a and make(server, "b") is b
        make(server, "d", "192.0.2.2")
        make(server, "e", None)
        assert list(server.application_instances) == ["b", "d", "e"]
        # One of the first key was evicted: now there is room for another.
        make(server, "c")
        stats = server.stats()
        assert (stats["limited_instances"], stats["limited_messages"], stats["limit_keys"]) == (1, 0, 2)
        assert server.limited == [(("192.0.2.1", 1), "instances")]

    run(main())


@pytest.mark.parametrize("end", ["return", "delete", "remove", "again"])
def test_who_ends_makes_room(cy, run, end):
    """At once: when its run has ended, whether or not it was removed yet, or when it was deleted."""

    async def main():
        server = managed(cy, max_instances_per_key=1)(one_shot)
        instance = make(server, "a")
        if end == "return":
            instance.put_nowait("message")
            await passes(3)
            assert "a" in server.application_instances
        elif end == "delete":
            server.delete_application_instance("a")
        elif end == "remove":
            del server.application_instances["a"]
            assert allowed(cy, server, 1, "b") == 0
            instance["future"].cancel()
            await passes(3)
        else:
            instance.put_nowait("message")
            await passes(3)
            make(server, "a")
            server.delete_application_instance("a")
        make(server, "b")
        assert allowed(cy, server, 1, "c") == 0

    run(main())


def test_one_that_resists_its_cancellation_counts_no_more(cy, run):
    """It has left the table."""

    async def main():
        with Stubborn() as stubborn:
            server = managed(cy, max_instances_per_key=1)(stubborn)
            make(server, "a")
            await passes(3)
            server.delete_application_instance("a")
            make(server, "b")
        server.delete_application_instance("b")
        await eventually(lambda: not server.stats()["closing"])
        await passes(5)
        assert server.stats()["limit_keys"] == 0

    run(main())


def test_a_creation_that_fails_gives_its_place_back(cy, run):
    """A place that was held for an instance that could not be made."""

    async def main():
        server = managed(cy, max_instances_per_key=1)(reader)
        for scope_id in ([], {}):
            with pytest.raises(TypeError):
                make(server, scope_id)
        assert server.stats()["limit_keys"] == 0
        make(server, "a")

    run(main())


def test_the_limit_may_be_changed(cy, run):
    """Lowered, it deletes nobody; instances made without a limit do not count."""

    async def main():
        server = managed(cy)(reader)
        make(server, "uncounted")
        server.max_instances_per_key = 3
        assert allowed(cy, server, 3, "a") == 3
        for scope_id in "bc":
            make(server, scope_id)
        server.max_instances_per_key = 1
        assert len(server.application_instances) == 4 and allowed(cy, server, 1, "d") == 0
        for scope_id in "abc":
            server.delete_application_instance(scope_id)
        make(server, "d")

    run(main())


def test_limits_together_with_an_override_that_creates(cy, run):
    """What an override makes while it makes room counts before the one that room is made for."""

    async def main():
        def delete(self, scope_id):
            result = super(cls, self).delete_application_instance(scope_id)
            if scope_id == "old":
                assert allowed(cy, self, 1, "from within") == 0
            return result

        cls = managed(cy, max_instances_per_key=1, delete_application_instance=delete)
        server = cls(reader, 1)
        make(server, "old", "192.0.2.9")
        make(server, "new")
        assert list(server.application_instances) == ["new"]

    run(main())


def test_an_override_that_makes_the_same_one(cy, run):
    """It counts once, and is told of once."""

    async def main():
        def delete(self, scope_id):
            result = super(cls, self).delete_application_instance(scope_id)
            if scope_id == "old":
                make(self, "new")
            return result

        cls = managed(cy, max_instances_per_key=2, delete_application_instance=delete)
        server = cls(reader, 2)
        for scope_id in ("old", "older"):
            make(server, scope_id, "192.0.2.9")
        await passes(3)
        make(server, "older", "192.0.2.9")
        assert make(server, "new") is server.application_instances["new"]
        assert list(server.application_instances) == ["new"]
        await passes(5)
        assert [heard for heard in server.heard if "new" in heard] == [("created", "new")]
        assert allowed(cy, server, 1, "second") == 1
        assert allowed(cy, server, 1, "third") == 0

    run(main())


# Messages


def test_a_burst_and_the_rate_after_it(cy, run):
    """As many at once as the burst allows, then as many a second as the rate, for each key on its own."""

    async def main():
        server = managed(cy, max_messages_per_second=2, message_burst=5)(reader)
        assert allowed(cy, server, 20) == 5
        assert allowed(cy, server, 20, "other", "192.0.2.2") == 5
        assert allowed(cy, server, 20, "third", None) == 20
        server.now += 0.4
        assert allowed(cy, server, 20) == 0
        server.now += 0.1
        assert allowed(cy, server, 20) == 1
        server.now += 1
        assert allowed(cy, server, 20) == 2
        server.now += 1000
        assert allowed(cy, server, 20) == 5
        # Two ids of one key share what it has.
        server.now += 1.5
        assert [allowed(cy, server, 2, scope_id) for scope_id in ("id", "id 2")] == [2, 1]
        assert server.stats()["limited_messages"] == len(server.limited) == 15 + 15 + 20 + 19 + 18 + 15 + 1

    run(main())


@pytest.mark.parametrize(("rate", "burst", "first"), [(0.5, None, 1), (10, None, 10), (3, 1, 1), (2.5, None, 2)])
def test_the_usual_burst(cy, run, rate, burst, first):
    """The messages of one second, and at least one."""

    async def main():
        server = managed(cy, max_messages_per_second=rate, message_burst=burst)(reader)
        assert allowed(cy, server, 20) == first

    run(main())


def test_what_a_refusal_says(cy, run):
    """Whose limit it is, and when to come back; it makes no instance."""

    async def main():
        server = managed(cy, max_messages_per_second=0.5)(reader)
        make(server, "a")
        server.now += 0.5
        with pytest.raises(lifecycle(cy).LimitExceeded, match=r"'192.0.2.1' sends more than 0.5 messages") as caught:
            make(server, "b")
        assert (caught.value.key, caught.value.limit) == ("192.0.2.1", "messages")
        assert caught.value.retry_after == pytest.approx(1.5)
        assert list(server.application_instances) == ["a"]
        server.now += caught.value.retry_after
        make(server, "b")

    run(main())


def test_an_evicted_client_has_not_forgotten_its_messages(cy, run):
    """A client without instances is remembered until it may send as much as any other."""

    async def main():
        server = managed(cy, max_messages_per_second=1, message_burst=3)(reader)
        assert allowed(cy, server, 5) == 3
        server.delete_application_instance("id")
        assert allowed(cy, server, 5) == 0
        server.now += 3
        make(server, "other", "192.0.2.2")
        server.delete_application_instance("other")
        # Nothing is known of it that is not true of everybody.
        assert server.stats()["limit_keys"] == 1
        assert allowed(cy, server, 5) == 3

    run(main())


@pytest.mark.slow
@pytest.mark.parametrize("refused", [False, True])
def test_a_flood_of_keys_is_bounded(cy, run, refused):
    """However many keys come, a bounded number is remembered besides those that have instances."""

    async def main():
        limits = {"max_instances_per_key": 1, "max_messages_per_second": 0.001, "max_limit_keys": 50}
        server = managed(cy, **limits)(reader, 20)
        for number in range(2000):
            make(server, number, f"host {number}")
            if refused:
                assert allowed(cy, server, 1, "more", f"host {number}") == 0
        await passes(3)
        assert server.stats()["limit_keys"] == 70
        assert len(server.application_instances) == 20
        # Who has an instance is not forgotten.
        assert allowed(cy, server, 1, "more", "host 1990") == 0
        for scope_id in list(server.application_instances):
            server.delete_application_instance(scope_id)
        await eventually(lambda: len(server.heard) == 4000)

    run(main())


# Hooks


@pytest.mark.parametrize("what", ["raises", "async def"])
def test_on_limited_fails(cy, run, caplog, what):
    """The caller is told of the limit all the same; the log of the failure, once."""

    async def main():
        def raises(self, scope, error):
            raise ValueError("on purpose")

        async def coroutine(self, scope, error):
            pass

        server = managed(cy, max_instances_per_key=1, on_limited=raises if what == "raises" else coroutine)(reader)
        make(server, "a")
        assert allowed(cy, server, 50, "b") == 0
        assert server.stats()["limited_instances"] == 50

    with caplog.at_level(logging.ERROR):
        run(main())
    assert [record.message.split(" raised ")[0] for record in caplog.records] == ["the hook on_limited"]
    caplog.clear()


def test_a_key_that_is_none(cy, run):
    """An unhashable key is an error that names it; what limit_key raises comes out as it is."""

    async def main():
        server = managed(cy, max_instances_per_key=1, limit_key=lambda self, scope: scope["key"])(reader)
        with pytest.raises(TypeError, match=r"limit_key gave \[1\]: accepted is a hashable"):
            server.get_or_create_application_instance("a", {"key": [1]})
        with pytest.raises(KeyError, match="key"):
            server.get_or_create_application_instance("a", {})
        assert len(server.application_instances) == 0

    run(main())


def test_no_key_is_asked_for_without_limits(cy, run):
    """Where no limit is set `limit_key` is not called."""

    async def main():
        server = managed(cy, limit_key=None)(reader)
        make(server, "a")
        async with checking(server):
            pass

    run(main())


# The bucket and the keys by themselves


@pytest.mark.slow
@given(
    rate=st.floats(0.1, 1000),
    burst=st.integers(1, 50),
    steps=st.lists(st.one_of(st.just(0.0), st.floats(0, 5)), max_size=100),
)
def test_never_more_than_rate_and_burst_allow(rate, burst, steps):
    """Whatever the times: no more than the burst and the rate times what has passed; and who waits as told gets one."""
    now = 1000.0
    key = Key("k", burst, now)
    taken: list[float] = []
    for step in steps:
        now += step
        wait = key.take(now, rate, burst)
        if wait:
            now += wait
            assert key.take(now, rate, burst) == 0
        taken.append(now)
        first = taken[0]
        assert len(taken) <= burst + rate * (now - first) + 0.01


@pytest.mark.slow
@given(st.lists(st.tuples(st.sampled_from(["hold", "release", "send"]), st.integers(0, 9)), max_size=60))
def test_keys_are_remembered_as_they_should_be(steps):
    """Those with instances always, of the others the last that were heard of."""
    keys = Keys()
    held: dict[int, list[Key]] = {number: [] for number in range(10)}
    silent: list[int] = []
    for now, (what, number) in enumerate(steps):
        key = keys.find(number, 5.0, now)
        if what == "hold":
            keys.hold(key)
            held[number].append(key)
            silent = [other for other in silent if other != number]
        elif what == "send" or held[number]:
            if what == "release":
                if keys.release(held[number].pop()):
                    key.tokens = 0.0
                    keys.remember(key, 1e-9, 5.0, 3)
            elif not held[number]:
                key.take(now, 1e-9, 5.0)
                keys.remember(key, 1e-9, 5.0, 3)
            if not held[number]:
                silent = ([other for other in silent if other != number] + [number])[-3:]
        assert len(keys) == len(silent) + sum(map(bool, held.values()))
        for other in range(10):
            found = keys.find(other, 5.0, now)
            assert found.instances == len(held[other])
            assert (found is keys.find(other, 5.0, now)) == bool(held[other] or other in silent)


def test_full_buckets_are_forgotten():
    """Whoever has been silent for long enough is like everybody else."""
    keys = Keys()
    for number in range(1000):
        key = keys.find(number, 2.0, number)
        assert key.take(number, 1.0, 2.0) == 0
        keys.remember(key, 1.0, 2.0, 10_000)
        assert len(keys) <= 2


def test_an_asynchronous_flood(cy, run):
    """Messages over the rate are refused without a task, a coroutine or a report."""

    async def main():
        server = managed(cy, max_messages_per_second=10)(reader)
        await asyncio.sleep(0)
        tasks = len(asyncio.all_tasks())
        assert allowed(cy, server, 1000, "a") == 10
        assert len(asyncio.all_tasks()) == tasks + 1 + 1
        await passes(5)
        assert server.heard == [("created", "a")]

    run(main())
