"""Real applications: Starlette, FastAPI, Quart and Django, each written as its users write it, do the same things."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import importlib
import random

import httpx
import pytest

from support.app_probe import Probe
from support.real_clients import client, serving
from support.serving import in_time

FRAMEWORKS = ("starlette", "fastapi", "quart", "django")
#: Longer than any buffer on the way, so that it comes in many parts.
DATA = random.Random(4).randbytes(3_000_000)
SHA256 = hashlib.sha256(DATA).hexdigest()

pytestmark = [
    pytest.mark.usefixtures("quiet"),
    pytest.mark.few_combinations,
    # Django closes its copy of the body, unless a stream of its raises: then the collector does.
    pytest.mark.filterwarnings("ignore:Unclosed file <tempfile.SpooledTemporaryFile:ResourceWarning"),
]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "file.bin"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def probe(file):
    return Probe(file)


@pytest.fixture(params=FRAMEWORKS)
def application(request, probe):
    """The ASGI application of each framework in turn."""
    return importlib.import_module(f"support.apps_{request.param}").build(probe)


def only(*frameworks):
    """For these alone: the others have no such thing."""
    return pytest.mark.parametrize("application", frameworks, indirect=True)


# ---- pages ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_page(cy, run, application):
    """Pages, from coroutines and from threads, with query and path decoded; all by one connection."""

    async def main():
        async with serving(cy, application) as server, client(server) as http:
            for path, text in (
                ("/page", "Grüße, Welt"),
                ("/page?name=J%C3%BCrgen+M.&other", "Grüße, Jürgen M."),
                ("/thread", "from a thread"),
                ("/path/a%20b/%C3%BC/%E2%82%AC/c+d/100%25", "a b/ü/€/c+d/100%"),
            ):
                response = await http.get(path)
                assert (response.status_code, response.text) == (200, text)
                assert int(response.headers["content-length"]) == len(response.content)
                assert response.headers.get_list("date", split_commas=False) != []
            assert (await http.get("/missing")).status_code == 404
            assert (await http.put("/page", content=b"x")).status_code in (200, 405)
            assert (await http.get("/page")).status_code == 200
            assert server.stats()["connections_total"] == 1
        assert server.stats()["failed"] == 0

    run(main())


@pytest.mark.slow
def test_head(cy, run, application):
    """HEAD is answered as GET, without a body; the connection goes on."""

    async def main():
        async with serving(cy, application) as server, client(server) as http:
            got = await http.get("/page")
            for _ in range(2):
                head = await http.head("/page")
                assert (head.status_code, head.content) == (200, b"")
                assert head.headers["content-length"] == got.headers["content-length"]
            assert (await http.get("/page")).text == got.text
            assert server.stats()["connections_total"] == 1

    run(main())


@pytest.mark.slow
def test_statuses(cy, run, application):
    """204 has no body and no length; a redirect is followed; the connection goes on."""

    async def main():
        async with serving(cy, application) as server, client(server) as http:
            nothing = await http.get("/nothing")
            assert (nothing.status_code, nothing.content) == (204, b"")
            assert not {"content-length", "transfer-encoding"} & set(nothing.headers)
            redirect = await http.get("/redirect")
            assert redirect.status_code in (302, 307)
            assert (await http.get("/redirect", follow_redirects=True)).text == "Grüße, Welt"
            assert server.stats()["connections_total"] == 1

    run(main())


def test_root_path(cy, run, application):
    """Where the server says that the application is mounted, the application makes its links accordingly."""

    async def main():
        async with serving(cy, application, root_path="/mounted") as server, client(server) as http:
            assert (await http.get("/link")).text == "/mounted/page"
            assert (await http.get("/page")).text == "Grüße, Welt"

    run(main())


def test_cookies(cy, run, application):
    """Each cookie is a header of its own, and comes back."""

    async def main():
        async with serving(cy, application) as server, client(server) as http:
            first = await http.get("/cookies")
            assert first.json() == {}
            lines = first.headers.get_list("set-cookie")
            assert [line.split(";")[0] for line in lines] == ["first=1", "second=2"]
            assert (await http.get("/cookies")).json() == {"first": "1", "second": "2"}

    run(main())


def test_big_headers(cy, run, application):
    """Headers of 30 KB go both ways; those beyond the limit are refused, and the next request is served."""

    async def main():
        async with serving(cy, application) as server, client(server) as http:
            big = "".join(chr(33 + index % 90) for index in range(30_000))
            response = await http.get("/headers", headers={"X-Echo": big})
            assert (response.status_code, response.headers["x-echo"]) == (200, big)
            assert (await http.get("/headers", headers={"X-Echo": big * 3})).status_code == 431
            assert (await http.get("/page")).status_code == 200

    run(main())


@pytest.mark.slow
def test_many_at_once(cy, run, application):
    """Concurrent clients get each their own answer."""

    async def main():
        async with serving(cy, application) as server:
            async with client(server, limits=httpx.Limits(max_connections=10)) as http:
                names = [f"client {number}" for number in range(50)]
                answers = await asyncio.gather(*(http.get("/page", params={"name": name}) for name in names))
                assert [answer.text for answer in answers] == [f"Grüße, {name}" for name in names]
            assert server.stats()["connections_total"] <= 10

    run(main())


# ---- streams -------------------------------------------------------------------------------------------------------


def test_stream(cy, run, application, probe):
    """What an application streams comes whole, in chunks, and the connection goes on; HEAD gets none of it."""

    async def main():
        async with serving(cy, application) as server, client(server) as http:
            for _ in range(2):
                response = await http.get("/stream")
                assert response.headers["transfer-encoding"] == "chunked"
                assert "content-length" not in response.headers
                assert response.content == b"one\ntwo\nthree\n"
            assert server.stats()["connections_total"] == 1
        assert probe.events == ["stream closed"] * 2

    run(main())


def test_stream_part_by_part(cy, run, application, probe):
    """Each part is at the client before the next one is made."""

    async def main():
        arrived = asyncio.Semaphore(0)

        async def parts():
            for number in range(5):
                yield b"part %d" % number
                await arrived.acquire()

        probe.parts = parts
        async with serving(cy, application) as server, client(server) as http:
            async with http.stream("GET", "/stream") as response:
                received = []
                async for part in response.aiter_raw():
                    received.append(part)
                    arrived.release()
            assert received == [b"part %d" % number for number in range(5)]

    run(main())


def test_client_that_leaves_a_stream(cy, run, application, probe):
    """An endless stream ends when its client has gone, and nobody complains."""

    async def main():
        async def parts():
            while True:
                yield bytes(10_000)
                await asyncio.sleep(0)

        probe.parts = parts
        async with serving(cy, application) as server:
            async with client(server) as http, http.stream("GET", "/stream") as response:
                async for _ in response.aiter_raw():
                    break
            await in_time(lambda: not server.application_instances)
            # Django leaves a generator that was not waiting to the collector.
            gc.collect()
            await in_time(lambda: probe.events == ["stream closed"])
            async with client(server) as http:
                assert (await http.get("/page")).status_code == 200

    run(main())


@pytest.mark.slow
def test_client_that_leaves_a_stream_with_nothing_to_send(cy, run, application, probe, monkeypatch):
    """A stream that waits for something to send ends too, at once: it is not only told when it sends."""
    monkeypatch.setattr(importlib.import_module(f"{cy.__name__}.gateways.http.connection"), "HALF_CLOSED", 0.1)

    async def main():
        async def parts():
            yield b"begun"
            await asyncio.get_running_loop().create_future()

        probe.parts = parts
        async with serving(cy, application) as server:
            async with client(server) as http, http.stream("GET", "/stream") as response:
                async for _ in response.aiter_raw():
                    break
            await in_time(lambda: probe.events == ["stream closed"])
            await in_time(lambda: not server.application_instances)
            async with client(server) as http:
                assert (await http.get("/page")).status_code == 200

    run(main())


# ---- uploads -------------------------------------------------------------------------------------------------------


async def slices():
    for start in range(0, len(DATA), 70_000):
        yield DATA[start : start + 70_000]


@pytest.mark.slow
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_upload(cy, run, application, chunked):
    """A body of some megabytes, with its length and in chunks, arrives whole."""

    async def main():
        async with serving(cy, application) as server, client(server) as http:
            for _ in range(2):
                response = await http.post("/raw", content=slices() if chunked else DATA)
                assert response.json() == {"size": len(DATA), "sha256": SHA256}
            assert server.stats()["connections_total"] == 1

    run(main())


@pytest.mark.slow
def test_upload_of_a_form(cy, run, application):
    """A file in a multipart form arrives whole, beside a field."""

    async def main():
        async with serving(cy, application) as server, client(server) as http:
            response = await http.post("/form", files={"file": ("name.bin", DATA)}, data={"note": "Grüße"})
            assert response.json() == {"name": "name.bin", "size": len(DATA), "sha256": SHA256, "note": "Grüße"}

    run(main())


def test_upload_that_is_too_long(cy, run, application):
    """Beyond max_body_size: 413, whether the length is announced or not."""

    async def main():
        async with serving(cy, application, max_body_size=100_000) as server, client(server) as http:
            assert (await http.post("/raw", content=bytes(100_000))).json()["size"] == 100_000
            for content in (bytes(100_001), slices()):
                assert (await http.post("/raw", content=content)).status_code == 413

    run(main())


@only("starlette", "fastapi", "quart")
def test_client_that_leaves_an_upload(cy, run, application, probe):
    """The application is told that no more will come; nobody complains."""

    async def main():
        async with serving(cy, application) as server:
            reader, writer = await asyncio.open_connection(*server.addresses[0])
            writer.write(b"POST /raw HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + bytes(1000))
            await in_time(lambda: "part" in probe.events)
            writer.close()
            await in_time(lambda: "upload broken off" in probe.events)
            await in_time(lambda: not server.application_instances)
            assert await reader.read() == b""

    run(main())


# ---- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings(
    # Django's own FileResponse, under any ASGI server: it reads its file in a thread.
    "ignore:StreamingHttpResponse must consume synchronous iterators:Warning"
)
def test_file(cy, run, application):
    """A file comes whole, by the framework's own response; 304 and HEAD have no body, and the connection goes on."""

    async def main():
        async with serving(cy, application) as server, client(server) as http:
            response = await http.get("/file")
            assert (response.status_code, int(response.headers["content-length"])) == (200, len(DATA))
            assert response.content == DATA
            static = await http.get("/static/file.bin")
            assert (static.status_code, static.content) == (200, DATA)
            modified = {"If-Modified-Since": static.headers["last-modified"]}
            unchanged = await http.get("/static/file.bin", headers=modified)
            assert (unchanged.status_code, unchanged.content) == (304, b"")
            head = await http.head("/static/file.bin")
            assert (head.status_code, head.content) == (200, b"")
            assert int(head.headers["content-length"]) == len(DATA)
            assert (await http.get("/static/missing")).status_code == 404
            assert server.stats()["connections_total"] == 1

    run(main())


