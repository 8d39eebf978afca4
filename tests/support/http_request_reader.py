"""Streams of bytes read as requests, and what must hold of every request that is accepted."""

from __future__ import annotations

import re

from cyasgi.wire.http import HTTPError
from cyasgi.wire.http.body import ChunkedBody, LengthBody
from cyasgi.wire.http.request import HeadLimits, HeadParser
from support.http_corpus_bodies import CHUNKS, CONNECTIONS
from support.http_corpus_heads import CODINGS, HEADERS, HOSTS, LENGTHS, LINES, TARGETS

SEEDS = [
    case.data
    for cases in (LENGTHS, CODINGS, LINES, TARGETS, HOSTS, HEADERS, CHUNKS, CONNECTIONS)
    for case in cases
    if len(case.data) < 1000
]


USUAL = HeadLimits()


class Reader:
    """Takes a stream apart with the wire module, as a connection does; collects what comes of it."""

    def __init__(self, limits=USUAL, strict=True, twin=HeadParser):
        self.parser = twin(limits, strict)
        self.buffer = bytearray()
        self.body = None
        #: Heads and whole bodies.
        self.events = []
        self.heads = []
        self.partial = b""
        self.error = None
        self.complaint = ""

    def feed(self, data):
        if self.error is None:
            seen = len(self.buffer)
            self.buffer += data
            try:
                self.advance(seen)
            except HTTPError as error:
                self.error = error.status
                self.complaint = str(error)

    def advance(self, seen):
        while True:
            if self.body is None:
                head = self.parser.take(self.buffer, seen)
                seen = 0
                if head is None:
                    return
                self.parser.parse(head)
                self.heads.append(head)
                self.partial = b""
                self.events.append(self.described())
                self.body = ChunkedBody() if self.parser.chunked else LengthBody(self.parser.length)
            if not self.body.done:
                if not self.buffer:
                    return
                data, self.buffer = bytes(self.buffer), bytearray()
                self.partial += self.body.feed(data)
                if not self.body.done:
                    return
                self.buffer += self.body.rest
                seen = 0
            self.events.append(self.partial)
            self.body = None

    def described(self):
        names = "method target path query version headers length chunked keep_alive expects_continue upgrade"
        return {name: getattr(self.parser, name) for name in names.split()}


def read(pieces, **settings):
    reader = Reader(**settings)
    for piece in pieces:
        reader.feed(piece)
    return reader


def same(one, other):
    """Whether two readers saw the same.

    Of a body that turned out to be faulty one may have seen more; and of what has two faults, either may be named.
    """
    assert (one.events, one.error is None) == (other.events, other.error is None)
    assert one.partial.startswith(other.partial) or other.partial.startswith(one.partial)
    if one.error is None:
        assert one.partial == other.partial
        assert (one.body is None) == (other.body is None)


LINE = re.compile(rb"([A-Z\-]+) ([!-~\x80-\xff]+) HTTP/1\.([01])")


FIELD = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*((?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?)[ \t]*"
)


def check_head(head, event):
    """An accepted head says by RFC 9112 what the module says it does, and nothing ambiguous."""
    assert head.endswith(b"\r\n\r\n")
    first, *lines = head[:-4].split(b"\r\n")
    line = LINE.fullmatch(first)
    assert line, first
    assert line[1].decode() == event["method"] != "CONNECT"
    assert line[2] == event["target"]
    assert f"1.{line[3].decode()}" == event["version"]
    fields = [FIELD.fullmatch(one) for one in lines]
    assert all(fields), lines
    headers = [(field[1].lower(), field[2]) for field in fields]
    if event["target"].startswith(b"/"):
        assert headers == event["headers"]
        path, _, query = event["target"].partition(b"?")
        assert (event["path"], event["query"]) == (path, query)
    assert not re.search(rb"[#\x00-\x20\x7f]", event["target"])
    values = {name: [value for one, value in headers if one == name] for name, _ in headers}
    hosts = values.get(b"host", [])
    assert len(hosts) == 1 or (not hosts and event["version"] == "1.0")
    lengths, codings = values.get(b"content-length", []), values.get(b"transfer-encoding", [])
    assert len(lengths) + len(codings) <= 1
    if lengths:
        assert re.fullmatch(rb"[0-9]+", lengths[0])
        assert event["length"] == int(lengths[0]) and not event["chunked"]
    elif codings:
        assert codings[0].lower() == b"chunked" and event["chunked"] and event["version"] == "1.1"
    else:
        assert event["length"] == 0 and not event["chunked"]
    options = {option.strip(b" \t").lower() for value in values.get(b"connection", []) for option in value.split(b",")}
    if b"close" in options:
        assert not event["keep_alive"]
    elif event["version"] == "1.0":
        assert event["keep_alive"] == (b"keep-alive" in options)
    else:
        assert event["keep_alive"]


def check_accepted(reader):
    assert reader.error in (None, 400, 413, 414, 417, 431, 501, 505)
    assert reader.complaint.isprintable()
    heads = [event for event in reader.events if isinstance(event, dict)]
    assert len(heads) == len(reader.heads)
    for head, event in zip(reader.heads, heads, strict=True):
        check_head(head, event)
    for index, event in enumerate(reader.events):
        if isinstance(event, bytes) and not reader.events[index - 1]["chunked"]:
            assert len(event) == reader.events[index - 1]["length"]
