"""What a task costs that never waits: started in the next turn of the loop, and eagerly."""

import asyncio
import time

import uvloop

TASKS, ROUNDS = 200, 300


async def application():
    return None


async def measure(eager):
    """The least CPU time for each of 200 tasks, in ns, of 300 rounds."""
    loop = asyncio.get_running_loop()
    more = {"eager_start": True} if eager else {}
    best = float("inf")
    for _ in range(ROUNDS):
        coroutines = [application() for _ in range(TASKS)]
        began = time.process_time_ns()
        tasks = [asyncio.Task(coroutine, loop=loop, **more) for coroutine in coroutines]
        await asyncio.sleep(0)
        best = min(best, (time.process_time_ns() - began) / TASKS)
        assert all(task.done() for task in tasks)
    return best


for name, factory in (("asyncio", asyncio.new_event_loop), ("uvloop", uvloop.new_event_loop)):
    for eager in (False, True) * 3:
        with asyncio.Runner(loop_factory=factory) as runner:
            print(name, "eager" if eager else "next turn", round(runner.run(measure(eager))), "ns")
