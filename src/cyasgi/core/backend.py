"""The only place that chooses between what is compiled and its pure-Python twin.

`CYASGI_BACKEND` may be `cython` (a missing extension is an error), `python` (the twin) or unset or empty: the
extension where it was built, else the twin. An extension that is there but cannot be loaded is an error, never a
reason to fall back.
"""

from __future__ import annotations

import importlib.util
import os

CHOICES = ("cython", "python")


def _choose() -> str:
    wanted = os.environ.get("CYASGI_BACKEND", "")
    if wanted not in ("", *CHOICES):
        raise ImportError(f"CYASGI_BACKEND={wanted!r}: accepted are {', '.join(CHOICES)}, or nothing for either")
    built = importlib.util.find_spec("cyasgi.core._core") is not None
    if wanted == "cython" and not built:
        raise ImportError("CYASGI_BACKEND='cython', but the extension module cyasgi.core._core was not built")
    return wanted or ("cython" if built else "python")


backend = _choose()
