"""The drop-in switch as a Django application: `"cyasgi"` in INSTALLED_APPS."""

from __future__ import annotations

from types import ModuleType

from django.apps import AppConfig

from .install import install


class CyasgiConfig(AppConfig):  # type: ignore[misc]
    name = "cyasgi"
    verbose_name = "cyasgi"

    def __init__(self, app_name: str, app_module: ModuleType | None) -> None:
        # Not in ready(): this has to run before any application's models, and so Channels' worker, are imported.
        super().__init__(app_name, app_module)
        install()
