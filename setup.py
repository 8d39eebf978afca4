"""Builds the Cython extensions; all metadata stands in pyproject.toml.

``CYASGI_EXTENSION`` says what a missing compiler means:

* ``required`` - a failed build fails the installation (CI and releases);
* ``optional`` - the default: install without it, the pure-Python twin serves;
* ``none`` - do not try.

``CYASGI_SANITIZE=address`` builds them for AddressSanitizer, which ends the program at the first use of memory that is
not its own.
"""

import os

from setuptools import setup

CHOICES = ("required", "optional", "none")
SANITIZERS = ("address",)
SOURCES = [
    "src/cyasgi/core/_core.pyx",
    "src/cyasgi/gateways/datagram/_batches.pyx",
    "src/cyasgi/gateways/http/_fast_path.pyx",
    "src/cyasgi/gateways/stream/_fast_path.pyx",
    "src/cyasgi/gateways/websocket/_fast_path.pyx",
    "src/cyasgi/wire/_headers.pyx",
    "src/cyasgi/wire/http/_head.pyx",
    "src/cyasgi/wire/websocket/_fast_path.pyx",
]


def extensions() -> list:
    wanted = os.environ.get("CYASGI_EXTENSION") or "optional"
    if wanted not in CHOICES:
        raise SystemExit(f"CYASGI_EXTENSION={wanted!r}: accepted are {', '.join(CHOICES)}")
    sanitizer = os.environ.get("CYASGI_SANITIZE") or None
    if sanitizer not in (None, *SANITIZERS):
        raise SystemExit(f"CYASGI_SANITIZE={sanitizer!r}: accepted is {', '.join(SANITIZERS)}")
    if wanted == "none":
        return []
    from Cython.Build import cythonize

    # include_path: where `cimport` finds the declarations of the package's own modules.
    modules = cythonize(SOURCES, include_path=["src"])
    for module in modules:
        # cythonize() drops the flag when it is given to Extension.
        module.optional = wanted == "optional"
        if sanitizer:
            flags = [f"-fsanitize={sanitizer}", "-fno-omit-frame-pointer", "-g", "-O1"]
            module.extra_compile_args += flags
            module.extra_link_args += flags
    return modules


setup(ext_modules=extensions())
