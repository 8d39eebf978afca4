"""Adapts any kind of ASGI application to a callable of (scope, receive, send).

Signatures cannot be trusted: `functools.wraps`, `__signature__` and mocks give a callable the signature of another one.
Whatever asgiref takes for a single callable is one. For the rest, only a Python function's own code says for certain
what it accepts; whatever remains open is decided by the first call.
"""

from __future__ import annotations

import inspect
import re
from functools import partial
from inspect import Parameter, Signature
from types import FunctionType, MethodType
from typing import Any, cast

from asgiref.compatibility import double_to_single_callable, is_double_callable

from ._types import Application

#: CPython's messages about arguments that do not fit.
_ABOUT_ARGUMENTS = re.compile(r"\b(takes|missing) .*arguments?\b|\bvalues to unpack\b")
_NAMES = ("scope", "receive", "send")


def as_single_callable(application: Any, tells_version: bool = False) -> Application:
    """Adapt any kind of ASGI application to a callable that takes (scope, receive, send) by position.

    A call that fails, also because the application takes other arguments, fails like a run of the application.

    Args:
        tells_version: whether ``scope["asgi"]`` says version 2 to an application that is called as in ASGI 2.

    Raises:
        TypeError: the application is not callable.
    """
    if not callable(application):
        raise TypeError(f"application={application!r}: accepted is an ASGI application, a callable")
    signature = _own_signature(application)
    if not is_double_callable(application):
        by_name = signature is not None and not _fits(signature, 3) and _fits_by_name(signature)
        return _called_by_name(application) if by_name else cast(Application, application)
    if getattr(application, "_asgi_double_callable", False):
        return _called_twice(application, tells_version)
    if signature is None:
        if inspect.isclass(application):
            return _called_twice(application, tells_version)
        return _Undecided(application, tells_version)
    three, one = _fits(signature, 3), _fits(signature, 1)
    if three and (not one or tuple(signature.parameters)[1:3] == _NAMES[1:]):
        return cast(Application, application)
    if not three:
        return _called_twice(application, tells_version)
    return _Undecided(application, tells_version, optional=True)


def takes(application: Any, count: int) -> bool | None:
    """Return whether the application takes this many arguments by position; None if only a call can tell."""
    signature = _own_signature(application)
    return None if signature is None else _fits(signature, count)


def takes_neither(application: Any) -> bool:
    """Return whether the application certainly takes neither (scope, receive, send) nor (scope)."""
    signature = _own_signature(application)
    return signature is not None and not (_fits(signature, 3) or _fits(signature, 1) or _fits_by_name(signature))


def _fits(signature: Signature, count: int) -> bool:
    try:
        signature.bind(*(None,) * count)
    except TypeError:
        return False
    return True


def _fits_by_name(signature: Signature) -> bool:
    """Return whether it can be called as the reference calls single callables: by name."""
    try:
        signature.bind(**dict.fromkeys(_NAMES))
    except TypeError:
        return False
    return True


def _called_by_name(application: Any) -> Application:
    async def by_name(scope: Any, receive: Any, send: Any) -> Any:
        return await application(scope=scope, receive=receive, send=send)

    return by_name


def _called_twice(application: Any, tells_version: bool) -> Application:
    if not tells_version:
        return cast(Application, double_to_single_callable(application))

    async def told(scope: Any, receive: Any, send: Any) -> Any:
        _tell_version_2(scope)
        return await application(scope)(receive, send)

    return told


def _tell_version_2(scope: Any) -> Any:
    """Set the version in ``scope["asgi"]`` to 2, and return what was there."""
    asgi = scope.get("asgi") if isinstance(scope, dict) else None
    if isinstance(asgi, dict) and "version" in asgi:
        # The inner dict may be shared with the scope of another application.
        scope["asgi"] = {**asgi, "version": "2.0"}
    return asgi


