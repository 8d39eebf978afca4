"""The pure-Python twin of the head parser, which the compiled one is compared with.

httptools (llhttp) parses the lines. It gets one head at a time and nothing that follows. What it accepts although this
server does not, such as other versions, several spaces or a missing Host header, is checked here on the bytes.
"""

from __future__ import annotations

import re
from typing import Any, NoReturn

try:
    import httptools
except ModuleNotFoundError as error:
    if error.name != "httptools":
        raise
    raise ModuleNotFoundError("HTTP needs httptools: pip install 'cyasgi[http]'", name="httptools") from None

from ..headers import RequestHeaders
from .errors import HTTPError
from .head import (
    EMPTY_LINES,
    END,
    HOST,
    LINE_SLACK,
    TOKEN,
    VERSIONS,
    HeadLimits,
    Request,
    check_method,
    check_sizes,
    interpret_target,
    newer_version,
    refuse_coding,
    split_leniently,
    target_too_long,
    too_many_empty_lines,
    unknown_method,
)

#: As numbers: searching bytes for a number is several times faster than for bytes of length one.
SLASH, HASH, LF = b"/#\n"

#: The usual methods, so that requests share their strings.
METHODS = {
    name.encode(): name
    for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "REPORT", "QUERY")
}

BARE = re.compile(rb"(?<!\r)\n|\r[^\n]")

#: Headers that a request may have only once: two recipients might believe different ones of two. The other headers that
#: are acted on are lists, whose lines count as one (RFC 9110 section 5.3).
ONCE = (b"host", b"content-length")


