"""Serving, once the options are known."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from .. import __version__, backend
from .._common.log_files import reopened_by_signal
from ..balancing import LoadBalancer
from ..gateways.lifespan import (
    STARTUP_TIMEOUT,
    Lifespan,
    LifespanError,
)
from ..gateways.net.descriptors import raise_descriptor_limit
from ..supervisor import Supervisor
from ..workers import WorkerLink
from .allocator import keep_freed_memory
from .errors import (
    INTERRUPTED,
    MISUSED,
    CommandError,
)
from .loading import load_application, their_part
from .logs import (
    configure_logging,
    enable_loggers,
    ignore_reopening,
    logger,
)
from .servers import Options, make_servers

#: Counters that are logged even if they are 0.
ALWAYS_LOGGED = {"requests", "websockets", "datagrams_received", "datagrams_sent"}


def serve(options: Options, link: WorkerLink | None = None) -> int:
    """Serve until a signal arrives, and return the exit code.

    Args:
        link: what this process has inherited as a worker; None if it is none.

    Raises:
        CommandError: it could not start, or failed while serving.
    """
    # A worker leaves it to the supervising process to tell of options without effect.
    if link is None:
        ignore_reopening()
        configure_logging(options.log, options.ignored)
    else:
        configure_logging(options.log, name_process=True)
    keep_freed_memory()
    sys.path.insert(0, options.app_dir)
    application = _load(options)
    enable_loggers()
    loop_factory, loop = _choose_loop(options.loop)
    servers = make_servers(options, application)
    mode = options.lifespan
    if mode == "auto" and servers.keys() == {"udp"}:
        # An application for datagrams only need not expect other scopes.
        mode = "off"
    startup_timeout = options.limits.get("startup_timeout", STARTUP_TIMEOUT)

    def around() -> AbstractAsyncContextManager[None]:
        lifespan = _lifespan(application, mode, servers.values(), startup_timeout, several.shutdown_timeout)
        return lifespan if link is None else link.around(lifespan)

    several = Supervisor(servers.values(), around=around)
    if link is not None:
        link.attach(several, options.supervision.recycling)
    # With --reload, SIGINT is left to the parent process; a worker's link takes care of its signals.
    signals = [] if link is not None else [signal.SIGTERM] if options.reload else [signal.SIGINT, signal.SIGTERM]
    try:
        for kind, server in servers.items():
            if link is None:
                server.bind()
            else:
                server.inherit(link.sockets[kind])
        connections = sum(server.max_connections for kind, server in servers.items() if kind != "udp")
        if connections:
            raise_descriptor_limit(connections)
        names = ", ".join(options.applications)
        level = logging.INFO if link is None else logging.DEBUG
        logger.log(level, "cyasgi %s serves %s (back end %s, loop %s)", __version__, names, backend, loop)
        began = time.monotonic()
        try:
            several.run(loop_factory=loop_factory, signals=signals)
        finally:
            _log_counters(application, servers, time.monotonic() - began)
    except LifespanError as error:
        raise _in_one_line(error) from None
    except SystemExit as error:
        raise _exited(error) from None
    except OSError as error:
        raise CommandError(error.strerror or str(error)) from None
    finally:
        for server in servers.values():
            server.close()
    # With --reload, the parent process has turned SIGINT into SIGTERM.
    interrupted = several.interrupted is signal.SIGINT or (options.reload and several.interrupted is not None)
    return INTERRUPTED if interrupted else 0


def _in_one_line(error: LifespanError) -> CommandError:
    """Reduce the error to one line, and print the application's traceback before it.

    The traceback is what its framework has sent as the message, or that of the exception it raised.
    """
    text = str(error).strip()
    if "\n" in text:
        begin, _, trace = text.partition(": ")
        print(trace, file=sys.stderr)
        text = f"{begin}: {_last_words(trace)}"
    elif isinstance(error.__cause__, Exception):
        traceback.print_exception(type(error.__cause__), error.__cause__, their_part(error.__cause__))
    return CommandError(text)


def _exited(error: SystemExit) -> CommandError:
    """Turn the application's `sys.exit` into an error with its message, or with its code and a line that says so."""
    if error.code is None or isinstance(error.code, int):
        return CommandError(f"the application has ended the server by sys.exit({error.code or 0})", error.code or 0)
    return CommandError(str(error.code))


def _last_words(trace: str) -> str:
    """Return the last line of a traceback, without the frame around the lines of an exception group."""
    return next(words for line in reversed(trace.splitlines()) if (words := line.strip(" |+-")))


def _load(options: Options) -> Any:
    """Return the application, or a balancer over several."""
    loaded: dict[str, Any] = {}
    for number, path in enumerate(options.applications, 1):
        # The same name may stand for two applications if it is a factory.
        name = f"{path}#{number}" if path in loaded else path
        try:
            loaded[name] = load_application(path, options.factory)
        except CommandError:
            raise
        except Exception as error:
            traceback.print_exception(type(error), error, their_part(error))
            raise CommandError(f"{path!r} could not be loaded: it raised {type(error).__name__}") from None
    if len(loaded) == 1:
        return next(iter(loaded.values()))
    try:
        return LoadBalancer(loaded, options.balance, weights=options.weight or None)
    except ValueError as error:
        raise CommandError(str(error), MISUSED) from None


@contextlib.asynccontextmanager
async def _lifespan(
    application: Any, mode: str, servers: Iterable[Any], startup_timeout: float | None, shutdown_timeout: float
) -> AsyncIterator[None]:
    """Run the application's lifespan: one, however many servers there are."""
    lifespan = Lifespan(application, mode)
    try:
        await lifespan.startup(startup_timeout)
    except BaseException:
        # The error that is on its way says more than one of the shutdown would.
        with contextlib.suppress(LifespanError):
            await lifespan.shutdown(shutdown_timeout)
        raise
    for server in servers:
        if mode != "off" and hasattr(server, "state"):
            server.state = lifespan.state
    try:
        with reopened_by_signal():
            yield
    finally:
        await lifespan.shutdown(shutdown_timeout)


def _log_counters(application: Any, servers: Mapping[str, Any], seconds: float) -> None:
    if isinstance(application, LoadBalancer):
        stats = application.stats()
        logger.info("balanced: retried=%d refused=%d", stats["retried"], stats["refused"])
        for name, counted in stats["applications"].items():
            logger.info("balanced: %s: %s", name, _counters(counted))
    for kind, server in servers.items():
        server.close()
        logger.info("stopped after %.1f s: %s: %s", seconds, kind, _counters(server.stats()))


def _counters(stats: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in stats.items() if value or name in ALWAYS_LOGGED)


def _choose_loop(name: str) -> tuple[Callable[[], asyncio.AbstractEventLoop], str]:
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
