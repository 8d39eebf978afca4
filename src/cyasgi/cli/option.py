"""What an option is made of, and the command that has options by section of its help."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click


class Option(click.Option):
    """An option that knows its section of the help, and how to write a value of it as text."""

    def __init__(
        self, *declarations: Any, section: str, written: Callable[[Any], str] = str, **attributes: Any
    ) -> None:
        super().__init__(declarations, **attributes)
        self.section = section
        self.written = written


class ServeCommand(click.Command):
    """A command whose help groups options by section, and that rejects a single-valued option given twice."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(list(args))
        options = [parameter for parameter in order if isinstance(parameter, click.Option) and not parameter.multiple]
        for option in dict.fromkeys(options):
            if options.count(option) > 1:
                names = "/".join((*option.opts, *option.secondary_opts))
                raise click.UsageError(f"{names} is given {options.count(option)} times, but takes one value", ctx)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                sections.setdefault(getattr(parameter, "section", "Other"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def parsed(parse: Callable[[str], Any]) -> Callable[[Any, Any, Any], Any]:
    """Return a callback for click that parses each text with `parse`."""

    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        try:
            if value is None:
                return None
            return [parse(one) for one in value] if isinstance(value, tuple) else parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error), context, parameter) from None

    return callback
