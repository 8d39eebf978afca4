"""Bounds of the attributes that tune a server, and the checks of values set by subclasses."""

from __future__ import annotations

import math
from typing import Any

from .._settings import (
    Choice,
    Integer,
    Number,
    RootPath,
    as_float,
    number,
)
from . import Setting
from .constants import (
    HOOK,
    POLICIES,
    SUCCESSOR,
)

#: Bounds and default of `application_checker_interval`, in seconds.
INTERVAL_DEFAULT = 0.1
INTERVAL_LEAST = 0.001
INTERVAL_MOST = 3600.0


MAX_APPLICATIONS = Integer(1, none="no limit")
MAX_QUEUE_SIZE = Integer(0, zero="no bound")
IDLE_TIMEOUT = Number("number of seconds", none="never")
SHUTDOWN_TIMEOUT = Number("number of seconds", least=0)
EVICTION_POLICY = Choice(POLICIES)
UNDELIVERED_TO = Choice((HOOK, SUCCESSOR))
STARTUP_TIMEOUT = Number("number of seconds", none="no limit")
ROOT_PATH = RootPath()
#: What the command accepts for `application_checker_interval`. The attribute accepts anything, like the reference's,
#: and is clamped to this range where it is used.
CHECKER_INTERVAL = Number("number of seconds", least=INTERVAL_LEAST, most=INTERVAL_MOST)


def clamped_interval(value: Any) -> float:
    """Return a sensible number of seconds for any `application_checker_interval`; never raise."""
    if not number(value) or math.isnan(seconds := as_float(value)):
        return INTERVAL_DEFAULT
    return min(max(seconds, INTERVAL_LEAST), INTERVAL_MOST)


def segments_changed(server: Any) -> None:
    """Apply a changed policy, or size of the protected segment, to a table that exists already."""
    manager = server.__dict__.get("_cyasgi")
    if manager is not None:
        manager.table.follow(server)


def adopt_class_settings(cls: type) -> None:
    """Check what the body of a subclass assigns to settings, and keep it a setting, checked on instances as well."""
    for name, value in list(vars(cls).items()):
        if hasattr(type(value), "__get__"):
            continue
        settings = (vars(base).get(name) for base in cls.__mro__[1:])
        inherited = next((setting for setting in settings if isinstance(setting, Setting)), None)
        if inherited is not None:
            inherited.check(name, value)
            setting = Setting(value, inherited.check, inherited.changed)
            setting.__set_name__(cls, name)
            setattr(cls, name, setting)
