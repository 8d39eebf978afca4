"""Real proxies: nginx and HAProxy, with keep-alive, WebSockets, TLS and the PROXY protocol, for several clients."""

from __future__ import annotations

import io
import ssl
import sys

import pytest

from support.certificates import write_certificates
from support.http_connection import http, serving
from support.managed_servers import lifecycle
from support.proxied_clients import CLIENTS, FORGED, ask_all, connected, talk_by_websocket
from support.reverse_proxies import haproxy, nginx
from support.serving import in_time

pytestmark = [
    pytest.mark.slow,
    pytest.mark.few_combinations,
    pytest.mark.usefixtures("quiet"),
    pytest.mark.skipif(sys.platform != "linux", reason="only there every address of 127.0.0.0/8 is the machine's"),
]

FORWARDED_FOR = (
    "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",
    "proxy_set_header X-Forwarded-Proto $scheme;",
)


class Application:
    """Answers with what its scope says of the client; keeps the scopes. A WebSocket gets it as a message."""

    def __init__(self):
        self.scopes = []

    async def __call__(self, scope, receive, send):
        self.scopes.append(scope)
        text = "{} {}".format(scope["client"][0], scope["scheme"])
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": text})
            message = await receive()
            await send({"type": "websocket.send", "text": message["text"]})
            await receive()
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": text.encode()})


def make(cy, application, binds="127.0.0.1:0", *, managed=False, **settings):
    base = http(cy).HTTPServer
    cls = type("Server", (lifecycle(cy).ManagedServer, base), {}) if managed else base
    server = cls(application, binds=binds)
    server.lifespan = "off"
    for name, value in settings.items():
        setattr(server, name, value)
    return server


@pytest.mark.parametrize("unix", [False, True])
def test_nginx(cy, run, tmp_path, unix):
    """Requests of several clients on one connection of nginx have the client of each, in scopes and the log."""
    log = io.StringIO()

    async def main():
        binds = f"unix:{tmp_path / 's'}" if unix else "127.0.0.1:0"
        server = make(cy, Application(), binds, proxy_headers=True, access_log=log)
        async with serving(server) as [address], nginx(tmp_path, address, *FORWARDED_FOR) as front:
            assert await ask_all(front) == [f"{client} http" for client in CLIENTS] * 3
            # nginx keeps one connection, and has begun another one for the request before it was free.
            assert server.connections_total <= 3

    run(main())
    assert {line.split()[0] for line in log.getvalue().splitlines()} == {f"{client}:0" for client in CLIENTS}


def test_nginx_untrusted(cy, run, tmp_path):
    """Behind a proxy that is not trusted, or without `proxy_headers`, the client is the proxy."""

    async def main():
        for settings in ({"proxy_headers": True, "forwarded_allow_ips": "10.0.0.0/8"}, {}):
            server = make(cy, Application(), **settings)
            async with serving(server) as [address], nginx(tmp_path, address, *FORWARDED_FOR) as front:
                assert await ask_all(front, 1) == ["127.0.0.1 http"] * 2

    run(main())


def test_nginx_with_every_header(cy, run, tmp_path):
    application = Application()
    lines = (
        *FORWARDED_FOR,
        "proxy_set_header X-Forwarded-Host a.example;",
        "proxy_set_header X-Forwarded-Port 8443;",
        "proxy_set_header X-Forwarded-Prefix /api;",
        "rewrite ^/api/(.*)$ /$1 break;",
    )

    async def main():
        names = [f"x-forwarded-{name}" for name in ("for", "proto", "host", "port", "prefix")]
        server = make(cy, application, proxy_headers=True, forwarded_headers=names)
        async with (
            serving(server) as [address],
            nginx(tmp_path, address, *lines) as front,
            connected(front, CLIENTS[0]) as client,
        ):
            await client.get("/api/page?a=b", headers=FORGED)

    run(main())
    [scope] = application.scopes
    assert (scope["client"], scope["server"]) == ((CLIENTS[0], 0), ("a.example", 8443))
    assert (scope["root_path"], scope["path"], scope["query_string"]) == ("/api", "/api/page", b"a=b")


