"""The table, its instances and their queues: compiled where the extension was built, else its pure-Python twin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .backend import backend

if TYPE_CHECKING or backend == "python":
    from ._py import (
        SAMPLER as SAMPLER,
        SENT as SENT,
        ApplicationInstance as ApplicationInstance,
        FastPath as FastPath,
        ForeignEntry as ForeignEntry,
        InstanceTable as InstanceTable,
        Pass as Pass,
        Run as Run,
        Setting as Setting,
        get_or_create_application_instance as get_or_create_application_instance,
    )
else:
    from ._core import (
        SAMPLER as SAMPLER,
        SENT as SENT,
        ApplicationInstance as ApplicationInstance,
        FastPath as FastPath,
        ForeignEntry as ForeignEntry,
        InstanceTable as InstanceTable,
        Pass as Pass,
        Run as Run,
        Setting as Setting,
        get_or_create_application_instance as get_or_create_application_instance,
    )
