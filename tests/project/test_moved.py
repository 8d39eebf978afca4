"""Modules under their old names: they are the new ones, and warn."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import pytest

from cyasgi._moved import MOVED, MovedModules


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_old_names(cy: Any, old: str, new: str) -> None:
    """The old name gives the very module, and the warning names both and shows the line that imports it."""
    sys.modules.pop(f"cyasgi.{old}", None)
    with pytest.warns(DeprecationWarning, match=f"cyasgi.{old} has moved to cyasgi.{new}") as caught:
        module = importlib.import_module(f"cyasgi.{old}")
    assert module is importlib.import_module(f"cyasgi.{new}")
    assert module.__name__ == module.__spec__.name == f"cyasgi.{new}"
    assert len(caught) == 1


def test_a_statement(cy: Any) -> None:
    """`from ... import name` gives what the new module has, and the warning is for who wrote that."""
    sys.modules.pop("cyasgi.gateways.sockets", None)
    with pytest.warns(DeprecationWarning, match="has moved") as caught:
        from cyasgi.gateways.sockets import Listener
    assert Listener is importlib.import_module("cyasgi.gateways.net.sockets").Listener
    assert caught[0].filename == __file__


def test_what_is_nowhere(cy: Any) -> None:
    """Any other name is as unknown as ever."""
    with pytest.raises(ModuleNotFoundError, match=r"cyasgi\.gateways\.nothing"):
        importlib.import_module("cyasgi.gateways.nothing")


def test_one_finder(cy: Any) -> None:
    """However often the package is imported anew, one finder is there."""
    finders = [finder for finder in sys.meta_path if type(finder).__qualname__ == MovedModules.__qualname__]
    assert len(finders) == 1
