"""Builds the Cython extensions; all metadata stands in pyproject.toml.

``CYASGI_EXTENSION`` says what a missing compiler means:

* ``required`` - a failed build fails the installation (CI and releases);
* ``optional`` - the default: install without it, the pure-Python twin serves;
* ``none`` - do not try.
"""

import os

from setuptools import setup

CHOICES = ("required", "optional", "none")


def extensions() -> list:
    wanted = os.environ.get("CYASGI_EXTENSION") or "optional"
    if wanted not in CHOICES:
        raise SystemExit(f"CYASGI_EXTENSION={wanted!r}: accepted are {', '.join(CHOICES)}")
    if wanted == "none":
        return []
    from Cython.Build import cythonize

    modules = cythonize(["src/cyasgi/_core.pyx", "src/cyasgi/wire/_headers.pyx"])
    for module in modules:
        # cythonize() drops the flag when it is given to Extension.
        module.optional = wanted == "optional"
    return modules


setup(ext_modules=extensions())