@pytest.mark.slow
@only("starlette", "fastapi", "quart")
def test_part_of_a_file(cy, run, application):
    """A part of a file is answered 206; one beyond its end 416."""

    async def main():
        async with serving(cy, application) as server, client(server) as http:
            response = await http.get("/file", headers={"Range": "bytes=1000000-1999999"})
            assert (response.status_code, response.content) == (206, DATA[1_000_000:2_000_000])
            assert response.headers["content-range"] == "bytes 1000000-1999999/3000000"
            assert (await http.get("/file", headers={"Range": "bytes=5000000-"})).status_code == 416
            assert (await http.get("/page")).status_code == 200
            assert server.stats()["connections_total"] == 1

    run(main())


# ---- errors, and what comes after the response ---------------------------------------------------------------------


def holds(error, kind):
    """Whether the error is of this kind, or a group with one: Quart runs streams in a task group."""
    return isinstance(error, kind) or (isinstance(error, ExceptionGroup) and error.subgroup(kind) is not None)


def logged_once(caplog, kind):
    """The one record that has an error of this kind; it holds the error no longer, nor all that this refers to."""
    (record,) = [one for one in caplog.records if one.exc_info and holds(one.exc_info[1], kind)]
    record.exc_info = record.args = None
    gc.collect()
    return record


