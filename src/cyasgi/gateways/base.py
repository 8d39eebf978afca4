"""What servers with sockets of their own have in common: binding, addresses, closing, and when sockets are closed."""

from __future__ import annotations

from typing import Any, ClassVar

from ..server import StatelessServer


class Gateway(StatelessServer):
    """A server that listens on the addresses in `binds`.

    A subclass defines `_open_sockets`, and lists in `_sockets` what that has opened.
    """

    #: What to listen on, one socket or more for each.
    binds: list[Any]
    #: The sockets that are open, each with `close()`.
    _sockets: list[Any]

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
        if not self._sockets:
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

    @property
    def addresses(self) -> list[Any]:
        """The addresses that sockets are open on: (host, port), or (path, None) for a Unix socket."""
        return [self._socket_address(sock) for sock in self._sockets]

    def close(self) -> None:
        """Close the sockets that `bind` opened and no run has closed."""
        sockets, self._sockets = self._sockets, []
        for sock in sockets:
            sock.close()

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
