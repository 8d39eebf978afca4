"""cyasgi: a faster, fault-free drop-in for asgiref.server.StatelessServer, and gateways built on it."""

from . import _moved
from .core import ApplicationInstance, InstanceTable
from .core.backend import backend
from .core.caller import InstanceDeleted
from .core.context import current_instance
from .core.full import TableFull
from .core.tracking import Tracked
from .install import install, uninstall
from .server import StatelessServer

__all__ = [
    "ApplicationInstance",
    "InstanceDeleted",
    "InstanceTable",
    "StatelessServer",
    "TableFull",
    "Tracked",
    "backend",
    "current_instance",
    "install",
    "uninstall",
]

_moved.install()

__version__ = "0.2.0"
