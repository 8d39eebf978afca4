"""``cyasgi completion``: scripts by which bash, zsh and fish complete the command.

A script has all names and values in it, so that a shell completes them by itself. Only for MODULE:ATTRIBUTE does it
call the command, which then imports neither the application nor cyasgi: see `applications`.
"""

from __future__ import annotations

import click

from . import bash, fish, zsh
from .words import commands_of

#: What makes the script of a shell.
SHELLS = {"bash": bash.script, "fish": fish.script, "zsh": zsh.script}


def completion_command(group: click.Group) -> click.Command:
    """Return the command that prints a script, for the commands of this group and itself."""

    def completion(shell: str) -> int:
        click.echo(SHELLS[shell](*commands_of(group)), nl=False)
        return 0

    return click.Command(
        "completion",
        callback=completion,
        params=[click.Argument(["shell"], type=click.Choice(list(SHELLS)))],
        help="Print a script that has a shell complete this command, as in: source <(cyasgi completion bash)",
    )
