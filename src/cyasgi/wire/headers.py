"""Headers, in and out: the compiled twin where the core is compiled, else the pure one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.backend import backend
from ._headers_py import (
    CLOSE as CLOSE,
    FRAMING as FRAMING,
    OWN_DATE as OWN_DATE,
    OWN_NAMES as OWN_NAMES,
    OWN_SERVER as OWN_SERVER,
    TOKEN as TOKEN,
)

if TYPE_CHECKING or backend == "python":
    from ._headers_py import RequestHeaders as RequestHeaders, encode_lines as encode_lines
else:
    from ._headers import RequestHeaders as RequestHeaders, encode_lines as encode_lines
