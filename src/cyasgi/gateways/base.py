"""What servers with sockets of their own have in common: binding, addresses, closing, and when sockets are closed."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, ClassVar

from .._settings import Integer
from ..core import ApplicationInstance, Setting
from ..server import StatelessServer
from .net.sockets import ListenError
from .pushing import Mailboxes, check_pushed, in_loop, size_of


class Gateway(StatelessServer):
    """A server that listens on the addresses in `binds`.

    A subclass defines `_open_sockets`, and lists in `_sockets` what that has opened.
    """

    #: Messages of `send_to` and `broadcast` that wait for one instance behind its queue, at most.
    max_pushed = Setting[int](1024, Integer(1))
    #: Bytes of such messages that wait for one instance, at most, and one message more.
    max_pushed_bytes = Setting[int](4_194_304, Integer(1))

    #: What to listen on, one socket or more for each.
    binds: list[Any]
    #: The sockets that are open, each with `close()`.
    _sockets: list[Any]
    #: Whether the sockets are another process's too, which keeps them when this one has ended (`inherit`).
    inherited = False
    #: Whether all that has not been accepted or read is left to that process (`hand_over`).
    handed_over = False
    #: Counts what it does, for whoever watches the process: see `cyasgi.metrics`. None: nothing is counted there.
    cells: memoryview | None = None
    #: At which level it is logged what is listened on.
    _listening_level = logging.INFO

    announces_start: ClassVar[bool] = True
    tells_asgi_version: ClassVar[bool] = True

    def _open_sockets(self, bind: Any) -> list[Any]:
        """Return a bound socket for each address of one of `binds`.

        Raises:
            ListenError: an address cannot be listened on.
        """
        raise NotImplementedError

    def _socket_address(self, sock: Any) -> tuple[str, Any]:
        """Return the address of one of `_sockets`, as ASGI has it."""
        raise NotImplementedError

    def bind(self) -> list[Any]:
        """Bind the sockets, if they are not bound yet, and return their addresses.

        `handle` does this too; call it before `run` to see errors early or to learn which port was free. Clients of
        TCP and Unix sockets can connect once the application has started.

        Raises:
            ListenError: an address cannot be listened on.
        """
        if not self._sockets and not self.inherited:
            opened: list[Any] = []
            try:
                for one in self.binds:
                    opened += self._open_sockets(one)
            except BaseException:
                for sock in opened:
                    sock.close()
                raise
            self._sockets = opened
        return self.addresses

    def _adopt(self, bind: Any, sock: socket.socket) -> Any:
        """Return one of `_sockets` for a socket that another process has bound for one of `binds`."""
        raise NotImplementedError

    def inherit(self, descriptors: Sequence[Sequence[int]], *, told: bool = False) -> list[Any]:
        """Serve on sockets that this process has inherited, instead of binding any, and return their addresses.

        Args:
            descriptors: of sockets that are bound, for each of `binds`. They are closed with the server, and not passed
                on to other processes.
            told: whether another process logs what is listened on, so that this one need not.

        Raises:
            ListenError: one is no socket.
        """
        adopted = []
        for bind, numbers in zip(self.binds, descriptors, strict=True):
            for number in numbers:
                try:
                    os.set_inheritable(number, False)
                    sock = socket.socket(fileno=number)
                except OSError as error:
                    raise ListenError(error.errno, f"cannot listen on fd://{number}: {error.strerror}") from error
                sock.setblocking(False)
                adopted.append(self._adopt(bind, sock))
        self._sockets = adopted
        self.inherited = True
        self._listening_level = logging.DEBUG if told else logging.INFO
        return self.addresses

    async def hand_over(self) -> None:
        """Accept and read no more: leave that to the process that shares the sockets, before this server is stopped.

        Returns when every client knows of the end, or after `shutdown_timeout` seconds.
        """
        self.handed_over = True

    @property
    def addresses(self) -> list[Any]:
        """The addresses that sockets are open on: (host, port), or (path, None) for a Unix socket."""
        return [self._socket_address(sock) for sock in self._sockets]

    def close(self) -> None:
        """Close the sockets that `bind` opened and no run has closed."""
        sockets, self._sockets = self._sockets, []
        for sock in sockets:
            sock.close()

    def send_to(self, scope_id: Hashable, message: dict[str, Any]) -> bool:
        """Have an application receive a message that does not come from its client, as `broadcast` does.

        Returns:
            Whether it was accepted: there is such an instance, and fewer than `max_pushed` messages, of fewer than
            `max_pushed_bytes`, wait for it.
        """
        return not self.broadcast((scope_id,), message)

    def broadcast(self, scope_ids: Iterable[Hashable], message: dict[str, Any]) -> list[Hashable]:
        """Have the applications of several instances receive a message, each a shallow copy of it.

        May be called from any thread; in another one than the event loop's it returns when the loop has done it. No
        instance is made. Each instance receives such messages in the order in which they were accepted, and what one
        that ends has not received goes to the hook `application_undelivered`.

        Args:
            scope_ids: of the instances, as `cyasgi.current_instance().scope_id` gives them to an application.
            message: a dict with a ``type`` of your own, such as ``"chat.message"``.

        Returns:
            The ids that were not reached: there is no such instance, or too much waits for it (`max_pushed`,
            `max_pushed_bytes`).

        Raises:
            TypeError, ValueError: the message is not a dict, or has no type.
        """
        check_pushed(message)
        size = size_of(message, self.max_pushed_bytes)
        run = self._cyasgi.server_run

        def push_all(scope_ids: Iterable[Hashable]) -> list[Hashable]:
            table = self._cyasgi_table
            entries = ((scope_id, table.entry(scope_id)) for scope_id in scope_ids)
            return [
                scope_id
                for scope_id, entry in entries
                if not isinstance(entry, ApplicationInstance) or not self._push(entry, dict(message), size)
            ]

        loop = None if run is None or run.stale else run.loop
        return in_loop(loop, lambda: self._cyasgi.server_run is run, push_all, list(scope_ids))

    def _push(self, instance: Any, message: dict[str, Any], size: int) -> bool:
        """Give a message to an entry of the table, and return whether it was accepted."""
        push = getattr(getattr(instance.scope, "connection", None), "push", None)
        if push is not None:
            # What waits behind the queue is the connection's affair.
            return bool(push(message, size))
        boxes: Mailboxes | None = self.__dict__.get("_mailboxes")
        if boxes is None:
            boxes = self.__dict__["_mailboxes"] = Mailboxes(self)
        return boxes.push(instance, message, size)

    def _before_run(self) -> None:
        """Prepare a run, before anything else of it."""

    async def _after_run(self) -> None:
        """Close what a run has left open, after everything else of it."""
        self.close()

    async def arun(self) -> None:
        """Run as `StatelessServer.arun` does. Sockets stay open until applications have finished, and no longer."""
        if self._cyasgi.server_run is not None:
            # It is refused: the sockets are those of the run at work.
            await super().arun()
            return
        self._before_run()
        try:
            await super().arun()
        finally:
            await self._after_run()
