"""Names of the wire module of WebSockets that stand for either twin, and the start of a response that refuses."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _twin(cy, monkeypatch, request):
    """Each test of a module that imports this runs on both twins, under the names that it has for them."""
    for name in ("WebSocket", "WebSocketClosed"):
        monkeypatch.setattr(request.module, name, getattr(cy.wire.websocket, name))


START = {"type": "websocket.http.response.start", "status": 401, "headers": [(b"x-a", b"b")]}
