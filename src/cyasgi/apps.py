"""The drop-in switch as a Django application: `"cyasgi"` in INSTALLED_APPS, wherever it stands there."""

from __future__ import annotations

from types import ModuleType

from django.apps import AppConfig
from django.core.management import get_commands

from .install import install


class CyasgiConfig(AppConfig):  # type: ignore[misc]
    name = "cyasgi"
    verbose_name = "cyasgi"

    def __init__(self, app_name: str, app_module: ModuleType | None) -> None:
        # Not in ready(): this has to run before any application's models, and so Channels' worker, are imported.
        super().__init__(app_name, app_module)
        install()

    def ready(self) -> None:
        """Have `manage.py runworker` be cyasgi's, where Django would find that of Channels first."""
        # The mapping is made once, and kept.
        commands = get_commands()
        if commands.get("runworker") == "channels":
            commands["runworker"] = self.name
