"""Sans-I/O HTTP: heads, bodies and responses as bytes, scopes and messages."""

from .scope import (
    ASGI,
    REASONS,
    SPEC_VERSION,
    WEBSOCKET_SPEC_VERSION,
    HTTPError,
    Scope,
    error_response,
    websocket_scope,
)

__all__ = [
    "ASGI",
    "REASONS",
    "SPEC_VERSION",
    "WEBSOCKET_SPEC_VERSION",
    "HTTPError",
    "Scope",
    "error_response",
    "websocket_scope",
]
