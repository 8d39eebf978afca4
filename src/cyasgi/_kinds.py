"""Any kind of ASGI application as one that is called with (scope, receive, send).

A signature is no evidence: `functools.wraps`, `__signature__` and mocks give a callable that of another. What asgiref
takes for a single callable is one. Of the rest, only a Python function's own code tells for certain what it takes;
whatever stays open is decided by the first call.
"""

from __future__ import annotations

import inspect
import re
import types
from typing import Any, cast

from asgiref.compatibility import double_to_single_callable, is_double_callable

from ._calling import Application

#: What CPython says of arguments that do not fit.
_ABOUT_ARGUMENTS = re.compile(r"\b(takes|missing) .*arguments?\b")


def as_single_callable(application: Any) -> Application:
    """Any kind of ASGI application as one that is called with (scope, receive, send) by position.

    A call that fails, also because the application takes other arguments, fails as a run of it does.

    Raises:
        TypeError: it is not callable.
    """
    if not callable(application):
        raise TypeError(f"application={application!r}: accepted is an ASGI application, a callable")
    if not is_double_callable(application):
        return cast(Application, application)
    if getattr(application, "_asgi_double_callable", False) or inspect.isclass(application):
        return cast(Application, double_to_single_callable(application))
    three, one = _takes(application, 3), _takes(application, 1)
    if three and one is False:
        return cast(Application, application)
    if one and three is False:
        return cast(Application, double_to_single_callable(application))
    return _Undecided(application)


def takes_neither(application: Any) -> bool:
    """Whether it is certain that it can be called neither with (scope, receive, send) nor with (scope)."""
    return _takes(application, 3) is False and _takes(application, 1) is False


def _takes(application: Any, count: int) -> bool | None:
    """Whether a Python function or method can be called with so many arguments; None where only a call can tell."""
    if isinstance(application, types.FunctionType):
        function, given = application, count
    elif isinstance(application, types.MethodType) and isinstance(application.__func__, types.FunctionType):
        function, given = application.__func__, count + 1
    elif isinstance(call := inspect.getattr_static(type(application), "__call__"), types.FunctionType):
        function, given = call, count + 1
    else:
        return None
    code = function.__code__
    if code.co_flags & inspect.CO_VARARGS:
        # It passes on what it gets.
        return None
    required = code.co_argcount - len(function.__defaults__ or ())
    named = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    return required <= given <= code.co_argcount and set(named) <= set(function.__kwdefaults__ or ())


def _refused(error: TypeError) -> bool:
    """Whether the callable, or what it passes all of its arguments on to, did not take them; else it has failed by
    itself, and is not to be called again."""
    assert error.__traceback__ is not None
    passing = error.__traceback__.tb_next
    if passing is not None and not _ABOUT_ARGUMENTS.search(str(error)):
        return False
    while passing is not None and passing.tb_frame.f_code.co_flags & inspect.CO_VARARGS:
        passing = passing.tb_next
    return passing is None


class _Undecided:
    """A plain callable that may be a single or a double one, as its first call tells."""

    __slots__ = ("_application", "_single")
    _asgi_single_callable = True

    def __init__(self, application: Any) -> None:
        self._application = application
        self._single: bool | None = None

    def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        application = self._application
        if self._single is False:
            return application(scope)(receive, send)
        try:
            result = application(scope, receive, send)
        except TypeError as error:
            if self._single or not _refused(error):
                raise
            try:
                instance = application(scope)
            except TypeError as another:
                # The first one says what most people have meant.
                raise error if _refused(another) else another from None
            self._single = False
            return instance(receive, send)
        if not inspect.isawaitable(result) and callable(result):
            # A double callable behind something that passes on whatever it gets.
            return result(receive, send)
        self._single = True
        return result
