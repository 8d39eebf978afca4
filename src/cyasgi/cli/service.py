"""What a service needs around its process: a file with its id, another user than root, word to the service manager."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple

from ..supervisor import Supervisor
from ..workers.notify import Notifier
from .errors import CommandError

if sys.platform != "win32":
    import grp
    import pwd


@contextlib.contextmanager
def pid_file(path: str | None) -> Iterator[None]:
    """Have the process id in this file meanwhile.

    Raises:
        CommandError: the file has the id of another process that runs, or cannot be written.
    """
    if path is None:
        yield
        return
    own = f"{os.getpid()}\n"
    other = _read(path).strip()
    if other.isdecimal() and int(other) != os.getpid() and _runs(int(other)):
        raise CommandError(f"--pid-file {path}: the process {other} of this file is running")
    try:
        # At once: nobody reads half of it.
        with open(f"{path}.{os.getpid()}", "x", encoding="ascii") as file:
            file.write(own)
        os.replace(file.name, path)
    except OSError as error:
        raise CommandError(f"--pid-file {path}: {error.strerror}") from None
    try:
        yield
    finally:
        if _read(path) == own:
            # Without root's rights, the directory may be closed to it by now.
            with contextlib.suppress(OSError):
                os.unlink(path)


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(32)
    except OSError:
        return ""


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


class Identity(NamedTuple):
    """The user and group that the workers run as."""

    user: str
    uid: int
    gid: int
    home: str


def find_identity(user: str | None, group: str | None) -> Identity | None:
    """Return the user and group of these names or numbers; None if neither is given.

    Raises:
        ValueError: there is no such user or group.
    """
    if user is None and group is None:
        return None
    if sys.platform == "win32":
        raise ValueError("--user and --group: Windows has no users to change to; accepted is neither")
    try:
        number = user if user is not None else str(os.getuid())
        found = pwd.getpwuid(int(number)) if number.isdecimal() else pwd.getpwnam(number)
    except (KeyError, OverflowError):
        raise ValueError(f"--user {user}: accepted is the name or number of a user of this machine") from None
    gid = found.pw_gid
    if group is not None:
        try:
            gid = (grp.getgrgid(int(group)) if group.isdecimal() else grp.getgrnam(group)).gr_gid
        except (KeyError, OverflowError):
            raise ValueError(f"--group {group}: accepted is the name or number of a group of this machine") from None
    return Identity(found.pw_name, found.pw_uid, gid, found.pw_dir)


def become(identity: Identity, paths: Iterable[str]) -> None:
    """Go on as this user, for good.

    Args:
        paths: of Unix sockets, which are given to the user.

    Raises:
        CommandError: this process may not do that.
    """
    if sys.platform == "win32" or (os.geteuid(), os.getegid()) == (identity.uid, identity.gid):
        return
    try:
        for path in paths:
            os.chown(path, identity.uid, identity.gid)
        os.initgroups(identity.user, identity.gid)
        os.setgid(identity.gid)
        os.setuid(identity.uid)
    except OSError as error:
        raise CommandError(f"cannot become the user {identity.user!r}: {error.strerror}; only root can") from None
    os.environ.update(HOME=identity.home, USER=identity.user, LOGNAME=identity.user)


@contextlib.asynccontextmanager
async def notifying(
    notifier: Notifier, several: Supervisor, inner: AbstractAsyncContextManager[Any]
) -> AsyncIterator[None]:
    """Tell the service manager when the servers serve and stop."""

    async def announce() -> None:
        with contextlib.suppress(Exception):
            # Servers that fail to start end the process, which says more.
            await several.wait_started()
            notifier.ready("serving")

    several.on_stopping = notifier.stopping
    async with notifier.watched():
        task = asyncio.create_task(announce())
        try:
            async with inner:
                yield
        finally:
            task.cancel()
