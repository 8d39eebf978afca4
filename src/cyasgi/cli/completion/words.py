"""What there is to complete: the commands, their options, and what follows each of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import click

#: Characters of a text beside a name, about as many as a terminal has room for.
TEXT = 90

#: What follows an option: nothing, something that cannot be completed, or what shells know to complete.
FLAG, VALUE, CHOICE, FILE, DIRECTORY, USER, GROUP = "flag", "value", "choice", "file", "directory", "user", "group"
#: The same of an argument.
APPLICATION = "application"
#: Of options whose types do not say it, by their names.
KINDS = {"unix": FILE, "user": USER, "group": GROUP}


class Option(NamedTuple):
    """An option."""

    #: All names that mean the same.
    names: tuple[str, ...]
    #: Other names that cannot be given together with these.
    others: tuple[str, ...]
    text: str
    #: What follows, and which values if it is a choice.
    kind: str
    choices: tuple[str, ...]
    #: Whether it may be given again.
    several: bool


class Command(NamedTuple):
    """A command, and what its argument is."""

    name: str
    text: str
    options: list[Option]
    kind: str
    choices: tuple[str, ...]


def commands_of(group: click.Group) -> tuple[list[Option], list[Command]]:
    """Return the options of a group itself, and its commands."""
    context = click.Context(group, info_name=group.name, help_option_names=["-h", "--help"])
    found = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = click.Context(command, parent=context, info_name=name)
        choices = [_choices(one) for one in command.get_params(inner) if isinstance(one, click.Argument)]
        kind = FLAG if not choices else CHOICE if choices[0] else APPLICATION
        text, options = short(command.help or ""), list(_options(command, inner))
        found.append(Command(name, text, options, kind, choices[0] if choices else ()))
    return list(_options(group, context)), found


def _options(command: click.Command, context: click.Context) -> Iterator[Option]:
    for parameter in command.get_params(context):
        if not isinstance(parameter, click.Option):
            continue
        text, kind = short(parameter.help or ""), _kind(parameter)
        several = parameter.multiple
        on, off = tuple(parameter.opts), tuple(parameter.secondary_opts)
        yield Option(on, off, text, kind, _choices(parameter), several)
        if off:
            yield Option(off, on, f"Turn {on[0]} off", kind, (), several)


def _kind(option: click.Option) -> str:
    if option.is_flag:
        return FLAG
    if _choices(option):
        return CHOICE
    if isinstance(option.type, click.Path):
        return FILE if option.type.file_okay else DIRECTORY
    return KINDS.get(option.name or "", VALUE)


def _choices(parameter: click.Parameter) -> tuple[str, ...]:
    return tuple(map(str, parameter.type.choices)) if isinstance(parameter.type, click.Choice) else ()


def short(text: str) -> str:
    """Return the first sentence of a text, on one line, and no more than a shell has room for."""
    sentence = " ".join(text.split()).partition(". ")[0].rstrip(".")
    for separator in ("; ", ", "):
        if len(sentence) > TEXT:
            sentence = sentence.partition(separator)[0]
    return sentence if len(sentence) <= TEXT else sentence[: TEXT - 3].rpartition(" ")[0] + "..."
