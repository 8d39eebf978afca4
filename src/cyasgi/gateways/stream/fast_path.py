"""The usual course of streams: the compiled twin where the core is compiled, else the pure one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...core.backend import backend

if TYPE_CHECKING or backend == "python":
    from ._fast_path_py import (
        FastConnection as FastConnection,
        FastSession as FastSession,
        Traffic as Traffic,
        give as give,
    )
else:
    from ._fast_path import (
        FastConnection as FastConnection,
        FastSession as FastSession,
        Traffic as Traffic,
        give as give,
    )
