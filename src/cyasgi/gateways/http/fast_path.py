"""The usual course of requests and responses: the compiled twin where the core is compiled, else the pure one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...core.backend import backend
from ._fast_exchange_py import ClientDisconnected as ClientDisconnected

if TYPE_CHECKING or backend == "python":
    from ._fast_connection_py import FastConnection as FastConnection
    from ._fast_exchange_py import FastExchange as FastExchange
else:
    from ._fast_path import FastConnection as FastConnection, FastExchange as FastExchange
