"""The kinds of application that a server takes, made one."""

from __future__ import annotations

import inspect
from typing import Any, cast

from asgiref.compatibility import double_to_single_callable, guarantee_single_callable

from ._calling import Application


def as_single_callable(application: Any) -> Application:
    """Any kind of ASGI application as one that is called with (scope, receive, send) by position.

    Raises:
        TypeError: it cannot be called with (scope, receive, send) nor, in the style of ASGI 2, with (scope).
    """
    if not callable(application):
        raise TypeError(f"application={application!r}: accepted is an ASGI application, a callable")
    single = guarantee_single_callable(application)
    if single is application:
        if not _takes(application, 3):
            raise TypeError(f"application={application!r}: it cannot be called with (scope, receive, send)")
        return cast(Application, single)
    if not getattr(application, "_asgi_double_callable", False) and _takes(application, 3):
        # A plain callable that returns an awaitable, which the hint-less rule takes for a double callable.
        return cast(Application, application)
    if not _takes(application, 1):
        raise TypeError(
            f"application={application!r}: it cannot be called with (scope, receive, send), nor with (scope)"
        )
    return cast(Application, double_to_single_callable(application))


def _takes(function: Any, count: int) -> bool:
    try:
        inspect.signature(function).bind(*(None,) * count)
    except TypeError:
        return False
    except ValueError:
        # A callable without a signature, made in C: only a call can tell.
        return True
    return True
