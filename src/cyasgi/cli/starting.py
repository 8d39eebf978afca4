"""What `serve` and `check` have in common: loading an application, its lifespan, the loop, and errors in one line."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from ..gateways.lifespan import Lifespan, LifespanError
from .errors import CommandError
from .loading import load_application, print_their_part


def load_each(paths: Sequence[str], factory: bool) -> dict[str, Any]:
    """Return the applications that these paths name, by path.

    Raises:
        CommandError: one cannot be loaded; the traceback of what it has raised was printed.
    """
    loaded: dict[str, Any] = {}
    for number, path in enumerate(paths, 1):
        # The same name may stand for two applications if it is a factory.
        name = f"{path}#{number}" if path in loaded else path
        try:
            loaded[name] = load_application(path, factory)
        except CommandError:
            raise
        except Exception as error:
            print_their_part(error)
            raise CommandError(f"{path!r} could not be loaded: it raised {type(error).__name__}") from None
    return loaded


@contextlib.asynccontextmanager
async def lifespan(
    application: Any, mode: str, servers: Iterable[Any], startup_timeout: float | None, shutdown_timeout: float
) -> AsyncIterator[None]:
    """Run the application's lifespan: one, however many servers there are."""
    running = Lifespan(application, mode)
    try:
        await running.startup(startup_timeout)
    except BaseException:
        # The error that is on its way says more than one of the shutdown would.
        with contextlib.suppress(LifespanError):
            await running.shutdown(shutdown_timeout)
        raise
    for server in servers:
        if mode != "off" and hasattr(server, "state"):
            server.state = running.state
    try:
        yield
    finally:
        await running.shutdown(shutdown_timeout)


def in_one_line(error: LifespanError) -> CommandError:
    """Reduce the error to one line, and print the application's traceback before it.

    The traceback is what its framework has sent as the message, or that of the exception it raised.
    """
    text = str(error).strip()
    if "\n" in text:
        begin, _, trace = text.partition(": ")
        print(trace, file=sys.stderr)
        text = f"{begin}: {_last_words(trace)}"
    elif isinstance(error.__cause__, Exception):
        print_their_part(error.__cause__)
    return CommandError(text)


def exited(error: SystemExit) -> CommandError:
    """Turn the application's `sys.exit` into an error with its message, or with its code and a line that says so."""
    if error.code is None or isinstance(error.code, int):
        return CommandError(f"the application has ended the server by sys.exit({error.code or 0})", error.code or 0)
    return CommandError(str(error.code))


def _last_words(trace: str) -> str:
    """Return the last line of a traceback, without the frame around the lines of an exception group."""
    return next(words for line in reversed(trace.splitlines()) if (words := line.strip(" |+-")))


def in_words(stats: Mapping[str, Any], always: Collection[str]) -> str:
    """Return counters as text: those of these names, and others that are not 0."""
    return " ".join(f"{name}={value}" for name, value in stats.items() if value or name in always)


def choose_loop(name: str) -> tuple[Callable[[], asyncio.AbstractEventLoop], str]:
    """Return the factory of event loops for this option, and the name of the loop."""
    if name != "asyncio":
        try:
            import uvloop
        except ImportError:
            if name == "uvloop":
                raise CommandError("--loop uvloop needs uvloop: pip install 'cyasgi[uvloop]'") from None
        else:
            return uvloop.new_event_loop, "uvloop"
    return asyncio.new_event_loop, "asyncio"
