"""The command: ``cyasgi serve --udp 127.0.0.1:9999 cyasgi.examples:echo``, also ``python -m cyasgi``.

Exit codes:

* 0 - it served, and stopped on SIGINT or SIGTERM;
* 1 - it could not start or continue: an address that is taken or not permitted, a missing library, a module that raised
  when it was imported (its traceback is shown), an application that failed to start;
* 2 - wrong usage: an unknown option, an unknown name in the configuration file, an invalid address, a module or
  attribute that does not exist, an attribute that is not an application;
* 130 - interrupted by SIGINT before it served.

A thread that is still running, such as that of a blocked synchronous consumer, is named on standard error with the line
that it is at, and the process exits without it: with the same code, but without running the functions of `atexit`.

Wrong usage is reported in one line on standard error.
"""

from __future__ import annotations

from collections.abc import Sequence

from .errors import (
    FAILED,
    INTERRUPTED,
    MISUSED,
    CommandError as CommandError,
    tell,
)
from .loading import load_application as load_application


def script() -> int:
    """Run the command as a process of its own, which threads that are still running do not keep alive."""
    from .leaving import leave_threads_behind

    code = FAILED
    try:
        code = main()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else FAILED
        raise
    finally:
        leave_threads_behind(code)
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: None for those of the process.
    """
    try:
        import click
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        tell("the command needs click: pip install 'cyasgi[cli]'")
        return FAILED
    from .command import command, explain

    try:
        return command(arguments).main(arguments, "cyasgi", standalone_mode=False) or 0
    except CommandError as error:
        tell(str(error))
        return error.code
    except click.ClickException as error:
        if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
            error.show()
        else:
            tell(explain(error))
        return MISUSED
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