class HeadParser:
    """Parses heads, one after another; its attributes describe the last one.

    Args:
        limits: a larger request is rejected: 414 for its target, 431 for its headers.
        strict: reject RFC violations even where parsing is unambiguous: a Host header that is missing, repeated or
            invalid; versions above 1.1 (otherwise 1.2 to 1.9 are read as 1.1, RFC 9110 section 2.5); methods that
            httptools does not know (otherwise any token of up to 32 bytes is a method); several spaces; a fragment in
            the target. What decides where a request ends is always checked.
    """

    __slots__ = (
        "__weakref__",
        "_collected",
        "_empty_lines",
        "_head",
        "_headers",
        "_host",
        "_limits",
        "_parser",
        "_quick",
        "_strict",
        "chunked",
        "expects_continue",
        "headers",
        "keep_alive",
        "length",
        "method",
        "path",
        "query",
        "takes_trailers",
        "target",
        "upgrade",
        "version",
    )

    def __init__(self, limits: HeadLimits = HeadLimits(), strict: bool = True) -> None:  # noqa: B008
        self._limits = limits
        self._strict = strict
        #: A head of at most this many bytes cannot break a limit of size.
        self._quick = min(limits.target_size, limits.header_size)
        self._parser: Any = None
        #: What the parser has found.
        self._collected = RequestHeaders()
        #: Empty lines since the last request.
        self._empty_lines = 0
        #: The last head, if an equal one means the same, and its headers.
        self._head = b""
        self._headers: tuple[tuple[bytes, bytes], ...] = ()
        #: The last Host that was found valid.
        self._host = b""
        self.method = ""
        #: The request target as it came, the path and the query within it (still percent-encoded).
        self.target = self.path = self.query = b""
        #: "1.1" or "1.0".
        self.version = ""
        #: Names in lower case, values without white space around them.
        self.headers: list[tuple[bytes, bytes]] = []
        #: The length of the body in bytes; 0 for none, and for a `chunked` one.
        self.length = 0
        self.chunked = False
        #: Whether the client lets the connection be used again.
        self.keep_alive = False
        self.expects_continue = False
        #: What Upgrade asks for, in lower case, if Connection names it too; just "websocket" if that is one of them.
        self.upgrade = b""
        #: Whether the client takes trailers (RFC 9110 section 6.5.1).
        self.takes_trailers = False

    # Where a head ends

    def take(self, buffer: bytearray, seen: int = 0) -> bytes | None:
        """Remove the next head from the buffer and return it; None if it is not complete.

        Args:
            seen: how many bytes of the buffer were there at the last call.

        Raises:
            HTTPError: what was received cannot be a part of a request, or is too long.
        """
        while buffer.startswith((b"\r\n", b"\n" if not self._strict else b"\r\n")):
            # RFC 9112 section 2.2: at least one empty line before a request is to be ignored.
            self._empty_lines += 1
            if self._empty_lines > EMPTY_LINES:
                raise too_many_empty_lines()
            del buffer[: 1 if buffer[0] == 10 else 2]
            seen = 0
        end = buffer.find(END, max(0, seen - 3))
        if end >= 0:
            head = bytes(buffer[: end + 4])
            del buffer[: end + 4]
            return head
        if buffer and buffer != b"\r":
            self._check_part(buffer, max(0, seen - 1))
        return None

    def _check_part(self, part: bytearray, start: int) -> None:
        line_end = part.find(b"\r\n")
        if not TOKEN.match(part):
            raise HTTPError(400, "this is not an HTTP request")
        if line_end < 0:
            if len(part) > self._limits.target_size + LINE_SLACK:
                raise target_too_long(self._limits)
        else:
            check_sizes(part, line_end, self._limits)
            if not part.endswith(VERSIONS, 0, line_end):
                newer_version(bytes(part[:line_end]).rpartition(b" ")[2], self._strict)
        if BARE.search(part, start):
            raise HTTPError(400, "a line ends in LF without CR, or holds CR without LF")

    # What a head says

    def parse(self, head: bytes) -> bool:
        """Read one head, from its first byte to the empty line that ends it.

        Returns:
            Whether it differs from the last one.

        Raises:
            HTTPError: it is malformed, or not served.
        """
        self._empty_lines = 0
        if head == self._head:
            # Many clients send equal heads on a connection.
            self.headers = list(self._headers)
            return False
        self._head = b""
        self.method = ""
        line_end = head.find(b"\r\n")
        if len(head) > self._quick:
            check_sizes(head, line_end, self._limits)
        try:
            method, target, version = head[:line_end].split(b" ")
        except ValueError:
            method, target, version = split_leniently(head[:line_end], self._strict)
        fed = head
        if version == b"HTTP/1.1":
            self.version = "1.1"
            self.keep_alive = True
        elif version == b"HTTP/1.0":
            self.version = "1.0"
            self.keep_alive = False
        else:
            self.version = newer_version(version, self._strict)
            self.keep_alive = True
            fed = b"%b HTTP/1.1%b" % (head[:line_end].rpartition(b" ")[0], head[line_end:])
        known_method = METHODS.get(method)
        if known_method is None:
            fed = self._replace_method(method, fed)
            known_method = method.decode("ascii")
        self.method = known_method
        collected = self._collected
        collected.clear()
        headers = self.headers = collected.fields
        parser = self._parser
        if parser is None:
            parser = self._parser = httptools.HttpRequestParser(collected)
        try:
            parser.feed_data(fed)
        except httptools.HttpParserUpgrade:
            self._parser = None
        except httptools.HttpParserError as error:
            self._refuse(error, method)
        if LF in target:
            # httptools takes that for the end of a line of HTTP/0.9, and what follows for a header.
            self._parser = None
            raise HTTPError(400, "the request target contains invalid characters")
        self.target = target
        if len(headers) > self._limits.header_count:
            raise HTTPError(431, f"there are more than {self._limits.header_count} headers")
        framing_headers = collected.framing_headers
        self._interpret(framing_headers)
        if not self.keep_alive or b"proxy-connection" in framing_headers:
            # httptools takes nothing after such a request. It takes Proxy-Connection for Connection.
            self._parser = None
        if target[0] == SLASH and HASH not in target:
            self.path, _, self.query = target.partition(b"?")
        else:
            self._interpret_target(target)
        if self._parser is not None:
            # The usual case: no body, no upgrade, and the connection goes on.
            self._head = head
            self._headers = tuple(self.headers)
        return True

    def _replace_method(self, method: bytes, head: bytes) -> bytes:
        """Return the head for httptools, if its method is not a usual one."""
        check_method(method)
        # The framing does not depend on the method.
        return head if self._strict else head.replace(method, b"POST", 1)

    def _refuse(self, error: Exception, method: bytes) -> NoReturn:
        self._parser = None
        if isinstance(error, httptools.HttpParserInvalidMethodError):
            raise unknown_method(method) from error
        raise HTTPError(400, str(error)) from error

    def _check_repeated(self, headers: list[tuple[bytes, bytes]]) -> None:
        names = [name for name, _ in headers]
        for name in ONCE:
            if (self._strict or name != b"host") and names.count(name) > 1:
                raise HTTPError(400, f"there are several {name.decode()} headers")

    def _interpret(self, fields: dict[bytes, bytes]) -> None:
        """Interpret Host, the framing, and what concerns the connection."""
        if self._collected.repeated:
            self._check_repeated(self.headers)
        self.chunked = self.expects_continue = self.takes_trailers = False
        self.length = 0
        self.upgrade = b""
        host = fields.get(b"host")
        if host != self._host or host is None:
            self._check_host(host)
        if b"connection" in fields:
            self._interpret_connection(fields)
        if b"content-length" in fields:
            length = fields[b"content-length"]
            # int() alone would take "+5", "1_0" and white space.
            if not length.isdigit() or len(length) > 18:
                raise HTTPError(400, "Content-Length is not a number of bytes")
            self.length = int(length)
            if self.length:
                # httptools waits for the body, which it never gets.
                self._parser = None
        if b"transfer-encoding" in fields:
            self._parser = None
            if b"content-length" in fields:
                raise HTTPError(400, "there are both Content-Length and Transfer-Encoding")
            if self.version == "1.0":
                raise HTTPError(400, "HTTP/1.0 has no Transfer-Encoding")
            if self._list(fields, b"transfer-encoding") != [b"chunked"]:
                refuse_coding(self._list(fields, b"transfer-encoding"))
            self.chunked = True
        if b"expect" in fields and self.version == "1.1":
            expected = {item for item in self._list(fields, b"expect") if item}
            if expected - {b"100-continue"}:
                raise HTTPError(417, "the only expectation accepted is 100-continue")
            self.expects_continue = bool(expected) and (self.chunked or self.length > 0)
        if b"te" in fields:
            self.takes_trailers = b"trailers" in self._list(fields, b"te")

    def _list(self, fields: dict[bytes, bytes], name: bytes) -> list[bytes]:
        """Return the members of a list, in lower case, over all its lines; empty ones too (RFC 9110 section 5.6.1)."""
        value = fields[name]
        if self._collected.repeated:
            value = b",".join(one for key, one in self.headers if key == name)
        return [member.strip(b" \t") for member in value.lower().split(b",")]

    def _check_host(self, host: bytes | None) -> None:
        if not self._strict:
            return
        if host is None:
            if self.version == "1.1":
                raise HTTPError(400, "there is no Host header")
        elif not HOST.fullmatch(host):
            raise HTTPError(400, "the Host header is not a host")
        else:
            self._host = host

    def _interpret_connection(self, fields: dict[bytes, bytes]) -> None:
        if not self._collected.repeated and fields[b"connection"].lower() == b"keep-alive":
            self.keep_alive = True
            return
        options = self._list(fields, b"connection")
        if b"close" in options:
            self.keep_alive = False
        elif b"keep-alive" in options:
            self.keep_alive = True
        if b"upgrade" in options and self.version == "1.1" and b"upgrade" in fields:
            wanted = self._list(fields, b"upgrade")
            # A client may offer several protocols; this is the only one that is accepted.
            self.upgrade = b"websocket" if b"websocket" in wanted else b", ".join(filter(None, wanted))

    def _interpret_target(self, target: bytes) -> None:
        self.path, self.query, authority = interpret_target(self.method, target, self._strict)
        if authority is not None:
            self.headers = [(name, authority if name == b"host" else value) for name, value in self.headers]

    def request(self) -> Request:
        """Return the last head."""
        return Request(self.method, self.target, self.headers)
