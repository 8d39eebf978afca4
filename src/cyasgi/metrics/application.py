"""The ASGI application that shows metrics, health and the live page."""

from __future__ import annotations

from .._settings import Number
from .._types import Receive, Scope, Send
from .live_page import LivePage
from .snapshot import Source, not_ready

#: Seconds by which an event loop may be late until the process is not ready.
LAG_BOUND = 5.0
_LAG_BOUND = Number("number of seconds")

TEXT, HTML = "text/plain; charset=utf-8", "text/html; charset=utf-8"
METHODS = "GET, HEAD"
#: Of all responses: nothing is kept, nothing is loaded from elsewhere, and nothing runs in a browser.
HEADERS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
)

#: Status, type and body.
Answer = tuple[int, str, bytes]


class MetricsApplication:
    """Answers `/metrics`, `/healthz`, `/readyz`, and `/` with the live page.

    Args:
        source: knows the processes.
        lag_bound: seconds by which an event loop may be late until `/readyz` says that it is not ready; default 5.

    Raises:
        TypeError, ValueError: `lag_bound` is no positive number.
    """

    def __init__(self, source: Source, *, lag_bound: float = LAG_BOUND) -> None:
        self._source = source
        _LAG_BOUND("lag_bound", lag_bound)
        self._lag_bound = lag_bound
        self._page = LivePage(source, lag_bound)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            # It is answered 403.
            await receive()
            await send({"type": "websocket.close"})
            return
        if scope["type"] != "http":
            raise ValueError(f"scope type {scope['type']!r}: metrics are served for 'http' alone")
        further: tuple[tuple[bytes, bytes], ...] = ()
        if scope["method"] not in ("GET", "HEAD"):
            status, kind, body = 405, TEXT, f"{METHODS} are accepted\n".encode()
            further = ((b"allow", METHODS.encode()),)
        else:
            status, kind, body = self._answer(scope)
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [
                    (b"content-type", kind.encode()),
                    (b"content-length", str(len(body)).encode()),
                    *HEADERS,
                    *further,
                ],
            }
        )
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    def _answer(self, scope: Scope) -> Answer:
        root = scope.get("root_path", "").rstrip("/")
        path = scope["path"]
        if root and (path == root or path.startswith(f"{root}/")):
            path = path[len(root) :]
        if path == "/metrics":
            return self._metrics(scope)
        if path == "/healthz":
            return 200, TEXT, b"ok\n"
        if path == "/readyz":
            reason = not_ready(self._source.snapshot(), self._lag_bound)
            return (200, TEXT, b"ready\n") if reason is None else (503, TEXT, f"not ready: {reason}\n".encode())
        if path in ("", "/"):
            refreshing = b"refresh=off" not in scope.get("query_string", b"").split(b"&")
            return 200, HTML, self._page.render(root, refreshing=refreshing)
        return 404, TEXT, b"there are /, /metrics, /healthz and /readyz\n"

    def _metrics(self, scope: Scope) -> Answer:
        try:
            from .exposition import CyasgiCollector
        except ModuleNotFoundError as error:
            if error.name != "prometheus_client":
                raise
            return 501, TEXT, f"{error}\n".encode()
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import choose_encoder

        registry = CollectorRegistry()
        registry.register(CyasgiCollector(self._source))
        accepted = b", ".join(value for name, value in scope["headers"] if name == b"accept")
        try:
            encode, kind = choose_encoder(accepted.decode("latin-1"))
        except (TypeError, ValueError):
            # What the client asks for is malformed.
            encode, kind = choose_encoder("")
        return 200, kind, encode(registry)