def _own_signature(application: Any) -> Signature | None:
    """Return the signature that the code of a Python callable has; None if only a call can tell."""
    try:
        bare = _bare(application)
        signature = None if bare is None else inspect.signature(bare)
    except ValueError:
        # It takes fewer arguments than are bound to it.
        return None
    if signature is None or any(one.kind is Parameter.VAR_POSITIONAL for one in signature.parameters.values()):
        # It passes its arguments on.
        return None
    return signature


def _bare(application: Any) -> Any:
    """Return a copy without claims about itself, for its signature only; None if that cannot be known."""
    if type(application) is FunctionType:
        bare = FunctionType(application.__code__, {}, "", application.__defaults__, application.__closure__)
        bare.__kwdefaults__ = application.__kwdefaults__
        return bare
    if type(application) is MethodType:
        return _bound(application.__func__, application.__self__)
    if type(application) is partial:
        bare = _bare(application.func)
        return None if bare is None else partial(bare, *application.args, **application.keywords)
    if not isinstance(application, type):
        return _bound(inspect.getattr_static(type(application), "__call__"), application)
    cls: Any = application
    if type(cls).__call__ is not type.__call__:
        return None
    made, initialised = cls.__new__, inspect.getattr_static(cls, "__init__")
    if made is object.__new__:
        return _bound(initialised, cls)
    return _bound(made, cls) if initialised is object.__init__ else None


def _bound(function: Any, owner: Any) -> Any:
    if function is object.__init__:
        return lambda: None
    return MethodType(_bare(function), owner) if type(function) is FunctionType else None


def _refused(error: Exception) -> bool:
    """Return whether the arguments were not accepted, by the callable or by what it passes all of them on to.

    Otherwise the callable has failed by itself, and must not be called again.
    """
    assert error.__traceback__ is not None
    passing = error.__traceback__.tb_next
    if not (passing is None and isinstance(error, TypeError)) and not _ABOUT_ARGUMENTS.search(str(error)):
        return False
    while passing is not None and passing.tb_frame.f_code.co_flags & inspect.CO_VARARGS:
        passing = passing.tb_next
    return passing is None


class _Undecided:
    """A callable of which only the first call tells whether it is a single or a double one.

    Args:
        tells_version: as for `as_single_callable`.
        optional: whether it takes the scope alone as well as all three arguments. The reference takes it for a double
            callable then; so it is one here, unless it returns an awaitable when called with the scope alone.
    """

    __slots__ = ("_application", "_optional", "_single", "_tells_version")
    _asgi_single_callable = True

    def __init__(self, application: Any, tells_version: bool, optional: bool = False) -> None:
        self._application = application
        self._tells_version = tells_version
        self._optional = optional
        self._single: bool | None = None

    def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        application = self._application
        if self._single is None and self._optional:
            before = _tell_version_2(scope) if self._tells_version else None
            result = application(scope)
            self._single = inspect.isawaitable(result) and not callable(result)
            if not self._single:
                return result(receive, send)
            _discard(result)
            if before is not None:
                scope["asgi"] = before
        if self._single is False:
            if self._tells_version:
                _tell_version_2(scope)
            return application(scope)(receive, send)
        try:
            result = application(scope, receive, send)
        except (TypeError, ValueError) as error:
            if self._single or not _refused(error):
                raise
            try:
                if self._tells_version:
                    _tell_version_2(scope)
                instance = application(scope)
            except (TypeError, ValueError) as another:
                # The first error is about the usual way to call an application.
                raise error if _refused(another) else another from None
            self._single = False
            return instance(receive, send)
        if not inspect.isawaitable(result) and callable(result):
            # A double callable behind something that passes its arguments on.
            if self._tells_version:
                _tell_version_2(scope)
            return result(receive, send)
        self._single = True
        return result


def _discard(awaitable: Any) -> None:
    """Close or cancel the awaitable that a call with the scope alone has returned."""
    end = getattr(awaitable, "close", None) or getattr(awaitable, "cancel", None)
    if callable(end):
        end()
