"""Serving, once the options are known."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from .. import __version__, backend
from .._common.log_files import reopened_by_signal, survive_signal
from .._common.signals import let_go
from ..balancing import LoadBalancer
from ..gateways.lifespan import (
    STARTUP_TIMEOUT,
    LifespanError,
)
from ..gateways.net.descriptors import raise_descriptor_limit
from ..supervisor import Supervisor
from ..workers import WorkerLink
from ..workers.notify import Notifier
from ..workers.process import LEFT_TO_SUPERVISOR
from .allocator import keep_freed_memory
from .errors import (
    INTERRUPTED,
    MISUSED,
    CommandError,
)
from .hangup import HangUps, leave_to_parent
from .kinds import WEB
from .logs import (
    configure_logging,
    enable_loggers,
    logger,
)
from .servers import Options, make_servers, resolve_framings
from .service import notifying
from .starting import choose_loop, exited, in_one_line, in_words, lifespan, load_each

#: Counters that are logged even if they are 0.
ALWAYS_LOGGED = {"requests", "websockets", "streams", "datagrams_received", "datagrams_sent"}


def serve(options: Options, link: WorkerLink | None = None, sockets: dict[str, list[list[int]]] | None = None) -> int:
    """Serve until a signal arrives, and return the exit code.

    Args:
        link: what this process has inherited as a worker; None if it is none.
        sockets: descriptors to serve on, by kind of server, for each of its addresses; None or empty: bind them.

    Raises:
        CommandError: it could not start, or failed while serving.
    """
    # A worker leaves it to the supervising process to tell of options without effect.
    hang_ups = None
    if link is None:
        survive_signal()
        if options.reload:
            leave_to_parent()
        else:
            hang_ups = HangUps()
        configure_logging(options.log, options.ignored)
    else:
        configure_logging(options.log, name_process=True)
    keep_freed_memory()
    sys.path.insert(0, options.app_dir)
    application = load(options)
    enable_loggers()
    loop_factory, loop = choose_loop(options.loop)
    servers = make_servers(options, application)
    resolve_framings(servers)
    mode = options.lifespan
    if mode == "auto" and servers.keys().isdisjoint(WEB):
        # An application for datagrams or streams only need not expect other scopes.
        mode = "off"
    startup_timeout = options.limits.get("startup_timeout", STARTUP_TIMEOUT)

    def around() -> AbstractAsyncContextManager[None]:
        inner = reopening(lifespan(application, mode, servers.values(), startup_timeout, several.shutdown_timeout))
        if link is not None:
            return deaf_at_the_end(link.around(inner))
        return inner if hang_ups is None else hang_ups.around(several.stop, notifying(Notifier(), several, inner))

    several = Supervisor(servers.values(), around=around)
    if link is not None:
        link.attach(several, servers, options.supervision.recycling)
    # With --reload, SIGINT is left to the parent process; a worker's link takes care of its signals.
    signals = [] if link is not None else [signal.SIGTERM] if options.reload else [signal.SIGINT, signal.SIGTERM]
    try:
        for kind, server in servers.items():
            if link is not None:
                server.inherit(link.sockets[kind], told=True)
            elif sockets:
                server.inherit(sockets[kind])
            else:
                server.bind()
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
        raise in_one_line(error) from None
    except SystemExit as error:
        raise exited(error) from None
    except OSError as error:
        raise CommandError(error.strerror or str(error)) from None
    finally:
        for server in servers.values():
            server.close()
    # With --reload, the parent process has turned SIGINT into SIGTERM.
    interrupted = several.interrupted is signal.SIGINT or (options.reload and several.interrupted is not None)
    return INTERRUPTED if interrupted else 0


def load(options: Options) -> Any:
    """Return the application, or a balancer over several."""
    loaded = load_each(options.applications, options.factory)
    if len(loaded) == 1:
        return next(iter(loaded.values()))
    try:
        return LoadBalancer(loaded, options.balance, weights=options.weight or None)
    except ValueError as error:
        raise CommandError(str(error), MISUSED) from None


@contextlib.asynccontextmanager
async def reopening(inner: AbstractAsyncContextManager[None]) -> AsyncIterator[None]:
    """Reopen log files on SIGUSR1 within the application's lifespan."""
    async with inner:
        with reopened_by_signal():
            yield


@contextlib.asynccontextmanager
async def deaf_at_the_end(inner: AbstractAsyncContextManager[None]) -> AsyncIterator[None]:
    """Ignore signals that may go to all processes once a worker has ended its work.

    A service manager sends SIGTERM also to workers that have been replaced and are about to end, and a terminal SIGHUP
    and SIGINT.
    """
    try:
        async with inner:
            yield
    finally:
        # A loop that is closed, and an interpreter that ends, would have a handler's signal end the process again.
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, *LEFT_TO_SUPERVISOR):
            let_go(loop, number, signal.SIG_IGN)


def _log_counters(application: Any, servers: Mapping[str, Any], seconds: float) -> None:
    if isinstance(application, LoadBalancer):
        stats = application.stats()
        logger.info("balanced: retried=%d refused=%d", stats["retried"], stats["refused"])
        for name, counted in stats["applications"].items():
            logger.info("balanced: %s: %s", name, in_words(counted, ALWAYS_LOGGED))
    for kind, server in servers.items():
        server.close()
        logger.info("stopped after %.1f s: %s: %s", seconds, kind, in_words(server.stats(), ALWAYS_LOGGED))
