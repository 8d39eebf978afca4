"""Requests and WebSockets by a proxy: what scopes, limits and the access log say of the client, and who is believed."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import io
import ssl

import pytest
from hypothesis import given, settings, strategies as st

from cyasgi.gateways.net.proxies import trusted_proxies
from cyasgi.wire.proxy.forwarded import NOTHING, said_in
from support.certificates import write_certificates
from support.http_connection import Connection, Recording, Transport, hello, http, serving, talk
from support.http_protocol_case import case
from support.loops import passes
from support.managed_servers import lifecycle
from support.serving import in_time
from support.websockets_raw import request as handshake

ALL = ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-forwarded-prefix")
PEER, ADDRESS = ("127.0.0.1", 1234), ("127.0.0.1", 80)
CLIENT = ("192.0.2.1", 0)


def request(*lines, path=b"/a"):
    return b"GET %b HTTP/1.1\r\nHost: x\r\n%b\r\n" % (path, b"".join(line + b"\r\n" for line in lines))


def seen(scope):
    return scope["client"], scope["scheme"], scope["server"], scope["root_path"], scope["path"]


UNTOUCHED = (PEER, "http", ADDRESS, "", "/a")
LINES = [
    b"X-Forwarded-For: 203.0.113.9, 192.0.2.1",
    b"X-Forwarded-Proto: https",
    b"X-Forwarded-Host: a.example",
    b"X-Forwarded-Port: 8443",
    b"X-Forwarded-Prefix: /api",
    b'Forwarded: for="192.0.2.2:4711";proto=https;host=b.example',
]


def scopes_of(cy, run, *requests, peer=PEER, sockname=ADDRESS, **settings):
    """The scopes of these requests, one after the other on a connection of this peer."""
    application = Recording()

    async def main():
        transport = Transport(peername=peer, sockname=sockname)
        connection = Connection(cy, application, transport=transport, **settings)
        try:
            for one in requests:
                assert (await connection.ask(one)).startswith(b"HTTP/1.1 200 OK")
        finally:
            await connection.end()

    run(main())
    return application.scopes


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, UNTOUCHED),
        ({"proxy_headers": True}, (CLIENT, "https", ADDRESS, "", "/a")),
        (
            {"proxy_headers": True, "forwarded_headers": ALL},
            (CLIENT, "https", ("a.example", 8443), "/api", "/api/a"),
        ),
        (
            {"proxy_headers": True, "forwarded_headers": "forwarded"},
            (("192.0.2.2", 4711), "https", ("b.example", 443), "", "/a"),
        ),
        (
            {"proxy_headers": True, "forwarded_headers": "forwarded, x-forwarded-prefix", "root_path": "/mounted"},
            (("192.0.2.2", 4711), "https", ("b.example", 443), "/api/mounted", "/api/mounted/a"),
        ),
        (
            {"proxy_headers": True, "forwarded_headers": ["x-forwarded-port"]},
            (PEER, "http", ("127.0.0.1", 8443), "", "/a"),
        ),
        ({"proxy_headers": True, "forwarded_allow_ips": "10.0.0.0/8, unix"}, UNTOUCHED),
        ({"proxy_headers": True, "forwarded_allow_ips": ()}, None),
        ({"proxy_headers": True, "forwarded_allow_ips": "*"}, (("203.0.113.9", 0), "https", ADDRESS, "", "/a")),
    ],
)
def test_scopes(cy, run, settings, expected):
    """What trusted proxies say is in the scope; what they are not asked for, or others say, is not."""
    if expected is None:
        with pytest.raises(ValueError, match="forwarded_allow_ips"):
            scopes_of(cy, run, request(*LINES), **settings)
        return
    scopes = scopes_of(cy, run, request(*LINES), request(*LINES), request(*LINES, path=b"/a?b"), **settings)
    assert [seen(scope) for scope in scopes] == [expected] * 3
    assert all(scope["raw_path"] == expected[-1].encode() for scope in scopes)
    # The headers themselves are as they came.
    assert (b"x-forwarded-for", b"203.0.113.9, 192.0.2.1") in scopes[0]["headers"]


@pytest.mark.parametrize(
    ("peer", "sockname", "trusted", "believed"),
    [
        (PEER, ADDRESS, None, True),
        (("::1", 1, 0, 0), ("::1", 80, 0, 0), None, True),
        ("", "/run/a.sock", None, True),
        (("10.0.0.1", 1), ADDRESS, None, False),
        (("10.0.0.1", 1), ADDRESS, "10.0.0.0/8", True),
        (("127.0.0.1", 1), ADDRESS, "10.0.0.0/8", False),
        (("fe80::1", 1, 0, 2), ("fe80::2", 80, 0, 2), "fe80::/10", True),
        ("", "/run/a.sock", "unix:/run/a.sock", True),
        ("", "/run/b.sock", "unix:/run/a.sock", False),
        ("/run/client", "/run/b.sock", "127.0.0.1", False),
        ("", "/run/b.sock", "*", True),
        (None, ADDRESS, "127.0.0.1", False),
    ],
)
def test_who_is_believed(cy, run, peer, sockname, trusted, believed):
    """By default whoever is on this machine; and the proxies that are named."""
    settings = {} if trusted is None else {"forwarded_allow_ips": trusted}
    [scope] = scopes_of(cy, run, request(LINES[0]), peer=peer, sockname=sockname, proxy_headers=True, **settings)
    assert (scope["client"] in (CLIENT, ("203.0.113.9", 0))) is believed


def test_each_request_has_its_own_client(cy, run):
    """A proxy has the requests of all its clients on one connection: nothing of one reaches the next."""
    first, second = request(*LINES), request(b"X-Forwarded-For: 198.51.100.7:9")
    bad = request(
        b"X-Forwarded-For: nonsense", b"X-Forwarded-Proto: ftp", b"X-Forwarded-Host: /", b"X-Forwarded-Port: x"
    )
    post = b"POST /a HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 198.51.100.8\r\nContent-Length: 2\r\n\r\nhi"
    requests = [first, second, request(), bad, first, post, post, request()]
    scopes = scopes_of(cy, run, *requests, proxy_headers=True, forwarded_headers=ALL)
    whole = (CLIENT, "https", ("a.example", 8443), "/api", "/api/a")
    assert [seen(scope) for scope in scopes] == [
        whole,
        (("198.51.100.7", 9), "http", ADDRESS, "", "/a"),
        UNTOUCHED,
        UNTOUCHED,
        whole,
        *[(("198.51.100.8", 0), "http", ADDRESS, "", "/a")] * 2,
        UNTOUCHED,
    ]


def test_pipelined_requests(cy, run):
    application = Recording()

    async def test(connection):
        connection.feed(request(LINES[0]) + request() + request(b"X-Forwarded-For: 198.51.100.7"))
        await passes(50)
        assert [scope["client"] for scope in application.scopes] == [CLIENT, PEER, ("198.51.100.7", 0)]

    case(cy, run, application, test, proxy_headers=True)


def test_a_half_closed_connection_of_https(cy, run):
    """The scheme that a proxy names does not make its connection one with TLS, which has no halves."""

    async def test(connection):
        connection.feed(request(b"X-Forwarded-Proto: https"))
        assert connection.protocol.eof_received()
        await passes(20)
        assert connection.take().endswith(b"hello")

    case(cy, run, hello, test, proxy_headers=True)


def test_an_application_keeps_the_headers_to_itself(cy, run):
    """What one does to the headers of its scope is not seen when the same head comes again."""
    clients = []

    async def application(scope, receive, send):
        clients.append(scope["client"])
        scope["headers"].clear()
        scope["client"] = None
        await hello(scope, receive, send)

    async def test(connection):
        for path in (b"/a", b"/a", b"/b"):
            await connection.ask(request(LINES[0], path=path))
        assert clients == [CLIENT] * 3

    case(cy, run, application, test, proxy_headers=True)


class Log(io.StringIO):
    def clients(self):
        return [line.split(" ")[0] for line in self.getvalue().splitlines()]


def managed(cy, application, **attributes):
    cls = type("Server", (lifecycle(cy).ManagedServer, http(cy).HTTPServer), {})
    server = cls(application, binds="127.0.0.1:0")
    for name, value in attributes.items():
        setattr(server, name, value)
    return server


@pytest.mark.slow
@pytest.mark.parametrize("trusted", ["127.0.0.1", "192.0.2.0/24"])
def test_limits_and_the_access_log(cy, run, trusted):
    """Each client behind a trusted proxy has its own limit and its own lines; behind another one, the peer's."""
    log = Log()

    async def main():
        server = managed(
            cy,
            hello,
            proxy_headers=True,
            forwarded_allow_ips=trusted,
            max_messages_per_second=0.001,
            message_burst=2,
            access_log=log,
        )
        statuses = []
        async with serving(server) as [address]:
            for client in (b"192.0.2.77", b"2001:db8::1", b"2001:db8::2"):
                for _ in range(2):
                    answer = await talk(address, request(b"X-Forwarded-For: " + client, b"Connection: close"))
                    statuses.append(answer.split()[1])
            await talk(address, b"nonsense\r\n\r\n")
        return statuses

    statuses = run(main())
    clients = log.clients()
    if trusted == "127.0.0.1":
        # A network of 64 bits is one client.
        assert statuses == [b"200"] * 4 + [b"429"] * 2
        assert clients[:-1] == ["192.0.2.77:0"] * 2 + ["[2001:db8::1]:0"] * 2 + ["[2001:db8::2]:0"] * 2
    else:
        assert statuses == [b"200"] * 2 + [b"429"] * 4
        assert all(client.startswith("127.0.0.1:") for client in clients)
    assert clients[-1].startswith("127.0.0.1:")


