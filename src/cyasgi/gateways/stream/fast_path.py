"""The twin that was chosen of what is compiled of streams."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...core.backend import backend

if TYPE_CHECKING or backend == "python":
    from ._fast_path_py import give as give
else:
    from ._fast_path import give as give
