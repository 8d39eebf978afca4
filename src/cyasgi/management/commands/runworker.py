"""``manage.py runworker`` of Channels, with a `ChannelLayerServer` for a worker."""

from __future__ import annotations

import difflib
from typing import Any

from django.conf import settings
from django.core.management import CommandError

from ...core import Setting
from ...sources.channels import ChannelLayerServer, LayerError

try:
    from channels.management.commands.runworker import Command as RunWorker
except ModuleNotFoundError as error:
    if error.name is None or not error.name.startswith("channels"):
        raise
    raise CommandError("runworker needs channels: pip install channels") from None

#: What `CYASGI` in Django's settings may set.
NAMES = sorted(
    name for cls in ChannelLayerServer.__mro__ for name, value in vars(cls).items() if isinstance(value, Setting)
)


class Command(RunWorker):  # type: ignore[misc]
    """Run a worker for channels: `CYASGI` in the settings has attributes of `ChannelLayerServer`, as a dict."""

    help = "Runs the application for messages on channels of the channel layer, by cyasgi."
    server_class = ChannelLayerServer

    def handle(self, *args: Any, **options: Any) -> None:
        # The command that this one is derived from calls it, and runs what it returns.
        self.worker_class = self.make_server
        try:
            super().handle(*args, **options)
        except LayerError as error:
            raise CommandError(str(error)) from None

    def make_server(self, **arguments: Any) -> ChannelLayerServer:
        """Return the worker, with the attributes that the settings have for it."""
        try:
            server = self.server_class(**arguments)
        except (TypeError, ValueError) as error:
            raise CommandError(str(error)) from None
        for name, value in attributes(getattr(settings, "CYASGI", {})).items():
            try:
                setattr(server, name, value)
            except (TypeError, ValueError) as error:
                raise CommandError(f"CYASGI in the settings: {error}") from None
        return server


def attributes(configured: Any) -> dict[str, Any]:
    """Return what the setting `CYASGI` sets, by the names of attributes.

    Raises:
        CommandError: it is no dict, or has a name that is not known.
    """
    if not isinstance(configured, dict):
        raise CommandError(f"CYASGI={configured!r} in the settings: accepted is a dict of {', '.join(NAMES)}")
    for name in configured:
        if name not in NAMES:
            similar = difflib.get_close_matches(str(name).lower(), NAMES, 1, 0.75)
            meant = f"did you mean {similar[0]!r}?" if similar else f"accepted are {', '.join(NAMES)}"
            raise CommandError(f"CYASGI in the settings: unknown name {name!r}; {meant}")
    return configured
