"""The tables for who comes from uvicorn, gunicorn or granian: every option of the installed versions is in them."""

from __future__ import annotations

import importlib
import re
from importlib.metadata import version

import pytest

from cyasgi.cli import hints, options
from support.documentation import ROOT, tables

PAGE = ROOT / "src/cyasgi/cli/README.md"

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="the page is not here")

OURS = {name for parameter in options.parameters() for name in parameter.opts + parameter.secondary_opts}
#: An option in a table, short ones included.
OPTION = re.compile(r"(?<![\w-])(--[a-z][a-z0-9_-]*[a-z0-9]|-[a-zA-Z])(?![\w-])")
#: What every command has, and what is not the option of one sub-command.
OTHERS = {"-h", "--help", "-v", "--version"}
#: Options that the page tells of elsewhere.
ELSEWHERE = {"--metrics"}
#: The versions that the tables were written for.
WRITTEN_FOR = {"uvicorn": (0, 54), "gunicorn": (27, 0), "granian": (2, 8)}


def options_of(server: str) -> set[str]:
    """The options of the installed version."""
    pytest.importorskip(server)
    if server == "gunicorn":
        parser = importlib.import_module("gunicorn.config").Config().parser()
        return {name for action in parser._actions for name in action.option_strings}
    module, attribute = {"uvicorn": ("uvicorn.main", "main"), "granian": ("granian.cli", "cli")}[server]
    parameters = getattr(importlib.import_module(module), attribute).params
    return {
        name
        for parameter in parameters
        if parameter.param_type_name == "option"
        for name in (*parameter.opts, *parameter.secondary_opts)
    }


def rows_of(server: str) -> list[list[str]]:
    [rows] = [rows for head, rows in tables(PAGE) if head[0] == server]
    return rows


def named_in(cell: str) -> set[str]:
    return {name for code in re.findall(r"`([^`]+)`", cell) for name in OPTION.findall(code) if not code[0].isalpha()}


@pytest.mark.parametrize("server", WRITTEN_FOR)
def test_every_option_has_its_row(server: str) -> None:
    theirs = options_of(server) - OTHERS
    named = [name for cell, _ in rows_of(server) for name in named_in(cell)]
    assert len(named) == len(set(named)) and len(named) > 40
    assert theirs - set(named) == set()
    installed = tuple(map(int, version(server).split(".")[:2]))
    if installed >= WRITTEN_FOR[server]:
        assert set(named) - theirs - OTHERS == set()


@pytest.mark.parametrize("server", WRITTEN_FOR)
def test_what_the_rows_say_is_so(server: str) -> None:
    """What is the same exists here; of anything else the command says what to use, if it is no option of its own."""
    for cell, ours in rows_of(server):
        for option in named_in(cell) - OTHERS - ELSEWHERE:
            if ours.startswith("the same"):
                assert option in OURS, option
            else:
                assert option in OURS or option in hints.CALLED or option in hints.MISSING, option
