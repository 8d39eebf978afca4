"""``cyasgi check``: whether applications can be loaded, start and stop, without serving them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

import click

from ..gateways.lifespan import Lifespan, LifespanError
from .errors import FAILED, CommandError
from .logs import LogOptions, configure_logging
from .starting import choose_loop, in_one_line, load_each

#: Its options, which are those of ``cyasgi serve``.
OPTIONS = ("applications", "factory", "app_dir", "lifespan", "loop", "startup_timeout", "shutdown_timeout")


def check(
    applications: Sequence[str],
    *,
    factory: bool,
    app_dir: str,
    lifespan: str,
    loop: str,
    startup_timeout: float | None,
    shutdown_timeout: float,
) -> int:
    """Load each application, start it and stop it, and say so on standard output; return the exit code.

    Raises:
        CommandError: one cannot be loaded, or failed to start or stop.
    """
    configure_logging(LogOptions(level="warning"))
    sys.path.insert(0, app_dir)
    loop_factory, _ = choose_loop(loop)
    try:
        loaded = load_each(applications, factory)
    except SystemExit as error:
        raise _left(error) from None
    for path, application in loaded.items():
        try:
            with asyncio.Runner(loop_factory=loop_factory) as runner:
                took_part = runner.run(_start_and_stop(application, lifespan, startup_timeout, shutdown_timeout))
        except (CommandError, LifespanError, SystemExit) as error:
            # Of several applications, it is to be told which one it is.
            told = _left(error) if isinstance(error, SystemExit) else error
            told = in_one_line(told) if isinstance(told, LifespanError) else told
            raise CommandError(f"{path}: {told}", getattr(told, "code", 1)) from None
        click.echo(f"{path}: loaded" + (", started and stopped" if took_part else ""))
    return 0


def _left(error: SystemExit) -> CommandError:
    """Turn the application's `sys.exit` into an error, with its message or its code if it has one."""
    if error.code is None or isinstance(error.code, int):
        return CommandError(f"the application has called sys.exit({error.code or 0})", error.code or FAILED)
    return CommandError(str(error.code))


async def _start_and_stop(application: Any, mode: str, startup_timeout: float | None, shutdown_timeout: float) -> bool:
    """Start it and stop it; return whether it takes part in the lifespan protocol.

    Raises:
        LifespanError: it failed to do so. What is served with a warning is an error here, too.
    """
    running = Lifespan(application, mode)
    try:
        await running.startup(startup_timeout)
        if running.start_error is not None:
            error = running.start_error
            raise LifespanError(f"the application failed to start: it raised {error!r}") from error
    finally:
        await running.shutdown(shutdown_timeout)
    if running.overran:
        raise LifespanError(f"the application did not stop within {shutdown_timeout:g} seconds")
    return running.takes_part
