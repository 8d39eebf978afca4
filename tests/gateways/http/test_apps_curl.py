"""A real client: curl, over TCP, TLS and Unix sockets, with what only it does of HTTP/1.1 and 1.0."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import socket
import ssl

import pytest

from support import apps_starlette
from support.app_probe import Probe
from support.certificates import write_certificates
from support.real_clients import program, serving, tool, url
from support.serving import in_time

DATA = random.Random(5).randbytes(2_000_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
GREETING = "Grüße, Welt".encode()

pytestmark = [pytest.mark.usefixtures("quiet"), pytest.mark.few_combinations]


@pytest.fixture
def probe(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(DATA)
    return Probe(path)


@pytest.fixture
def application(probe):
    return apps_starlette.build(probe)


#: Without settings of the user's, and no proxy.
OPTIONS = ("-q", "-sS", "--noproxy", "*", "--max-time", "25")


async def curl(*arguments, data=None):
    """What curl writes; it must end well."""
    done = await program(tool("curl"), *OPTIONS, *arguments, data=data)
    assert done.returncode == 0, (done.returncode, done.stderr.decode())
    return done.stdout


def parse(answer):
    """The status line, the headers and the body of the last response that `curl -i` wrote."""
    while True:
        head, _, answer = answer.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        if not answer.startswith(b"HTTP/"):
            return status, dict(line.split(": ", 1) for line in lines), answer


@pytest.mark.slow
def test_page(cy, run, application):
    """One connection serves several requests, with HTTP/1.1; curl sees how each ends."""

    async def main():
        async with serving(cy, application) as server:
            page = url(server, "/page")
            status, headers, body = parse(await curl("-i", page))
            assert (status, body) == ("HTTP/1.1 200 OK", GREETING)
            assert headers["server"] == "cyasgi" and headers["date"].endswith(" GMT")
            assert "connection" not in headers
            # How many connections each of these took.
            assert await curl("-o", "-", "-w", "|%{num_connects};", page, page, page) == (
                GREETING + b"|1;" + GREETING + b"|0;" + GREETING + b"|0;"
            )
            assert server.stats()["connections_total"] == 2

    run(main())


@pytest.mark.slow
def test_http_1_0(cy, run, application, probe):
    """HTTP/1.0 closes, and ends a stream by closing; with keep-alive, what has a length keeps the connection."""

    async def main():
        async with serving(cy, application) as server:
            page = url(server, "/page")
            status, headers, body = parse(await curl("-i", "--http1.0", page))
            assert (status, headers["connection"], body) == ("HTTP/1.1 200 OK", "close", GREETING)
            status, headers, body = parse(await curl("-i", "--http1.0", url(server, "/stream")))
            assert (status, headers["connection"], body) == ("HTTP/1.1 200 OK", "close", b"one\ntwo\nthree\n")
            assert not {"transfer-encoding", "content-length"} & set(headers)
            kept = await curl("--http1.0", "-H", "Connection: keep-alive", "-w", "|%{num_connects};", page, page)
            assert kept == GREETING + b"|1;" + GREETING + b"|0;"
            answer = await curl("--http1.0", "--data-binary", "@-", url(server, "/raw"), data=DATA)
            assert json.loads(answer) == {"size": len(DATA), "sha256": SHA256}

    run(main())


@pytest.mark.slow
def test_head(cy, run, application):
    """Headers alone, and curl does not wait for a body."""

    async def main():
        async with serving(cy, application) as server:
            status, headers, body = parse(await curl("-I", url(server, "/file")))
            assert (status, headers["content-length"], body) == ("HTTP/1.1 200 OK", str(len(DATA)), b"")
            status, _, body = parse(await curl("-i", url(server, "/nothing")))
            assert (status, body) == ("HTTP/1.1 204 No Content", b"")

    run(main())


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")
def test_unix_socket(cy, run, application, tmp_path):
    """The same over a Unix socket; its path is gone with the server."""

    async def main():
        path = tmp_path / "socket"
        async with serving(cy, application, binds=f"unix:{path}") as server:
            assert server.addresses == [(str(path), None)]
            for _ in range(2):
                assert await curl("--unix-socket", str(path), "http://server/page") == GREETING
            answer = await curl("--unix-socket", str(path), "--data-binary", "@-", "http://server/raw", data=DATA)
            assert json.loads(answer) == {"size": len(DATA), "sha256": SHA256}
        assert not path.exists()

    run(main())


@pytest.mark.slow
@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_tls(cy, run, application, tmp_path, version):
    """Pages, files and uploads over TLS, whose certificate curl verifies; links have the scheme."""
    write_certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")

    async def main():
        async with serving(cy, application, tls=context) as server:

            async def ask(path, *arguments, **options):
                trusted = ("--cacert", str(tmp_path / "ca.pem"), f"--tlsv{version}", "--tls-max", version)
                return await curl(*trusted, url(server, path, "https"), *arguments, **options)

            assert await ask("/page") == GREETING
            assert await ask("/file") == DATA
            assert await ask("/redirect", "-L", "-w", "|%{url_effective}") == (
                GREETING + b"|" + url(server, "/page", "https").encode()
            )
            answer = await ask("/raw", "--data-binary", "@-", data=DATA)
            assert json.loads(answer) == {"size": len(DATA), "sha256": SHA256}

    run(main())


@pytest.mark.slow
@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
def test_client_that_is_killed(cy, run, application, probe, tmp_path, tls):
    """The application hears of the end of a curl that is killed in the middle of a stream."""
    context = None
    if tls:
        write_certificates(tmp_path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")

    async def parts():
        yield b"begun\n"
        await asyncio.get_running_loop().create_future()

    async def main():
        probe.parts = parts
        async with serving(cy, application, tls=context) as server:
            process = await asyncio.create_subprocess_exec(
                *(tool("curl"), *OPTIONS, "-N", "-k"),
                url(server, "/stream", "https" if tls else "http"),
                stdout=asyncio.subprocess.PIPE,
            )
            try:
                assert await process.stdout.readline() == b"begun\n"
                assert server.application_instances
            finally:
                process.kill()
                await process.wait()
            await in_time(lambda: probe.events == ["stream closed"])
            await in_time(lambda: not server.application_instances)

    run(main())


@pytest.mark.slow
def test_uploads(cy, run, application, tmp_path):
    """Bodies with a length, in chunks, and as a form."""

    async def main():
        path = tmp_path / "file.bin"
        async with serving(cy, application) as server:
            for arguments in (
                ("--data-binary", f"@{path}"),
                ("-X", "POST", "-T", str(path), "-H", "Transfer-Encoding: chunked"),
                # curl does not know the length of what it reads from a pipe: chunks.
                ("-X", "POST", "-T", "-"),
            ):
                answer = await curl(*arguments, url(server, "/raw"), data=DATA)
                assert json.loads(answer) == {"size": len(DATA), "sha256": SHA256}
            answer = await curl("-F", f"file=@{path}", "-F", "note=Grüße", url(server, "/form"))
            assert json.loads(answer) == {"name": "file.bin", "size": len(DATA), "sha256": SHA256, "note": "Grüße"}

    run(main())


@pytest.mark.slow
def test_echo(cy, run, application):
    """A body that is sent back while it comes: curl does both at a time, and the server bounds both."""

    async def main():
        async with serving(cy, application) as server:
            for chunked in ((), ("-H", "Transfer-Encoding: chunked")):
                assert await curl("--data-binary", "@-", *chunked, url(server, "/echo"), data=DATA) == DATA

    run(main())


@pytest.mark.slow
def test_expect_continue(cy, run, application):
    """curl waits to be told to send a body: that is done when the application reads it, and a refusal spares it."""

    async def main():
        async with serving(cy, application, max_body_size=len(DATA)) as server:
            # Longer than any test: curl sends the body unasked when this is over.
            expecting = ("-i", "-H", "Expect: 100-continue", "--expect100-timeout", "20", "--data-binary", "@-")
            answer = await curl(*expecting, url(server, "/raw"), data=DATA)
            assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
            assert json.loads(parse(answer)[2]) == {"size": len(DATA), "sha256": SHA256}
            answer = await curl(*expecting, "-w", "|%{size_upload}", url(server, "/raw"), data=DATA + b"x")
            assert answer.startswith(b"HTTP/1.1 413 ") and answer.endswith(b"|0")
            # The application answers without a look at the body.
            answer = await curl(*expecting, "-w", "|%{size_upload}", url(server, "/missing"), data=DATA)
            assert answer.startswith(b"HTTP/1.1 404 ") and answer.endswith(b"|0")

    run(main())


def test_upgrade_to_http_2_is_passed_over(cy, run, application):
    """curl asks for HTTP/2 by an upgrade: the answer is HTTP/1.1, as if it had not."""

    async def main():
        async with serving(cy, application) as server:
            status, _, body = parse(await curl("-i", "--http2", url(server, "/page")))
            assert (status, body) == ("HTTP/1.1 200 OK", GREETING)

    run(main())


@pytest.mark.slow
def test_redirects_cookies_and_ranges(cy, run, application, tmp_path):
    """curl follows redirects, keeps cookies, resumes a download, and does not load again what has not changed."""

    async def main():
        jar = str(tmp_path / "jar")
        async with serving(cy, application) as server:
            assert await curl("-L", "-w", "|%{num_redirects}", url(server, "/redirect")) == GREETING + b"|1"
            assert json.loads(await curl("-c", jar, url(server, "/cookies"))) == {}
            assert json.loads(await curl("-b", jar, url(server, "/cookies"))) == {"first": "1", "second": "2"}
            assert await curl("-r", "1000-1999", url(server, "/file")) == DATA[1000:2000]
            etag = str(tmp_path / "etag")
            static = url(server, "/static/file.bin")
            assert await curl("--etag-save", etag, static) == DATA
            assert await curl("--etag-compare", etag, "-w", "|%{http_code}", static) == b"|304"

    run(main())


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_broken_stream(cy, run, application, probe, caplog, quiet, version):
    """curl notices that a stream broke off, whatever the way in which its end is told."""

    async def parts():
        yield b"begun\n"
        raise ZeroDivisionError("an error of the application")

    async def main():
        probe.parts = parts
        async with serving(cy, application) as server:
            done = await program(tool("curl"), *OPTIONS, f"--http{version}", url(server, "/stream"))
        # 18: a partial file; 56: the connection was reset.
        assert done.returncode in (18, 56), done
        quiet.extend(caplog.records)

    run(main())
