"""The configuration file and the environment, and errors in them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

import click
from click.core import ParameterSource

from . import hints
from .errors import MISUSED, CommandError

#: The prefix of the environment variables of ``cyasgi serve``.
PREFIX = "CYASGI_SERVE"
#: Environment variable by which processes that this one starts learn which others it has set by ``--env-file``.
MARK = "CYASGI_ENV_FILE"
#: And of those of ``cyasgi consume``.
CONSUME_PREFIX = "CYASGI_CONSUME"


def use(context: click.Context, parameter: click.Parameter, path: str | None) -> str | None:
    """Make the values in the file the defaults of the options; a callback for click."""
    if path is not None:
        context.default_map = read(path, context.command.params)
    return path


def load_environment(context: click.Context, parameter: click.Parameter, path: str | None) -> None:
    """Set the environment variables that the file has and the environment has not; a callback for click.

    A process that another one has started, as a worker, reads the file anew: for what concerns the application. Options
    are those of the other process, which has bound the addresses.

    Raises:
        CommandError: python-dotenv is not installed, or the file cannot be read.
    """
    inherited = os.environ.pop(MARK, None)
    # Root may have read it for a user who may not: what was read stays.
    if path is None or (inherited is not None and not os.access(path, os.R_OK)):
        return
    try:
        import dotenv
    except ModuleNotFoundError:
        raise CommandError("--env-file needs python-dotenv: pip install 'cyasgi[env]'") from None
    for name in () if inherited is None else json.loads(inherited):
        os.environ.pop(name, None)
    before = set(os.environ)
    try:
        dotenv.load_dotenv(path, override=False, encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"--env-file {path}: {error}") from None
    added = os.environ.keys() - before
    options = {name for name in added if name.startswith(f"{context.auto_envvar_prefix or PREFIX}_")}
    if inherited is not None:
        for name in options:
            del os.environ[name]
    context.meta[MARK] = sorted(added - options)


def pass_on(context: click.Context) -> None:
    """Let processes that this one starts know what `load_environment` has set."""
    if MARK in context.meta:
        os.environ[MARK] = json.dumps(context.meta[MARK])


def read(path: str, parameters: Iterable[click.Parameter]) -> dict[str, Any]:
    """Read a TOML file, and return its values by the names of the parameters.

    Names in the file are those of the options without the leading dashes, and ``application``. Words in a name may be
    joined by dashes or underscores.

    Raises:
        CommandError: the file cannot be read or is not TOML; a name is unknown or set twice; or a value is of a kind
            that no option takes.
    """
    import tomllib  # few starts have such a file

    try:
        with open(path, "rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CommandError(f"{path} is not TOML: {error}", MISUSED) from None
    accepted = {name: parameter for parameter in parameters for name in _names(parameter)}
    values: dict[str, Any] = {}
    for key, value in content.items():
        name = key.replace("_", "-")
        if name not in accepted:
            meant = (
                hints.instead(f"--{name}")
                or hints.similar(name, accepted)
                or f"; accepted are {', '.join(sorted(accepted))}"
            )
            raise CommandError(f"{path}: unknown name {key!r}{meant}", MISUSED)
        parameter = accepted[name]
        assert parameter.name is not None
        if parameter.name in values:
            raise CommandError(f"{path}: {key!r} sets what another name has set already", MISUSED)
        try:
            values[parameter.name] = _value(value, parameter)
        except ValueError as error:
            raise CommandError(f"{path}: {key} = {value!r}: {error}", MISUSED) from None
    return values


def _names(parameter: click.Parameter) -> Iterator[str]:
    if isinstance(parameter, click.Argument):
        yield "application"
    elif parameter.name not in ("config", "env_file"):
        yield from (name.removeprefix("--") for name in parameter.opts if name.startswith("--"))


def _value(value: Any, parameter: click.Parameter) -> Any:
    """Return the value as click would get it from the command line."""
    if isinstance(parameter, click.Option) and parameter.is_flag:
        if not isinstance(value, bool):
            raise ValueError("accepted are true and false")
        return value
    several = parameter.nargs == -1 or getattr(parameter, "multiple", False)
    if several:
        values = value if isinstance(value, list) else [value]
        if not all(map(_is_plain, values)):
            raise ValueError("accepted are a string, a number, and an array of these")
        return list(map(str, values))
    if not _is_plain(value):
        raise ValueError("accepted are a string and a number")
    return value if isinstance(value, str) else getattr(parameter, "written", str)(value)


def _is_plain(value: Any) -> bool:
    return isinstance(value, (str, int, float)) and not isinstance(value, bool)


def origin(context: click.Context, parameter: click.Parameter) -> str:
    """Return where the value of a parameter comes from, as the beginning of a message; empty for the command line."""
    assert parameter.name is not None
    source = context.get_parameter_source(parameter.name)
    if source is ParameterSource.ENVIRONMENT:
        return f"environment variable {variable(parameter, context.auto_envvar_prefix)}: "
    if source is ParameterSource.DEFAULT_MAP:
        return f"{context.params.get('config')}: "
    return ""


def variable(parameter: click.Parameter, prefix: str | None = None) -> str:
    """Return the name of a parameter's environment variable; None is the prefix of ``cyasgi serve``."""
    assert parameter.name is not None
    name = "application" if isinstance(parameter, click.Argument) else parameter.name
    return f"{prefix or PREFIX}_{name.upper()}"


def unknown_variables(parameters: Iterable[click.Parameter], prefix: str | None = None) -> list[str]:
    """Return a sentence for each environment variable that has the prefix but belongs to no option."""
    prefix = prefix or PREFIX
    known = {variable(parameter, prefix) for parameter in parameters}
    names = sorted(name for name in os.environ if name.startswith(f"{prefix}_") and name not in known)
    return [f"{name} is not the environment variable of any option{hints.similar(name, known)}" for name in names]
