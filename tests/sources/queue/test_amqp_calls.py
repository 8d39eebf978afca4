"""Calls of the library that speaks AMQP: however one ends, it is an answer, an EngineError, or the caller's own end."""

from __future__ import annotations

import asyncio
import importlib
import struct

import pytest

pytest.importorskip("aiormq")


def module(cy, name):
    return importlib.import_module(f"{cy.__name__}.sources.queue.{name}")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Exception(), "the connection is gone"),
        (asyncio.CancelledError(), "the connection is gone"),
        (struct.error("unpack requires"), "error: unpack requires"),
        (ValueError("Could not unpack"), "ValueError: Could not unpack"),
        (OverflowError("too large"), "OverflowError: too large"),
        (RecursionError("maximum"), "maximum"),
        (OSError(104, "reset"), "104: reset"),
        (TimeoutError(), "no answer within 30 seconds"),
    ],
    ids=repr,
)
def test_errors(cy, run, error, said):
    async def asked():
        raise error

    async def main():
        with pytest.raises(module(cy, "engine").EngineError) as raised:
            await module(cy, "amqp_calls").answered(asked())
        assert str(raised.value) == said

    run(main())


def test_no_answer(cy, run):
    async def main():
        with pytest.raises(module(cy, "engine").EngineError, match=r"no answer within 0\.01 seconds"):
            await module(cy, "amqp_calls").answered(asyncio.get_running_loop().create_future(), 0.01)

    run(main())


def test_cancelled(cy, run):
    """The caller's own end stays what it is."""

    async def main():
        asking = asyncio.ensure_future(module(cy, "amqp_calls").answered(asyncio.get_running_loop().create_future()))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    run(main())
