"""The same random program on the reference and on cyasgi: away from the reference's faults both must do the same."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from hypothesis import strategies as st

from support.loops import passes
from support.property_model import IDS, Boom, holds_for_all, programs, weighted

pytestmark = pytest.mark.slow

Step = tuple[Any, ...]
MESSAGES: st.SearchStrategy[Step] = weighted(
    (3, st.just(("echo",))),
    (2, st.tuples(st.just("work"), st.integers(1, 3))),
    (2, st.tuples(st.just("wait"), st.integers(0, 2))),
    (1, st.just(("sibling",))),
    (2, st.sampled_from([("finish",), ("fail",)])),
)
PROGRAMS = programs(
    weighted(
        (6, st.tuples(st.just("feed"), IDS, MESSAGES)),
        (2, st.tuples(st.just("feed kept"), IDS, MESSAGES)),
        (1, st.tuples(st.just("open"), IDS)),
        (3, st.tuples(st.just("delete"), IDS)),
        (4, st.tuples(st.just("turn"), st.integers(1, 4))),
        (2, st.tuples(st.just("release"), st.integers(0, 2))),
        (1, st.just(("settle",))),
    )
)


def without_faults(steps: list[Step]) -> list[Step]:
    """Leaves out what is known to go wrong in the reference, and what is different on purpose.

    Beyond that the programs stay below the limit, where the reference keeps one entry too many and may evict a working
    instance; their applications neither end cancelled nor fail while they clean up (the first stops the reference's
    checker, the second is never reported), their hook is an `async def` that neither waits nor raises (which would stop
    it too), and nothing is created outside a running loop (which loses it).
    """
    program: list[Step] = []
    live: set[str] = set()
    ending: set[str] = set()
    deleted: set[str] = set()
    for step in steps:
        what, scope_id = step[0], step[-1] if len(step) == 1 else step[1]
        if what == "settle":
            live -= ending
            ending.clear()
            deleted.clear()
        elif what == "turn":
            deleted.clear()
        elif what in ("feed", "open"):
            # The reference feeds a finished instance until its checker comes by, and loses what it is fed.
            # It starts a namesake at once while the deleted application still cleans up.
            if scope_id in ending | deleted:
                continue
            program.append(step)
            if what == "open" and scope_id not in live:
                # Never fed, it may take its first step one pass later than in the reference.
                program.append(("turn", 2))
                deleted.clear()
            live.add(scope_id)
            if what == "feed" and step[2][0] in ("finish", "fail"):
                ending.add(scope_id)
            continue
        elif what == "feed kept":
            if scope_id in ending:
                # As above: what is fed to an application after its last message is lost.
                continue
            if scope_id in live and step[2][0] in ("finish", "fail"):
                ending.add(scope_id)
        elif what == "delete":
            # The reference raises KeyError for an unknown id; whether a finished one is still known depends on a timer,
            # and so does whether its failure is reported.
            if scope_id not in live or scope_id in ending:
                continue
            live.discard(scope_id)
            deleted.add(scope_id)
        program.append(step)
    return [*program, ("settle",)]


async def carry_out(base: type, steps: list[Step]) -> dict[str, Any]:
    """Everything that the applications and the hooks of a server of this class saw of a program."""
    seen: dict[str, Any] = {"started": [], "answers": [], "exceptions": [], "lives": {}, "sent": {}}
    gates = [asyncio.Event() for _ in range(3)]
    loop = asyncio.get_running_loop()
    numbers = itertools.count()
    kept: dict[str, Any] = {}
    ending: set[str] = set()
    waiting: set[str] = set()

    def release(*numbers: int) -> None:
        for number in numbers:
            gates[number].set()
            gates[number].clear()

    class Server(base):  # type: ignore[misc, valid-type]
        # The reference then looks at its instances in every pass, so that no clock is needed.
        application_checker_interval = 0

        async def application_send(self, scope: Any, message: Any) -> None:
            seen["sent"].setdefault(scope["id"], []).append(message)

        async def application_exception(self, exception: BaseException, details: Any) -> None:
            seen["exceptions"].append((details["scope"]["id"], repr(exception)))

        def application_undelivered(self, messages: list[Any], details: Any) -> None:
            """The reference has no such hook: its messages are lost."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if not scope["opened"]:
            # The other may take its first step one pass later than in the reference, behind those fed meanwhile.
            seen["started"].append(scope["id"])
        life = seen["lives"].setdefault(scope["id"], [])
        life.append("starts")
        try:
            while True:
                message = await receive()
                life.append(message["number"])
                match message["do"]:
                    case ("work", count):
                        await passes(count)
                    case ("wait", gate):
                        waiting.add(scope["id"])
                        try:
                            await gates[gate].wait()
                        finally:
                            waiting.discard(scope["id"])
                    case ("sibling",):
                        sibling = f"{scope['id']}/{message['number']}"
                        queue = server.get_or_create_application_instance(
                            sibling, {"type": "test", "id": sibling, "opened": False}
                        )
                        queue.put_nowait({"type": "test.message", "number": next(numbers), "do": ("echo",)})
                    case ("finish",):
                        life.append("finishes")
                        return
                    case ("fail",):
                        raise Boom(message["number"])
                await send({"type": "test.answer", "number": message["number"]})
        except asyncio.CancelledError:
            life.append("is cancelled")
            raise

    server = Server(application, max_applications=1000)
    checker = loop.create_task(server.application_checker())
    for step in steps:
        what, parameters = step[0], step[1:]
        if what == "turn":
            await passes(*parameters)
        elif what == "release":
            release(*parameters)
        elif what == "settle":
            await passes(10)
            for _ in steps:
                if waiting:
                    release(0, 1, 2)
                    await passes(10)
            ending.clear()
        elif what == "delete":
            server.delete_application_instance(*parameters)
        else:
            scope_id = parameters[0]
            if what == "feed kept":
                queue = kept.get(scope_id)
                if queue is None:
                    continue
            else:
                scope = {"type": "test", "id": scope_id, "opened": what == "open"}
                queue = server.get_or_create_application_instance(scope_id, scope)
                seen["answers"].append(queue is kept.get(scope_id))
                kept[scope_id] = queue
            if what != "open":
                queue.put_nowait({"type": "test.message", "number": next(numbers), "do": parameters[1]})
                if parameters[1][0] in ("finish", "fail"):
                    ending.add(scope_id)
                if scope_id in server.application_instances:
                    # In the queue of a deleted one messages stay for ever; cyasgi hands them to a hook.
                    seen["answers"].append(queue.qsize())
        # How many passes the checker lets a finished one stay is its own affair.
        seen["answers"].append(sorted(set(server.application_instances) - ending))
    for scope_id in list(server.application_instances):
        server.delete_application_instance(scope_id)
    checker.cancel()
    await passes(5)
    seen["exceptions"].sort()
    return seen


def test_a_program_does_on_cyasgi_what_it_does_on_the_reference(cy: Any, run: Any, reference: type) -> None:
    """Away from the reference's faults, messages, answers, starts, ends, failures and live ids are the same."""

    def agree(steps: list[Step]) -> None:
        program = without_faults(steps)
        with asyncio.Runner(loop_factory=run.loop_factory) as runner:
            expected = runner.run(carry_out(reference, program))
            assert runner.run(carry_out(cy.StatelessServer, program)) == expected

    holds_for_all(agree, 150, PROGRAMS)
