"""The command: ``cyasgi serve --udp 127.0.0.1:9999 cyasgi.examples:echo``, also ``python -m cyasgi``.

Exit codes:

* 0 - it served, and ended on SIGINT or SIGTERM;
* 1 - it could not start, or not go on: an address taken or not permitted, a library missing, an application's module
  that raised when it was imported (then with its traceback), an application that could not start;
* 2 - it was called wrongly: an option, a name in the configuration file or an address that is not one, a module or
  attribute that is not there, an attribute that is no application;
* 130 - interrupted by SIGINT before it served.

A thread that goes on, such as that of a blocked synchronous consumer, is named on the standard error with the line that
it is at, and the process ends without it: with the same code, but without running the functions of `atexit`.

Whatever the caller did wrong is told in one line on the standard error.
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
    """Run the command as a process of its own: threads that go on after it are named and do not keep it alive."""
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
    """Runs the command with these arguments (those of the process if None) and returns its exit code."""
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