def test_the_log_names_nobody_for_what_was_not_read(cy, run):
    """A malformed request behind another client's, on the same connection, is logged as the proxy's."""
    log = Log()

    async def test(connection):
        connection.server.log = importlib.import_module(f"{cy.__name__}.gateways.access_log").AccessLog(log)
        await connection.ask(request(LINES[0]))
        await connection.ask(b"nonsense\r\n\r\n")
        connection.server.log.flush()
        assert log.clients() == ["192.0.2.1:0", "127.0.0.1:1234"]

    case(cy, run, hello, test, proxy_headers=True)


@pytest.mark.parametrize(
    ("lines", "body"),
    [
        ((b"Content-Length: 100",), b""),
        ((b"Transfer-Encoding: chunked",), b"64\r\n" + bytes(100)),
    ],
)
def test_the_log_has_the_client_of_a_body_that_is_too_long(cy, run, lines, body):
    """The head was read, so its client is known: neither the proxy's address nor that of the request before."""
    log = Log()

    async def test(connection):
        connection.server.log = importlib.import_module(f"{cy.__name__}.gateways.access_log").AccessLog(log)
        await connection.ask(request(LINES[0]))
        head = request(b"X-Forwarded-For: 198.51.100.7", *lines)
        assert (await connection.ask(head + body)).startswith(b"HTTP/1.1 413 ")
        connection.server.log.flush()
        assert log.clients() == ["192.0.2.1:0", "198.51.100.7:0"]

    case(cy, run, hello, test, proxy_headers=True, max_body_size=10)


