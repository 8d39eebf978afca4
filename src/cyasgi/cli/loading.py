"""Loading of the application that the caller names."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from types import TracebackType
from typing import Any

from ..asgi_compat import takes, takes_neither
from .errors import MISUSED, CommandError

#: Files in this directory are left out of tracebacks.
OURS = os.path.dirname(__file__) + os.sep


def load_application(path: str, factory: bool = False) -> Any:
    """Return the application that ``module:attribute`` names; the attribute may be dotted.

    Args:
        factory: whether to call the attribute without arguments to get the application.

    Raises:
        CommandError: `path` does not name an application. What the module raises when it is imported, or the factory
            when it is called, is passed on.
    """
    found: Any = load_attribute(path)
    if factory:
        if inspect.iscoroutinefunction(found):
            raise CommandError(f"{path!r} is an async def, but a factory must return the application at once", MISUSED)
        if not callable(found) or takes(found, 0) is False:
            raise CommandError(f"{path!r} is not a factory, which is called without arguments: {found!r}", MISUSED)
        found = found()
        if inspect.iscoroutine(found):
            found.close()
            raise CommandError(f"{path!r} returned a coroutine, but a factory must return the application", MISUSED)
        path = f"{path}()"
    if not callable(found):
        raise CommandError(f"{path!r} is not an application: {found!r} is not callable", MISUSED)
    if takes_neither(found):
        hint = "; is it a factory (--factory)?" if takes(found, 0) and not factory else ""
        raise CommandError(
            f"{path!r} is not an application: it takes neither (scope, receive, send) nor, as in ASGI 2, (scope){hint}",
            MISUSED,
        )
    return found


def load_attribute(path: str) -> Any:
    """Return what ``module:attribute`` names, whatever it is; the attribute may be dotted.

    Raises:
        CommandError: `path` does not name an attribute of a module. What the module raises when it is imported is
            passed on.
    """
    name, _, attribute = path.partition(":")
    if name.endswith(".py") or "/" in name or os.sep in name:
        raise CommandError(f"{path!r}: name the module, not its file, as in package.module:attribute", MISUSED)
    if not all(part.isidentifier() for part in (*name.split("."), *attribute.split("."))):
        raise CommandError(f"{path!r} is not MODULE:ATTRIBUTE, as in cyasgi.examples:echo", MISUSED)
    found: Any = _import(name)
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise CommandError(f"{path!r}: {name!r} has no attribute {attribute!r}", MISUSED) from None
    return found


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if name.startswith("cyasgi.") and error.name != name:
            # Our own modules say which extra has the missing library.
            raise CommandError(str(error)) from None
        wanted = error.name or ""
        if (name == wanted or name.startswith(f"{wanted}.")) and their_part(error) is None:
            raise CommandError(f"there is no module {wanted!r} (looked for in {sys.path[0]} first)", MISUSED) from None
        raise


def their_part(error: BaseException) -> TracebackType | None:
    """Return the traceback of an error from the first frame that belongs neither to us nor to the import system."""
    part = error.__traceback__
    while part is not None:
        filename = part.tb_frame.f_code.co_filename
        if (
            not filename.startswith(OURS)
            and not filename.startswith("<frozen importlib")
            and filename != importlib.__file__
        ):
            return part
        part = part.tb_next
    return None


def print_their_part(error: BaseException) -> None:
    """Print an error with `their_part` of its traceback to the standard error."""
    part = their_part(error)
    try:
        traceback.print_exception(type(error), error, part)
    except Exception:
        # From Python 3.15 on, this imports the package again in which a module is missing, and that may fail again.
        traceback.print_tb(part)
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
