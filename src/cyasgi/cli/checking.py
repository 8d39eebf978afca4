"""``cyasgi check``: whether applications can be loaded, start and stop, without serving them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

import click

from ..gateways.lifespan import LifespanError
from . import starting
from .errors import CommandError
from .logs import LogOptions, configure_logging
from .starting import choose_loop, exited, in_one_line, load_each

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
    for path, application in load_each(applications, factory).items():
        try:
            with asyncio.Runner(loop_factory=loop_factory) as runner:
                runner.run(_start_and_stop(application, lifespan, startup_timeout, shutdown_timeout))
        except (CommandError, LifespanError, SystemExit) as error:
            # Of several applications, it is to be told which one it is.
            told = exited(error) if isinstance(error, SystemExit) else error
            told = in_one_line(told) if isinstance(told, LifespanError) else told
            raise CommandError(f"{path}: {told}", getattr(told, "code", 1)) from None
        click.echo(f"{path}: loaded" + ("" if lifespan == "off" else ", started and stopped"))
    return 0


async def _start_and_stop(application: Any, mode: str, startup_timeout: float | None, shutdown_timeout: float) -> None:
    async with starting.lifespan(application, mode, (), startup_timeout, shutdown_timeout):
        pass
