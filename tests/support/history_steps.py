"""What may happen in the history of a server, and how often."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from support.property_model import IDS, weighted

#: Seconds. Whoever was last used in the epoch's first hour has been idle for longer.
IDLE_TIMEOUT = 3600.0
LIMITS = st.sampled_from([1, 2, 3, 4, None])
#: The n-th of those there are, counted round and round.
WHICH = st.integers(0, 7)
#: What the message tells an application to do.
DEEDS = st.sampled_from(
    [
        *("answer", "answer", "answer", "wait", "wait", "wait", "finish", "fail", "end cancelled"),
        *("create", "create", "delete", "linger when cancelled", "fail when cancelled"),
    ]
)
PLAIN_DICTS = st.sampled_from(["live", "finished", "failed", "cancelled", "empty", "no future"])


def step(name: str, *parameters: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.tuples(st.just(name), *parameters)


#: The methods of `Histories` that make something happen, each as often as its number says. As rules of their own they
#: would be equally frequent, and half of them left out of each history.
STEPS = weighted(
    (10, step("send", IDS, DEEDS, IDS)),
    (2, step("create", IDS)),
    (8, step("turn", st.integers(1, 3))),
    (3, step("send_to_kept", WHICH, DEEDS, IDS)),
    (2, step("put_to_kept", WHICH)),
    (2, step("release", WHICH)),
    (1, step("cancel_task", WHICH)),
    (2, step("delete_one", IDS, st.booleans())),
    (1, step("delete_and_send", IDS, DEEDS, IDS)),
    (2, step("del_from_table", WHICH)),
    (1, step("write_plain_dict", IDS, PLAIN_DICTS)),
    (2, step("assign_last_used", WHICH, st.integers(1, 3000))),
    (1, step("grow_old", WHICH, st.integers(1, 3000))),
    (1, step("set", st.just("max_applications"), LIMITS)),
    (2, step("set", st.just("idle_timeout"), st.sampled_from([None, IDLE_TIMEOUT, IDLE_TIMEOUT]))),
    (1, step("start_or_stop_checker")),
    (2, step("sweep")),
)
