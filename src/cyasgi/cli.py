"""The command: ``cyasgi serve --udp 127.0.0.1:9999 cyasgi.examples:echo``, also ``python -m cyasgi``.

Exit codes:

* 0 - it served, and ended on SIGINT or SIGTERM;
* 1 - it could not start, or not go on: an address taken or not permitted, a library missing, an application's module
  that raised when it was imported (then with its traceback);
* 2 - it was called wrongly: an option or address that is not one, a module or attribute that is not there, an
  attribute that is no application;
* 130 - interrupted by SIGINT before it served.

Whatever the caller did wrong is told in one line on the standard error.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import click

logger = logging.getLogger("cyasgi")

FAILED, MISUSED, INTERRUPTED = 1, 2, 130
LEVELS = ("debug", "info", "warning", "error", "critical")


class CommandError(Exception):
    """To be told in one line; `code` is what the command exits with."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command with these arguments (those of the process if None) and returns its exit code."""
    try:
        import click
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        _tell("the command needs click: pip install 'cyasgi[cli]'")
        return FAILED
    try:
        return command().main(arguments, "cyasgi", standalone_mode=False) or 0
    except CommandError as error:
        _tell(str(error))
        return error.code
    except click.ClickException as error:
        if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
            error.show()
        else:
            _tell(error.format_message())
        return MISUSED
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED


def _tell(message: str) -> None:
    print("cyasgi:", " ".join(message.split()), file=sys.stderr)


# The application


def load_application(path: str, factory: bool = False) -> Any:
    """The application that ``module:attribute`` names; the attribute may be dotted.

    Args:
        factory: the attribute is called without arguments and returns the application.

    Raises:
        CommandError: `path` names no application; whatever the module itself raises when imported, or the factory
            when called, is passed on.
    """
    name, _, attribute = path.partition(":")
    if name.endswith(".py") or "/" in name or os.sep in name:
        raise CommandError(f"{path!r}: name the module, not its file, as in package.module:attribute", MISUSED)
    if not all(part.isidentifier() for part in (*name.split("."), *attribute.split("."))):
        raise CommandError(f"{path!r} is not MODULE:ATTRIBUTE, as in cyasgi.examples:echo", MISUSED)
    from ._kinds import as_single_callable

    found: Any = _import(name)
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise CommandError(f"{path!r}: {name!r} has no attribute {attribute!r}", MISUSED) from None
    if factory:
        if not callable(found) or not _takes_nothing(found):
            raise CommandError(f"{path!r} is not a factory, that is called without arguments: {found!r}", MISUSED)
        found = found()
        path = f"{path}()"
    if not callable(found):
        raise CommandError(f"{path!r} is not an application: {found!r} is not callable", MISUSED)
    try:
        as_single_callable(found)
    except TypeError:
        hint = "; is it a factory (--factory)?" if _takes_nothing(found) and not factory else ""
        raise CommandError(
            f"{path!r} is not an application: it takes neither (scope, receive, send) nor, as in ASGI 2, (scope){hint}",
            MISUSED,
        ) from None
    return found


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if name.startswith("cyasgi.") and error.name != name:
            # A module of ours that lacks a library says which extra has it.
            raise CommandError(str(error)) from None
        wanted = error.name or ""
        if (name == wanted or name.startswith(f"{wanted}.")) and _their_part(error) is None:
            raise CommandError(f"there is no module {wanted!r} (looked for in {sys.path[0]} first)", MISUSED) from None
        raise


def _takes_nothing(function: Any) -> bool:
    try:
        inspect.signature(function).bind()
    except TypeError:
        return False
    except ValueError:  # a built-in that does not tell
        pass
    return True


def _their_part(error: BaseException) -> TracebackType | None:
    """The traceback of an error from the first line that is neither ours nor the import system's."""
    part = error.__traceback__
    while part is not None:
        filename = part.tb_frame.f_code.co_filename
        if filename != __file__ and not filename.startswith("<frozen importlib") and filename != importlib.__file__:
            return part
        part = part.tb_next
    return None


# Values of options


def parse_limit(text: str) -> int | None:
    """A number of at least 1, or None for "none"."""
    if text == "none":
        return None
    if text.isascii() and text.isdigit() and int(text) >= 1:
        return int(text)
    raise ValueError(f"{text!r}: accepted are a whole number of at least 1, and none for no limit")


def parse_count(text: str) -> int:
    if text.isascii() and text.isdigit():
        return int(text)
    raise ValueError(f"{text!r}: accepted is a whole number of at least 0, where 0 stands for no limit")


def parse_seconds(text: str, *, zero: bool = True) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0 or not (seconds or zero):
        raise ValueError(f"{text!r}: accepted is a number of seconds, {'0 or more' if zero else 'more than 0'}")
    return seconds


def parse_timeout(text: str) -> float | None:
    """Seconds, more than 0, or None for "none"."""
    try:
        return None if text == "none" else parse_seconds(text, zero=False)
    except ValueError as error:
        raise ValueError(f"{error}, and none for no timeout") from None


