"""A pytest plugin that puts our protocol into uvicorn's own tests, which drive it by a made-up loop and transport.

Loaded in a process of its own by `test_uvicorn_suite.py`, which also replaces uvicorn's class by ours in the list that
its conftest has.
"""

from __future__ import annotations

import asyncio

import pytest

from cyasgi.gateways.uvicorn import Protocol

#: What our protocol does otherwise, by the names of uvicorn's tests, and why.
_ANSWERED = "what fails before anything was sent is answered 500, and not by closing without a word"
_OWN_WORDS = "a refusal says what was wrong"
_GOES_ON = "the response is complete: what the application does behind it is reported, and costs nobody the connection"
_TIMERS = "one timer serves all connections (tested in test_deadlines.py); this looks for uvicorn's timer for each"
_LENGTH = "the whole body is known, and sent with its length instead of in chunks"
DIFFERENCES = {
    "test_invalid_header_name": _ANSWERED,
    "test_partial_response_returned": _ANSWERED,
    "test_response_header_splitting": _ANSWERED,
    "test_duplicate_start_message": _ANSWERED,
    "test_message_after_body_complete": _GOES_ON,
    "test_value_returned": "what an application returns is nobody's business (ASGI)",
    "test_keepalive_timeout": _TIMERS,
    "test_keepalive_timeout_with_pipelined_requests": _TIMERS,
    "test_keepalive_timeout_with_pipelined_websocket_upgrade": _TIMERS,
    "test_chunked_encoding": _LENGTH,
    "test_chunked_encoding_empty_body": _LENGTH,
    "test_invalid_http_request": _OWN_WORDS,
    "test_max_concurrency": "limit_concurrency is how many requests run; with 1, uvicorn refuses even the first",
    "test_100_continue_sent_when_body_consumed": (
        "no 100 is sent when the body has come already (RFC 9110 section 10.1.1 allows that)"
    ),
    "test_reset_contextvars_asyncio": (
        "a context that is reset has cyasgi.running, by which current_instance() knows (see test_http_uvicorn.py)"
    ),
}


class Loop:
    """The event loop, with what uvicorn's made-up one has: `run_one` lets the next response be made."""

    def __init__(self, protocol, loop):
        self._protocol = protocol
        self._loop = loop

    def __getattr__(self, name):
        return getattr(self._loop, name)

    async def run_one(self):
        transport = self._protocol.transport
        written = len(transport.buffer)
        for _ in range(10):
            await asyncio.sleep(0)
            if len(transport.buffer) != written and not transport.closed:
                break


class Adapted(Protocol):
    """Our protocol, with the attributes of uvicorn's that its tests use."""

    @property
    def loop(self):
        return self._adapted

    @loop.setter
    def loop(self, loop):
        self._adapted = Loop(self, loop)

    @property
    def ws_protocol_class(self):
        return self.server.config.ws_protocol_class

    @ws_protocol_class.setter
    def ws_protocol_class(self, value):
        self.server.config.ws_protocol_class = value

    def begin_request(self, head, rest=b""):
        super().begin_request(head, rest)
        if self.exchange is not None and self.exchange.instance is not None:
            self.scope = self.exchange.instance.scope


@pytest.fixture(autouse=True)
def _complete_transport(monkeypatch):
    """uvicorn's made-up transport has only what uvicorn's classes call."""
    from tests.protocols.test_http import MockTransport

    def abort(self):
        self.closed = True

    given = MockTransport.get_extra_info
    for name, value in {
        "abort": abort,
        "can_write_eof": lambda self: False,
        "get_write_buffer_size": lambda self: 0,
        "set_write_buffer_limits": lambda self, high=None, low=None: None,
        "writelines": lambda self, parts: self.write(b"".join(parts)),
        "get_extra_info": lambda self, key, default=None: given(self, key),
    }.items():
        monkeypatch.setattr(MockTransport, name, value, raising=False)


def pytest_collection_modifyitems(items):
    for item in items:
        reason = DIFFERENCES.get(item.originalname)
        if reason is not None:
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
