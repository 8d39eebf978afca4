"""Header lines, in and out: the compiled twin where the core is compiled, else the pure one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.backend import backend

if TYPE_CHECKING or backend == "python":
    from ._headers_py import RequestHeaders as RequestHeaders, encode_lines as encode_lines
else:
    from ._headers import RequestHeaders as RequestHeaders, encode_lines as encode_lines