@pytest.mark.slow
def test_unix_sockets(cy, run, tmp_path):
    """Limits apply behind a proxy that comes by a Unix socket, too, and the log has the clients."""
    log = Log()
    path = str(tmp_path / "s")

    async def main():
        server = managed(cy, hello, proxy_headers=True, max_messages_per_second=0.001, message_burst=1, access_log=log)
        server.binds = type(server)(hello, binds=f"unix:{path}").binds
        statuses = []
        async with serving(server) as [address]:
            for client in (b"192.0.2.1", b"192.0.2.1", b"192.0.2.2"):
                answer = await talk(address, request(b"X-Forwarded-For: " + client, b"Connection: close"))
                statuses.append(answer.split()[1])
        return statuses

    assert run(main()) == [b"200", b"429", b"200"]
    assert log.clients() == ["192.0.2.1:0", "192.0.2.1:0", "192.0.2.2:0"]


@pytest.mark.slow
@pytest.mark.parametrize("proto", [b"https", b"wss", b"http", b"ws"])
def test_websockets(cy, run, proto):
    """Their scheme is ws or wss, and their limits and the log have the client."""
    pytest.importorskip("websockets")
    scopes = []
    log = Log()

    async def application(scope, receive, send):
        scopes.append(scope)
        await receive()
        await send({"type": "websocket.close"})

    async def main():
        server = managed(cy, application, proxy_headers=True, lifespan="off", access_log=log)
        async with serving(server) as [address]:
            said = (b"x-forwarded-for", b"192.0.2.1:7"), (b"x-forwarded-proto", proto)
            assert b" 403 " in await talk(address, handshake(*said))
            await in_time(lambda: not server.connections)

    run(main())
    assert scopes[0]["type"] == "websocket"
    assert (scopes[0]["client"], scopes[0]["scheme"]) == (
        ("192.0.2.1", 7),
        "wss" if proto in (b"https", b"wss") else "ws",
    )
    assert log.clients() == ["192.0.2.1:7"]


