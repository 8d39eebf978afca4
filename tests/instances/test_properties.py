"""Random histories of a server against a plain model of what it promises."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from hypothesis.stateful import run_state_machine_as_test

from support.property_model import effort
from support.server_histories import Histories

pytestmark = pytest.mark.slow


@pytest.mark.long
def test_a_server_keeps_its_promises_through_any_history(cy: Any, run: Any) -> None:
    """Order, limit, one deletion, one report and one fate for every message, whatever happens in whatever order."""
    history = type("History", (Histories,), {"cy": cy, "new_loop": staticmethod(run.loop_factory)})
    try:
        run_state_machine_as_test(history, settings=effort(100))
    finally:
        gc.unfreeze()
