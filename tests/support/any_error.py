"""What `except Exception` does not catch, and whether it was logged."""

from __future__ import annotations

import asyncio

import pytest


class Doom(BaseException):
    pass


def of_a_cancelled_future():
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    future.exception()


def a_generator_s():
    raise GeneratorExit("out of a hook")


def another_base():
    raise Doom("out of a hook")


@pytest.fixture(params=[of_a_cancelled_future, a_generator_s, another_base], ids=lambda error: error.__name__)
def fail(request):
    """A function that raises what `except Exception` does not catch."""
    return request.param


def logged(caplog, fail):
    """How many errors were logged whose traceback leads to the hook."""
    return sum(f"in {fail.__name__}" in caplog.handler.format(record) for record in caplog.records if record.exc_info)