@pytest.mark.parametrize("unix", [False, True])
def test_limits_behind_nginx(cy, run, tmp_path, unix):
    """Each client has its own limit, and forged headers give it no other one."""

    async def main():
        binds = f"unix:{tmp_path / 's'}" if unix else "127.0.0.1:0"
        limits = {"max_messages_per_second": 0.001, "message_burst": 2}
        server = make(cy, Application(), binds, managed=True, proxy_headers=True, **limits)
        statuses = []
        async with serving(server) as [address], nginx(tmp_path, address, *FORWARDED_FOR) as front:
            for client in CLIENTS:
                async with connected(front, client) as one:
                    for number in range(3):
                        forged = {"X-Forwarded-For": f"203.0.113.{number}"}
                        statuses.append((await one.get("/", headers=forged)).status_code)
        return statuses

    assert run(main()) == [200, 200, 429] * 2


def test_websocket_by_nginx(cy, run, tmp_path):
    pytest.importorskip("websockets")

    async def main():
        server = make(cy, Application(), proxy_headers=True)
        async with serving(server) as [address], nginx(tmp_path, address, *FORWARDED_FOR) as front:
            for client in CLIENTS:
                assert await talk_by_websocket(front, client) == f"{client} ws"
            await in_time(lambda: not server.connections)

    run(main())


ADD_FORWARDED = 'http-request set-header Forwarded "for=\\"%[src]:%[src_port]\\";proto=http;host=a.example"'


@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        ({}, ["option forwardfor", "http-request set-header X-Forwarded-Proto http"]),
        ({"forwarded_headers": "forwarded"}, [ADD_FORWARDED]),
    ],
)
def test_haproxy(cy, run, tmp_path, settings, lines):
    """X-Forwarded-For in a line of its own, behind what the client has sent; and RFC 7239."""
    application = Application()

    async def main():
        server = make(cy, application, proxy_headers=True, **settings)
        async with serving(server) as [address], haproxy(tmp_path, address, "", *lines) as front:
            assert await ask_all(front) == [f"{client} http" for client in CLIENTS] * 3

    run(main())
    assert bool(application.scopes[0]["client"][1]) is bool(settings)
    assert (application.scopes[0]["server"][0] == "a.example") is bool(settings)


@pytest.mark.parametrize("mode", ["tcp", "http"])
@pytest.mark.parametrize("options", ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"])
def test_proxy_protocol_of_haproxy(cy, run, tmp_path, options, mode):
    """Each connection is its client's; what clients send in headers is not read, and health checks are no faults."""
    application = Application()

    async def main():
        server = make(cy, application, proxy_protocol=True)
        options_of_server = f"{options} check inter 100ms check-send-proxy"
        async with serving(server) as [address], haproxy(tmp_path, address, options_of_server, mode=mode) as front:
            assert await ask_all(front) == [f"{client} http" for client in CLIENTS] * 3
            assert {scope["server"] for scope in application.scopes} == {front}
        assert server.stats()["proxy_refused"] == server.stats()["bad_requests"] == 0

    run(main())


def test_haproxy_that_sends_no_header(cy, run, tmp_path, caplog, quiet):
    """What comes without the PROXY protocol is refused where it is expected, and a header where it is not."""

    async def main():
        for options, status, counter in (("", 502, "proxy_refused"), ("send-proxy", 400, "bad_requests")):
            server = make(cy, Application(), proxy_protocol=not options)
            async with (
                serving(server) as [address],
                haproxy(tmp_path, address, options) as front,
                connected(front, CLIENTS[0]) as client,
            ):
                assert (await client.get("/")).status_code == status
            assert server.stats()[counter]

    run(main())
    quiet += [record for record in caplog.records if record.name == "cyasgi.gateways.proxy"]


@pytest.mark.parametrize("options", ["send-proxy", "send-proxy-v2"])
def test_tls_through_haproxy(cy, run, tmp_path, options):
    """TLS from the client to the server, with the client's address in front of it; WebSockets over that, too."""
    pytest.importorskip("websockets")
    write_certificates(tmp_path)
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    context = ssl.create_default_context(cafile=tmp_path / "ca.pem")

    async def main():
        binds = [http(cy).Listener("127.0.0.1:0", served, proxy_protocol=True)]
        server = make(cy, Application(), binds)
        async with serving(server) as [address], haproxy(tmp_path, address, options, mode="tcp") as front:
            expected = [f"{client} https" for client in CLIENTS] * 3
            assert await ask_all(front, scheme="https", verify=context) == expected
            assert await talk_by_websocket(front, CLIENTS[1], "wss", ssl=context) == f"{CLIENTS[1]} wss"

    run(main())
