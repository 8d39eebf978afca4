"""The application: what it answers, to whom, and with which headers."""

from __future__ import annotations

import sys

import pytest

from support.metrics import Fixed, answer, samples, worker


def application(cy, source=None, **options):
    from cyasgi.metrics.application import MetricsApplication

    return MetricsApplication(Fixed(worker()) if source is None else source, **options)


PATHS = ("/", "/metrics", "/healthz", "/readyz")


def test_health(cy, run):
    async def main():
        status, headers, body = await answer(application(cy), "/healthz")
        assert (status, body) == (200, b"ok\n")
        assert headers[b"content-type"] == b"text/plain; charset=utf-8"
        # Alive, whatever the workers do.
        assert (await answer(application(cy, Fixed(state="starting")), "/healthz"))[0] == 200

    run(main())


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (lambda: Fixed(worker()), None),
        (lambda: Fixed(worker(lag=5.0)), None),
        (lambda: Fixed(worker(), worker(2, state="stopping", lag=9.0)), None),
        (lambda: Fixed(worker(), state="starting"), "starting"),
        (lambda: Fixed(worker(), state="stopping"), "stopping"),
        (lambda: Fixed(worker(state="starting")), "no worker serves"),
        (lambda: Fixed(), "no worker serves"),
        (
            lambda: Fixed(worker(), worker(2, lag=5.25)),
            "the event loop of worker 2 is late by 5.2 s, accepted are 5 s",
        ),
    ],
)
def test_readiness(cy, run, source, says):
    async def main():
        status, _, body = await answer(application(cy, source()), "/readyz")
        if says is None:
            assert (status, body) == (200, b"ready\n")
        else:
            assert (status, body) == (503, f"not ready: {says}\n".encode())

    run(main())


def test_the_bound_of_lag(cy, run):
    async def main():
        status, _, body = await answer(application(cy, Fixed(worker(lag=0.3)), lag_bound=0.2), "/readyz")
        assert status == 503 and b"accepted are 0.2 s" in body

    run(main())
    for wrong in (0, -1, float("inf")):
        with pytest.raises(ValueError, match="lag_bound="):
            application(cy, lag_bound=wrong)
    with pytest.raises(TypeError, match="lag_bound='5'"):
        application(cy, lag_bound="5")


@pytest.mark.parametrize("path", PATHS)
def test_head(cy, run, path):
    """As GET, without the body."""
    if path == "/metrics":
        pytest.importorskip("prometheus_client")

    async def main():
        status, headers, body = await answer(application(cy), path, "HEAD")
        assert (status, body) == (200, b"")
        assert int(headers[b"content-length"]) > 0

    run(main())


@pytest.mark.parametrize("path", [*PATHS, "/nowhere"])
def test_other_methods(cy, run, path):
    async def main():
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "get"):
            status, headers, _ = await answer(application(cy), path, method)
            assert status == 405 and headers[b"allow"] == b"GET, HEAD"

    run(main())


@pytest.mark.parametrize("path", ["/nowhere", "/metrics/", "//", "metrics", "/METRICS", "/healthz/x"])
def test_other_paths(cy, run, path):
    async def main():
        assert (await answer(application(cy), path))[0] == 404

    run(main())


@pytest.mark.parametrize("path", [*PATHS, "/nowhere"])
def test_nothing_is_kept_or_loaded(cy, run, path):
    async def main():
        _, headers, _ = await answer(application(cy), path)
        assert headers[b"cache-control"] == b"no-store"
        assert headers[b"x-content-type-options"] == b"nosniff"
        assert headers[b"content-security-policy"].startswith(b"default-src 'none'; style-src 'unsafe-inline';")

    run(main())


@pytest.mark.parametrize("root", ["/status", "/status/", "/a/b"])
def test_mounted(cy, run, root):
    """Under a path, which servers put before that of the request or leave out; links lead there."""

    async def main():
        for prefix in (root.rstrip("/"), ""):
            for path in PATHS[2:]:
                assert (await answer(application(cy), prefix + path, root_path=root))[0] == 200
            status, _, body = await answer(application(cy), f"{prefix}/", root_path=root)
            assert status == 200 and f'href="{root.rstrip("/")}/metrics"'.encode() in body
        assert (await answer(application(cy), root.rstrip("/"), root_path=root))[0] == 200
        assert (await answer(application(cy), root.rstrip("/") + "x/healthz", root_path=root))[0] == 404

    run(main())


def test_metrics(cy, run):
    """In the format that the client asks for."""
    pytest.importorskip("prometheus_client")
    from cyasgi._common.cells import REQUESTS

    async def main():
        one = application(cy, Fixed(worker(cells={REQUESTS: 5})))
        status, headers, body = await answer(one, "/metrics")
        assert status == 200 and headers[b"content-type"].startswith(b"text/plain; version=")
        assert samples(body.decode())["cyasgi_http_requests_total"] == 5
        accept = b"application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
        _, headers, body = await answer(one, "/metrics", headers=[(b"accept", accept)])
        assert headers[b"content-type"].startswith(b"application/openmetrics-text; version=1.0.0")
        assert body.endswith(b"# EOF\n")
        for accept in (b"\xff\x00", b",;=", b"application/openmetrics-text;version=x;escaping=y"):
            assert (await answer(one, "/metrics", headers=[(b"accept", accept)]))[0] == 200

    run(main())


def test_without_prometheus_client(cy, run, monkeypatch):
    """All but the metrics is there, and says what is missing."""
    monkeypatch.delitem(sys.modules, "cyasgi.metrics.exposition", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "prometheus_client"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)

    async def main():
        status, _, body = await answer(application(cy), "/metrics")
        assert (status, body) == (
            501,
            b"metrics for Prometheus need prometheus_client: pip install 'cyasgi[metrics]'\n",
        )
        for path in ("/", "/healthz", "/readyz"):
            assert (await answer(application(cy), path))[0] == 200

    run(main())


def test_other_scopes(cy, run):
    """A WebSocket is refused; a server that tries the lifespan learns that there is none."""

    async def main():
        sent = []

        async def receive():
            return {"type": "websocket.connect"}

        async def send(message):
            sent.append(message)

        await application(cy)({"type": "websocket"}, receive, send)
        assert sent == [{"type": "websocket.close"}]
        with pytest.raises(ValueError, match="scope type 'lifespan'"):
            await application(cy)({"type": "lifespan"}, receive, send)

    run(main())
