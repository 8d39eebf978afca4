"""The attributes that tune a server: checked when set, on instances and in the class bodies of subclasses alike."""

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
#: What a command accepts for `application_checker_interval`. The attribute takes anything, as the reference's does, and
#: is clamped to this where it is used.
CHECKER_INTERVAL = Number("number of seconds", least=INTERVAL_LEAST, most=INTERVAL_MOST)


def clamped_interval(value: Any) -> float:
    """`application_checker_interval` as it is used: never an error, always a sensible number of seconds."""
    if not number(value) or math.isnan(seconds := as_float(value)):
        return INTERVAL_DEFAULT
    return min(max(seconds, INTERVAL_LEAST), INTERVAL_MOST)


def segments_changed(server: Any) -> None:
    """The policy, or the bound of the protected segment: for a table that is there already."""
    life = server.__dict__.get("_cyasgi")
    if life is not None:
        life.table.follow(server)


def adopt_class_settings(cls: type) -> None:
    """Checks what a subclass's body assigns to a setting, and keeps it checked when it is set on instances."""
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
