"""Modules under the names that they had up to 0.1: importing one warns, and gives the module that has its content."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.abc import Loader
else:
    # A tenth of the time of importing cyasgi went into `importlib.abc`, which needs half the standard library.
    Loader = object

#: The old name and the new one, both within the package.
MOVED = {
    "gateways.accepting": "gateways.net.accepting",
    "gateways.deadlines": "gateways.net.deadlines",
    "gateways.descriptors": "gateways.net.descriptors",
    "gateways.feeding": "gateways.net.queue_room",
    "gateways.http_exchange": "gateways.http.exchange",
    "gateways.http_protocol": "gateways.http.protocol",
    "gateways.own_addresses": "gateways.net.own_addresses",
    "gateways.rate_limited_log": "gateways.net.rate_limited_log",
    "gateways.sockets": "gateways.net.sockets",
    "gateways.tls": "gateways.net.tls",
    "gateways.websocket_protocol": "gateways.websocket.protocol",
    "wire.http_body": "wire.http.body",
    "wire.http_request": "wire.http.request",
    "wire.http_response": "wire.http.response",
    "wire.websocket_frames": "wire.websocket.frames",
    "wire.websocket_handshake": "wire.websocket.handshake",
}


class MovedModules(Loader):
    """Find what nothing else finds: it stands last in `sys.meta_path`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        if package != "cyasgi" or name not in MOVED:
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def create_module(self, spec: ModuleSpec) -> None:
        """Have the import system make the module."""

    def exec_module(self, module: ModuleType) -> None:
        package, _, name = module.__name__.partition(".")
        new = f"{package}.{MOVED[name]}"
        warnings.warn(f"{module.__name__} has moved to {new}", DeprecationWarning, stacklevel=2)
        # What is found there after this is what the import statement gives.
        sys.modules[module.__name__] = importlib.import_module(new)


def install() -> None:
    """Add the finder of old names to `sys.meta_path`, once in a process."""
    if not any(type(finder).__qualname__ == MovedModules.__qualname__ for finder in sys.meta_path):
        sys.meta_path.append(MovedModules())
