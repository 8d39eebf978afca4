"""What ``cyasgi serve`` does once its options are known."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .. import __version__, backend
from ..supervisor import Supervisor
from .errors import MISUSED, CommandError
from .loading import load_application, their_part

logger = logging.getLogger("cyasgi")


@dataclass
class Options:
    """The values of the options, each named after it."""

    applications: tuple[str, ...]
    #: For each kind of listener its addresses.
    listeners: dict[str, list[Any]]
    #: Attributes of servers, those alone that somebody has set.
    limits: dict[str, Any]
    factory: bool
    app_dir: str
    loop: str
    log_level: str
    config: str | None
    reload: bool
    reload_dir: tuple[str, ...]
    reload_include: tuple[str, ...]
    #: Environment variables that look like options and are none.
    ignored: list[str] = field(default_factory=list)


def serve(options: Options) -> int:
    """Serves until a signal comes; returns the exit code.

    Raises:
        CommandError: it could not start or not go on.
    """
    configure_logging(options)
    sys.path.insert(0, options.app_dir)
    application = _load(options)
    loop_factory, loop = _choose_loop(options.loop)
    servers = _make_servers(options, application)
    # A process that is restarted on changes leaves SIGINT to the one that watches.
    signals = [signal.SIGTERM] if options.reload else [signal.SIGINT, signal.SIGTERM]
    try:
        for server in servers.values():
            server.bind()
        names = ", ".join(options.applications)
        logger.info("cyasgi %s serves %s (back end %s, loop %s)", __version__, names, backend, loop)
        began = time.monotonic()
        try:
            Supervisor(servers.values()).run(loop_factory=loop_factory, signals=signals)
        finally:
            for kind, server in servers.items():
                server.close()
                logger.info("stopped after %.1f s: %s: %s", time.monotonic() - began, kind, _counters(server))
    except OSError as error:
        raise CommandError(error.strerror or str(error)) from None
    finally:
        for server in servers.values():
            server.close()
    return 0


def configure_logging(options: Options) -> None:
    """Everything that is logged goes to the standard error."""
    logging.basicConfig(
        level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr, force=True
    )
    for name in options.ignored:
        logger.warning("%s is no option's environment variable", name)


def _load(options: Options) -> Any:
    loaded = []
    for path in options.applications:
        try:
            loaded.append(load_application(path, options.factory))
        except CommandError:
            raise
        except Exception as error:
            traceback.print_exception(type(error), error, their_part(error))
            raise CommandError(f"{path!r} could not be loaded: it raised {type(error).__name__}") from None
    return loaded[0]


def _make_servers(options: Options, application: Any) -> dict[str, Any]:
    """A server for each kind of listener that was asked for, with the limits that it has."""
    from .options import server_class

    servers = {}
    for kind, addresses in options.listeners.items():
        if not addresses:
            continue
        server = servers[kind] = server_class(kind)(application, binds=addresses)
        for attribute, value in options.limits.items():
            if hasattr(type(server), attribute):
                try:
                    setattr(server, attribute, value)
                except (TypeError, ValueError) as error:
                    raise CommandError(str(error), MISUSED) from None
    return servers


def _counters(server: Any) -> str:
    return " ".join(f"{name}={value}" for name, value in server.stats().items() if value or "datagrams" in name)


def _choose_loop(name: str) -> tuple[Callable[[], asyncio.AbstractEventLoop], str]:
    """What makes the event loop of that name, and the name; for auto, the one that is there."""
    if name != "asyncio":
        try:
            import uvloop
        except ImportError:
            if name == "uvloop":
                raise CommandError("--loop uvloop needs uvloop: pip install 'cyasgi[uvloop]'") from None
        else:
            return uvloop.new_event_loop, "uvloop"
    return asyncio.new_event_loop, "asyncio"
