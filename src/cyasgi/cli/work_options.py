"""The options of ``cyasgi work``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from .._settings import Boolean, Bound
from ..core import Setting
from ..sources.channels import ChannelLayerServer
from ..sources.channels.redis.hosts import ACCEPTED, SCHEMES, parse_host, without_password
from .option import Option, parsed
from .options import shared_parameters
from .process_options import SHARED, bounded_option, lifespan_option

#: The prefix of the environment variables.
PREFIX = "CYASGI_WORK"
#: The options that set an attribute of the server: its name, how its values are called, and what it means.
LIMITS = (
    (
        "channel_concurrency",
        "NUMBER",
        "How many messages of one channel are processed at a time; 1 for strictly one after the other.",
    ),
    ("concurrency", "NUMBER", "How many messages of all channels are processed at a time, or none for no such limit."),
    ("message_timeout", "SECONDS", "Cancel an application that takes longer for a message, or none."),
    ("prefetch", "NUMBER", "How many messages of one channel may wait in this process."),
    ("max_message_size", "BYTES", "Maximum size of a message; larger ones are refused, and kept aside in Redis."),
    (
        "worker_timeout",
        "SECONDS",
        "How long a worker may be silent until others take over what it has not begun, and --workers replaces it.",
    ),
    ("reconnect", "", "Go on when the layer fails, and try again and again; or end with an error."),
    ("max_applications", "NUMBER", "Maximum number of instances at a time, or none; idle ones make room for others."),
    ("idle_timeout", "SECONDS", "Delete instances that have had no message for this long, or none."),
    ("shutdown_timeout", "SECONDS", "How long messages in hand may take when the worker stops."),
)


def parse_layer(text: str) -> Any:
    """Return an entry of `hosts` for a URL, and the text itself if it names an attribute of a module.

    Raises:
        ValueError: it is neither.
    """
    module, colon, attribute = text.partition(":")
    if colon and "/" not in text and all(part.isidentifier() for part in (*module.split("."), *attribute.split("."))):
        return text
    scheme, separator, _ = text.partition("://")
    if not separator or scheme not in SCHEMES:
        raise ValueError(f"{without_password(text)!r}: accepted are {ACCEPTED}; or MODULE:ATTRIBUTE")
    return parse_host(text)


def check_of(name: str) -> Bound:
    """Return what an attribute of the server accepts."""
    settings = (vars(cls).get(name) for cls in ChannelLayerServer.__mro__)
    found = next(setting for setting in settings if isinstance(setting, Setting))
    assert isinstance(found.check, Bound)
    return found.check


def parameters() -> list[click.Parameter]:
    """Return the parameters of ``cyasgi work``."""
    application = click.Argument(
        ["application"], metavar="MODULE:ATTRIBUTE", required=True, envvar=f"{PREFIX}_APPLICATION"
    )
    return [application, *_source(), *_limits(), lifespan_option(), *shared_parameters(*SHARED)]


def _source() -> Iterator[click.Option]:
    section = "Channels"
    yield Option(
        "--layer",
        section=section,
        multiple=True,
        required=True,
        metavar="URL",
        callback=parsed(parse_layer),
        help="The Redis of the channel layer: redis://HOST:PORT/DB, rediss:// with TLS, unix://PATH, or "
        "sentinel://HOST:PORT,HOST:PORT/MASTER. Given several times if the layer has several hosts, in the same order. "
        "Or MODULE:ATTRIBUTE, a channel layer of any kind.",
    )
    yield Option(
        "--channel",
        section=section,
        multiple=True,
        required=True,
        metavar="NAME",
        help="A channel to receive from. May be given several times.",
    )
    yield Option(
        "--prefix",
        section=section,
        metavar="TEXT",
        default="asgi",
        show_default=True,
        help="What the names of the layer's keys in Redis begin with.",
    )


def _limits() -> Iterator[click.Option]:
    section = "Limits"
    for name, metavar, text in LIMITS:
        option, default = f"--{name.replace('_', '-')}", getattr(ChannelLayerServer, name)
        bound = check_of(name)
        if isinstance(bound, Boolean):
            both = f"{option}/--no-{name}"
            yield Option(both, section=section, help=text, default=default, show_default=True)
            continue
        yield bounded_option(section, option, metavar, bound, default, text)
