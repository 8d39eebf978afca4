"""What lines are echoed by: streams of asyncio, and a bare protocol as the floor."""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks.sides import FLOOR, loop_factory


class Bare(asyncio.Protocol):
    """Splits what comes into lines, and sends each back."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.rest = b""

    def data_received(self, data: bytes) -> None:
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            self.transport.write(line + b"\n")


async def by_streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As the documentation of asyncio has it."""
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()
    writer.close()


def serve(side: str, loop: str, port: int) -> None:
    """Serves until it is killed; runs in a process of its own."""

    async def main() -> None:
        if side == FLOOR:
            server: Any = await asyncio.get_running_loop().create_server(Bare, "127.0.0.1", port)
        else:
            server = await asyncio.start_server(by_streams, "127.0.0.1", port)
        await server.serve_forever()

    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        runner.run(main())
