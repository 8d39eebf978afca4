"""The usual course of a WebSocket's connection: the compiled twin where the core is compiled, else the pure one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...core.backend import backend

if TYPE_CHECKING or backend == "python":
    from ._fast_connection_py import FastConnection as FastConnection
else:
    from ._fast_path import FastConnection as FastConnection
