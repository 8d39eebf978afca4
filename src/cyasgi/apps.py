"""Django's way to the drop-in: `"cyasgi"` in INSTALLED_APPS."""

from __future__ import annotations

from types import ModuleType

from django.apps import AppConfig

from .install import install


class CyasgiConfig(AppConfig):  # type: ignore[misc]
    name = "cyasgi"
    verbose_name = "cyasgi"

    def __init__(self, app_name: str, app_module: ModuleType | None) -> None:
        # Here and not in ready(): before any application's models, and so before Channels' worker, is imported.
        super().__init__(app_name, app_module)
        install()