@pytest.mark.slow
def test_tls(cy, run, tmp_path):
    """Over TLS to the proxy, a request may still be one that came to it in the clear."""
    scopes = []

    async def application(scope, receive, send):
        scopes.append(scope)
        await hello(scope, receive, send)

    async def main():
        write_certificates(tmp_path)
        served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        served.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
        context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
        server = http(cy).HTTPServer(application, binds="127.0.0.1:0", ssl=served)
        server.proxy_headers = True
        server.lifespan = "off"
        async with serving(server) as [address]:
            for proto in (b"http", b"https"):
                reader, writer = await asyncio.open_connection(*address, ssl=context)
                writer.write(request(LINES[0], b"X-Forwarded-Proto: " + proto, b"Connection: close"))
                assert (await reader.read()).endswith(b"hello")
                writer.close()
                with contextlib.suppress(OSError, ssl.SSLError):
                    await writer.wait_closed()

    run(main())
    assert [(scope["client"], scope["scheme"]) for scope in scopes] == [(CLIENT, "http"), (CLIENT, "https")]
    assert all("tls" in scope["extensions"] for scope in scopes)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("proxy_headers", "yes", TypeError),
        ("forwarded_allow_ips", None, TypeError),
        ("forwarded_allow_ips", [1], TypeError),
        ("forwarded_allow_ips", "localhost", ValueError),
        ("forwarded_allow_ips", "", ValueError),
        ("forwarded_allow_ips", ["10.0.0.1/8"], ValueError),
        ("forwarded_headers", "", ValueError),
        ("forwarded_headers", b"forwarded", TypeError),
        ("forwarded_headers", "x-forwarded-by", ValueError),
        ("forwarded_headers", "X-Forwarded-For", ValueError),
        ("forwarded_headers", "forwarded,x-forwarded-for", ValueError),
        ("forwarded_headers", "forwarded,forwarded", ValueError),
    ],
)
def test_wrong_settings(cy, name, value, error):
    """An error names the value and what is accepted."""
    server = http(cy).HTTPServer(hello)
    with pytest.raises(error, match=f"^{name}=.*accepted is "):
        setattr(server, name, value)


def test_balancing_by_client(cy, run):
    """Each client behind the proxy has one application, the same for all of its requests."""
    seen = {}

    def application(name):
        async def application(scope, receive, send):
            seen.setdefault(scope["client"][0], set()).add(name)
            await hello(scope, receive, send)

        return application

    balancing = importlib.import_module(f"{cy.__name__}.balancing")
    names = "abcd"
    balancer = balancing.LoadBalancer({name: application(name) for name in names}, strategy="consistent-hash")
    clients = [f"192.0.2.{number}" for number in range(32)]

    async def test(connection):
        for client in clients * 2:
            assert (await connection.ask(request(b"X-Forwarded-For: " + client.encode()))).endswith(b"hello")

    case(cy, run, balancer, test, proxy_headers=True)
    assert list(seen) == clients
    assert all(len(one) == 1 for one in seen.values()) and len(set().union(*seen.values())) == len(names)


addresses = st.sampled_from(
    ["192.0.2.1", "192.0.2.2:80", "10.0.0.1", "10.0.0.2:99", "2001:db8::1", "[2001:db8::2]:7", "127.0.0.1"]
)


@settings(deadline=None)
@given(
    st.lists(st.lists(addresses, min_size=1, max_size=4), min_size=1, max_size=3),
    st.sampled_from(["127.0.0.1", "127.0.0.1,10.0.0.0/8", "*", "127.0.0.1,2001:db8::2", "192.0.2.1"]),
    st.sampled_from([None, "http", "https", "ws", "wss", "HTTP2"]),
)
def test_as_uvicorn_does(lists, trusted, proto):
    """For what is well-formed, client and scheme are those that uvicorn's middleware finds with the same settings."""
    middleware = pytest.importorskip("uvicorn.middleware.proxy_headers")
    headers = [(b"x-forwarded-for", ", ".join(one).encode()) for one in lists]
    headers += [] if proto is None else [(b"x-forwarded-proto", proto.encode())]
    scope = {"type": "http", "client": PEER, "scheme": "http", "headers": headers}

    async def application(scope, receive, send):
        pass

    asyncio.run(middleware.ProxyHeadersMiddleware(application, trusted)(scope, None, None))
    names = trusted_proxies(trusted)
    said = said_in(headers, names) if names.has_host(PEER[0]) else NOTHING
    assert (said.client or PEER) == scope["client"]
    assert (said.scheme or "http") == scope["scheme"].replace("ws", "http")
