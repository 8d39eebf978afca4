"""The options of ``cyasgi consume`` that ``cyasgi serve`` does not have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import click

from .._settings import Bound, Integer
from ..core import Setting
from ..sources.queue.engines import engine_of
from ..sources.queue.server import MOST_PARTITIONS, QueueServer
from ..wire.queue import check_name
from .option import Option, parsed
from .options import shared_parameters
from .process_options import SHARED, bounded_option, lifespan_option

#: The engine where no other is named.
MEMORY = "memory:"
PARTITIONS = Integer(1, MOST_PARTITIONS)


class Attribute(NamedTuple):
    """An option that sets an attribute of `QueueServer`, with that attribute's bounds and default."""

    attribute: str
    metavar: str
    text: str

    @property
    def bound(self) -> Bound:
        """What the attribute accepts."""
        setting = next(vars(cls)[self.attribute] for cls in QueueServer.__mro__ if self.attribute in vars(cls))
        assert isinstance(setting, Setting)
        assert isinstance(setting.check, Bound)
        return setting.check


ATTRIBUTES = (
    Attribute(
        "prefetch",
        "NUMBER",
        "How many messages of one partition the broker may deliver before earlier ones are acknowledged.",
    ),
    Attribute(
        "max_deliveries",
        "NUMBER",
        "How often the application may fail with a message, in one worker, before it goes to the dead letters.",
    ),
    Attribute(
        "retry_delay",
        "SECONDS",
        "When to try a message again with which the application has failed; doubled with each failure, up to 60.",
    ),
    Attribute(
        "max_message_size",
        "BYTES",
        "Maximum size of a message; larger ones go to the dead letters.",
    ),
    Attribute(
        "balance_interval",
        "SECONDS",
        "How often to look at how many workers there are, and who holds what.",
    ),
    Attribute(
        "reply_exchange",
        "NAME",
        "Where answers go to messages that do not say where, or none.",
    ),
    Attribute(
        "acknowledgement",
        "WHO",
        "automatic: a message is done when the application receives the next one, or returns. manual: when it says so.",
    ),
    Attribute(
        "idle_timeout",
        "SECONDS",
        "Delete instances that have been idle for this long, or none.",
    ),
    Attribute(
        "shutdown_timeout",
        "SECONDS",
        "How long applications may take to finish the messages that they have, when the command stops or a partition "
        "moves.",
    ),
)
#: The attribute that is a parameter of the class.
MOST_INSTANCES = Attribute(
    "max_applications",
    "NUMBER",
    "Maximum number of instances at a time, or none. Further scopes evict idle ones.",
)
MOST_INSTANCES_DEFAULT = 10_000


def consume_parameters() -> list[click.Parameter]:
    """Return the parameters of ``cyasgi consume``."""
    shared = shared_parameters(*SHARED, "worker_timeout")
    return [
        click.Argument(["words"], metavar="[memory:] MODULE:ATTRIBUTE", nargs=-1, required=True),
        *_queue(),
        *_attributes(),
        lifespan_option(),
        *shared,
    ]


def _queue() -> Iterator[click.Option]:
    section = "Queue"
    yield Option(
        "--amqp",
        section=section,
        metavar="URL",
        callback=parsed(_parse_amqp),
        help="Take messages from RabbitMQ, as in amqp://user:password@127.0.0.1:5672/vhost. Others can read a command "
        "line: better set it in the environment.",
    )
    yield Option(
        "--name",
        section=section,
        metavar="NAME",
        default="queue",
        show_default=True,
        callback=parsed(_parse_name),
        help="The name of the queue, which is made if there is none.",
    )
    yield Option(
        "--partitions",
        section=section,
        metavar="NUMBER",
        default="32",
        show_default=True,
        callback=parsed(PARTITIONS.parse),
        help="In how many parts the queue is spread over workers: at least as many as there will ever be. The same for "
        "all workers, and for the life of the queue.",
    )


def _attributes() -> Iterator[click.Option]:
    for one in (*ATTRIBUTES, MOST_INSTANCES):
        bound = one.bound
        value = MOST_INSTANCES_DEFAULT if one is MOST_INSTANCES else getattr(QueueServer, one.attribute)
        option = f"--{one.attribute.replace('_', '-')}"
        yield bounded_option("Limits", option, one.metavar, bound, value, one.text)


def _parse_amqp(text: str) -> Any:
    if not text.startswith(("amqp://", "amqps://")):
        raise ValueError("accepted is a URL as in amqp://user:password@127.0.0.1:5672/vhost")
    return engine_of(text)


def _parse_name(text: str) -> str:
    return check_name(text, "the name of a queue", least=1)