def command() -> click.Group:
    """The command line, in click's terms."""
    import click

    from . import __version__
    from .gateways.datagram import DatagramServer
    from .wire.address import parse_address

    def parsed(parse: Callable[[str], Any]) -> Callable[[Any, Any, Any], Any]:
        def callback(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
            try:
                return [parse(one) for one in value] if isinstance(value, tuple) else parse(value)
            except ValueError as error:
                raise click.BadParameter(str(error)) from None

        return callback

    def tuning(name: str, parse: Callable[[str], Any], default: Any, metavar: str, text: str) -> Callable[[Any], Any]:
        default = "none" if default is None else str(default)
        return click.option(
            name, callback=parsed(parse), default=default, show_default=True, metavar=metavar, help=text
        )

    @click.group(context_settings={"help_option_names": ["-h", "--help"]})
    @click.version_option(__version__, "--version", prog_name="cyasgi")
    def cyasgi() -> None:
        """Serves ASGI applications, each client by an instance of its own."""

    @cyasgi.command(epilog="Exit codes: 0 ended by SIGINT or SIGTERM, 1 failed, 2 called wrongly.")
    @click.argument("application", metavar="MODULE:ATTRIBUTE")
    @click.option(
        "--udp",
        multiple=True,
        metavar="ADDRESS",
        callback=parsed(parse_address),
        help="Listen for datagrams on HOST:PORT, [IPV6]:PORT or :PORT (every interface). May be given several times.",
    )
    @click.option("--factory", is_flag=True, help="The attribute is a function that returns the application.")
    @click.option(
        "--app-dir",
        type=click.Path(exists=True, file_okay=False, resolve_path=True),
        default=".",
        show_default=True,
        help="Look for the module in this directory first.",
    )
    @tuning(
        "--max-applications", parse_limit, 1000, "NUMBER", "Most instances at a time; further ones make room, or none."
    )
    @tuning(
        "--max-queue-size",
        parse_count,
        DatagramServer.max_queue_size,
        "NUMBER",
        "Most messages waiting for one instance; further ones are dropped and counted. 0: no limit.",
    )
    @tuning(
        "--idle-timeout",
        parse_timeout,
        DatagramServer.idle_timeout,
        "SECONDS",
        "Remove instances that have been idle for so long, or none.",
    )
    @tuning(
        "--shutdown-timeout",
        parse_seconds,
        DatagramServer.shutdown_timeout,
        "SECONDS",
        "How long instances may take to finish their work at the end.",
    )
    @tuning(
        "--checker-interval",
        lambda text: parse_seconds(text, zero=False),
        DatagramServer.application_checker_interval,
        "SECONDS",
        "How often to look for instances that have been idle for too long.",
    )
    @click.option(
        "--loop",
        type=click.Choice(["auto", "asyncio", "uvloop"]),
        default="auto",
        show_default=True,
        help="The event loop; auto is uvloop where it is installed.",
    )
    @click.option("--log-level", type=click.Choice(LEVELS), default="info", show_default=True)
    def serve(**options: Any) -> int:
        """Serve the application that MODULE:ATTRIBUTE names, until SIGINT or SIGTERM."""
        if not options["udp"]:
            raise click.UsageError("nothing to listen on: give --udp ADDRESS at least once")
        return run_server(**options)

    return cyasgi


def run_server(
    application: str,
    *,
    udp: list[tuple[str, int]],
    factory: bool,
    app_dir: str,
    max_applications: int | None,
    max_queue_size: int,
    idle_timeout: float | None,
    shutdown_timeout: float,
    checker_interval: float,
    loop: str,
    log_level: str,
) -> int:
    """What ``cyasgi serve`` does, with its options' values; returns the exit code."""
    from . import __version__, backend
    from .gateways.datagram import DatagramServer, ListenError

    logging.basicConfig(
        level=log_level.upper(), format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr, force=True
    )
    sys.path.insert(0, app_dir)
    try:
        served = load_application(application, factory)
    except CommandError:
        raise
    except Exception as error:
        traceback.print_exception(type(error), error, _their_part(error))
        raise CommandError(f"{application!r} could not be loaded: it raised {type(error).__name__}") from None
    loop = _choose_loop(loop)
    server = DatagramServer(served, max_applications, binds=udp)
    server.max_queue_size = max_queue_size
    server.idle_timeout = idle_timeout
    server.shutdown_timeout = shutdown_timeout
    server.application_checker_interval = checker_interval
    try:
        server.bind()
    except ListenError as error:
        raise CommandError(error.strerror or str(error)) from None
    logger.info("cyasgi %s serves %s (back end %s, loop %s)", __version__, application, backend, loop)
    began = time.monotonic()
    try:
        server.run()
    except OSError as error:
        raise CommandError(error.strerror or str(error)) from None
    finally:
        server.close()
        counters = [f"{name}={value}" for name, value in server.stats().items() if value or "datagrams" in name]
        logger.info("stopped after %.1f s: %s", time.monotonic() - began, " ".join(counters))
    return 0


def _choose_loop(name: str) -> str:
    """Makes `run` use the event loop of that name, and gives it; for auto, the one that is there."""
    from . import _running

    if name != "asyncio":
        try:
            import uvloop  # noqa: F401
        except ImportError:
            if name == "uvloop":
                raise CommandError("--loop uvloop needs uvloop: pip install 'cyasgi[uvloop]'") from None
        else:
            return "uvloop"
    _running.new_event_loop = asyncio.new_event_loop
    return "asyncio"
