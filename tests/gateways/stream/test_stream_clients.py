"""Real clients: netcat and openssl, as people use them; redis-cli is in `test_redis.py`."""

from __future__ import annotations

import asyncio
import shutil
import sys

import pytest

from support.certificates import write_certificates
from support.loops import PATIENCE
from support.serving import in_time
from support.streams import Recorder, contexts_of, echo, server_of, serving

pytestmark = [pytest.mark.slow, pytest.mark.few_combinations]
needs_nc = pytest.mark.skipif(shutil.which("nc") is None, reason="nc is not installed")
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


async def program(*words):
    return await asyncio.create_subprocess_exec(
        *words, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )


async def told(*words, data):
    """What a program writes that is given these bytes and the end of its input."""
    process = await program(*words)
    async with asyncio.timeout(PATIENCE / 2):
        out, _ = await process.communicate(data)
    return out


@needs_nc
def test_netcat(cy, run, quiet):
    """With -N it closes its half at the end of its input, and still gets all that is sent then."""

    async def main():
        async def farewell(receive, send):
            for line in recorder.data:
                await send({"type": "stream.send", "data": line.upper()})
            await send({"type": "stream.send", "data": b"%d lines" % len(recorder.data)})

        recorder = Recorder(farewell)
        async with serving(server_of(cy, recorder)) as address:
            lines = b"".join(b"line %d\n" % number for number in range(5000))
            out = await told("nc", "-N", address[0], str(address[1]), data=lines + b"cut short")
            assert out == lines.upper() + b"5000 lines\n"
            assert (recorder.end["reason"], recorder.end["writable"]) == ("eof", True)
            assert recorder.end["rest"] == b"cut short"

    run(main())


@needs_nc
@pytest.mark.skipif(sys.platform == "win32", reason="asyncio has no Unix sockets on Windows")
def test_netcat_on_a_unix_socket(cy, run, quiet, tmp_path):
    async def main():
        path = str(tmp_path / "s")
        async with serving(server_of(cy, echo, binds=f"unix:{path}")):
            assert await told("nc", "-N", "-U", path, data=b"a\nb\n") == b"a\nb\n"

    run(main())


@needs_nc
def test_netcat_that_stays(cy, run, quiet):
    """It is told when the server stops, and ends then."""

    async def main():
        async def farewell(receive, send):
            await send({"type": "stream.send", "data": b"goodbye"})

        recorder = Recorder(farewell)
        server = server_of(cy, recorder)
        async with serving(server) as address:
            process = await program("nc", address[0], str(address[1]))
            process.stdin.write(b"hello\n")
            await in_time(lambda: recorder.data == [b"hello"])
            server.stop()
            async with asyncio.timeout(PATIENCE / 2):
                assert await process.stdout.readline() == b"goodbye\n"
                out, _ = await process.communicate()
                assert out == b""

    run(main())


@needs_openssl
def test_openssl(cy, run, quiet, tmp_path):
    """Lines over TLS by `openssl s_client`, which checks the certificate."""
    write_certificates(tmp_path)

    async def main():
        recorder = Recorder()
        server = server_of(cy, recorder, ssl=contexts_of(tmp_path)[0])

        async def application(scope, receive, send):
            recorder.scopes.append(scope)
            await echo(scope, receive, send)

        server.application = application
        async with serving(server) as address:
            process = await program(
                *("openssl", "s_client", "-quiet", "-verify_return_error", "-CAfile", str(tmp_path / "ca.pem")),
                *("-connect", f"{address[0]}:{address[1]}", "-servername", "localhost"),
            )
            async with asyncio.timeout(PATIENCE / 2):
                for line in (b"hello\n", b"x" * 20_000 + b"\n"):
                    process.stdin.write(line)
                    assert await process.stdout.readexactly(len(line)) == line
                assert recorder.scopes[0]["extensions"]["tls"]["tls_version"] in (0x0303, 0x0304)
                server.stop()
                assert await process.stdout.read() == b""
                await process.communicate()

    run(main())