@pytest.mark.slow
def test_error(cy, run, application, caplog, quiet):
    """An error in a view is answered 500 and logged once; the next request is served."""

    async def main():
        async with serving(cy, application) as server, client(server) as http:
            response = await http.get("/error")
            assert response.status_code == 500
            assert "an error of the application" not in response.text
            assert (await http.get("/page")).text == "Grüße, Welt"
            assert server.stats()["connections_total"] == 1
        quiet.append(logged_once(caplog, ZeroDivisionError))

    run(main())


@pytest.mark.slow
def test_error_in_a_stream(cy, run, application, probe, caplog, quiet):
    """A stream that breaks off does not look complete to its client; it is logged once."""

    async def main():
        async def parts():
            yield b"begun"
            raise ZeroDivisionError("an error of the application")

        probe.parts = parts
        async with serving(cy, application) as server, client(server) as http:
            with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
                await http.get("/stream")
            assert (await http.get("/page")).status_code == 200
        quiet.append(logged_once(caplog, ZeroDivisionError))
        assert probe.events == ["stream closed"]

    run(main())


def test_background(cy, run, application, probe):
    """What is to be done afterwards is done after the response is at the client, and keeps no connection."""

    async def main():
        arrived = asyncio.Event()

        async def background():
            await arrived.wait()
            probe.events.append("background")

        probe.background = background
        async with serving(cy, application) as server, client(server) as http:
            assert (await http.get("/background")).text == "later"
            assert probe.events == []
            assert (await http.get("/page")).text == "Grüße, Welt"
            assert server.stats()["connections_total"] == 1
            arrived.set()
            await in_time(lambda: probe.events == ["background"])
            await in_time(lambda: not server.application_instances)

    run(main())
