"""cyasgi: a faster, fault-free drop-in for asgiref.server.StatelessServer, and gateways built on it."""

from ._backend import ApplicationInstance, InstanceTable, backend
from ._calling import InstanceDeleted
from ._context import current_instance
from .install import install, uninstall
from .server import StatelessServer

__all__ = [
    "ApplicationInstance",
    "InstanceDeleted",
    "InstanceTable",
    "StatelessServer",
    "backend",
    "current_instance",
    "install",
    "uninstall",
]

__version__ = "0.1.0"
