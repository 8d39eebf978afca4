"""Why an application failed: because its client had gone, or for a reason of its own."""

from __future__ import annotations


def caused_by(error: BaseException, kind: type[BaseException]) -> bool:
    """Return whether `error` is of this kind, or has one among its causes, contexts and members of groups."""
    seen: set[int] = set()
    errors: list[BaseException | None] = [error]
    while errors:
        one = errors.pop()
        if one is None or id(one) in seen:
            continue
        if isinstance(one, kind):
            return True
        seen.add(id(one))
        errors += one.__cause__, one.__context__
        if isinstance(one, BaseExceptionGroup):
            errors += one.exceptions
    return False
