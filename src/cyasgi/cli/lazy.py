"""A group whose commands are imported when they are called, or listed by the help."""

from __future__ import annotations

import importlib
from typing import Any

import click


class LazyGroup(click.Group):
    """A group of commands, some of which are the result of `command()` in a module of this package.

    Args:
        modules: the names of these modules, by the names of the commands.
    """

    def __init__(self, *arguments: Any, modules: dict[str, str] | None = None, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self._modules = modules or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self._modules})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self._modules and cmd_name not in self.commands:
            module = importlib.import_module(f"{__package__}.{self._modules[cmd_name]}")
            self.add_command(module.command())
        return super().get_command(ctx, cmd_name)
