"""The head of a request: where it ends, what it says, and whether that is allowed (RFC 9112 sections 2 to 6).

httptools (llhttp) parses the lines. It gets one head at a time and nothing that follows. What it accepts although this
server does not, such as other versions, several spaces or a missing Host header, is checked here on the bytes.
"""

from __future__ import annotations

import functools
import re
from typing import Any, NamedTuple, NoReturn
from urllib.parse import quote, unquote_to_bytes

try:
    import httptools
except ModuleNotFoundError as error:
    if error.name != "httptools":
        raise
    raise ModuleNotFoundError("HTTP needs httptools: pip install 'cyasgi[http]'", name="httptools") from None

from ..headers import RequestHeaders
from .scope import HTTPError

END = b"\r\n\r\n"
#: As numbers: searching bytes for a number is several times faster than for bytes of length one.
SLASH, HASH = b"/#"

#: Bytes of a method, at most.
METHOD_SIZE = 32
#: Bytes of a request line beside its target: the method, two spaces and the version.
LINE_SLACK = METHOD_SIZE + 10

VERSIONS = (b"HTTP/1.1", b"HTTP/1.0")
WRONG_VERSION = "the version of HTTP is neither 1.1 nor 1.0"
#: A version that is well-formed (RFC 9112 section 2.3).
VERSION = re.compile(rb"HTTP/([0-9])\.[0-9]")

#: The usual methods, so that requests share their strings.
METHODS = {
    name.encode(): name
    for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "REPORT", "QUERY")
}

#: uri-host [ ":" port ] of RFC 9110 section 7.2; an empty one stands for a target without an authority.
HOST = re.compile(rb"(?:(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~!$&'()*+,;=%]+)(?::[0-9]*)?)?")
TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
ABSOLUTE = re.compile(rb"https?://([^/?#@]+)(/[^?#]*)?(\?.*)?", re.IGNORECASE)
BARE = re.compile(rb"(?<!\r)\n|\r[^\n]")
#: Empty lines that are ignored before a request.
EMPTY_LINES = 8

USER_INFORMATION = re.compile(rb"https?://[^/?#]*@", re.IGNORECASE)

#: Headers that a request may have only once: two recipients might believe different ones of two. The other headers that
#: are acted on are lists, whose lines count as one (RFC 9110 section 5.3).
ONCE = (b"host", b"content-length")


class HeadLimits(NamedTuple):
    """The largest head: bytes of the target, bytes of all header lines together, number of headers."""

    target_size: int = 8190
    header_size: int = 65_536
    header_count: int = 100


class Request(NamedTuple):
    """A request's head, for the protocol that the connection is handed to."""

    method: str
    target: bytes
    headers: list[tuple[bytes, bytes]]


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
                raise HTTPError(400, f"there are more than {EMPTY_LINES} empty lines before the request")
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
                raise HTTPError(414, f"the request target is longer than {self._limits.target_size} bytes")
        else:
            self._check_sizes(part, line_end)
            if not part.endswith(VERSIONS, 0, line_end):
                self._newer(bytes(part[:line_end]).rpartition(b" ")[2])
        if BARE.search(part, start):
            raise HTTPError(400, "a line ends in LF without CR, or holds CR without LF")

    def _check_sizes(self, head: bytes | bytearray, line_end: int) -> None:
        if line_end > self._limits.target_size:
            target = bytes(head[:line_end]).split(b" ")[1:2]
            if not target or len(target[0]) > self._limits.target_size:
                raise HTTPError(414, f"the request target is longer than {self._limits.target_size} bytes")
        if len(head) - line_end - 4 > self._limits.header_size:
            raise HTTPError(431, f"the headers are longer than {self._limits.header_size} bytes")

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
            self._check_sizes(head, line_end)
        try:
            method, target, version = head[:line_end].split(b" ")
        except ValueError:
            method, target, version = self._split_leniently(head[:line_end])
        fed = head
        if version == b"HTTP/1.1":
            self.version = "1.1"
            self.keep_alive = True
        elif version == b"HTTP/1.0":
            self.version = "1.0"
            self.keep_alive = False
        else:
            self.version = self._newer(version)
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
        self.target = target
        if len(headers) > self._limits.header_count:
            raise HTTPError(431, f"there are more than {self._limits.header_count} headers")
        framing_headers = collected.framing_headers
        if collected.repeated:
            self._check_repeated(headers)
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

    def _split_leniently(self, line: bytes) -> list[bytes]:
        parts = [part for part in line.split(b" ") if part]
        if self._strict or len(parts) != 3:
            raise HTTPError(400, "the request line is not: method, one space, target, one space, version")
        return parts

    def _newer(self, version: bytes) -> str:
        """Return the version by which to read a request of an unknown one: 1.1 if only the minor number is higher."""
        match = VERSION.fullmatch(version)
        if match is None:
            raise HTTPError(400, WRONG_VERSION)
        if match[1] != b"1":
            # RFC 9110 section 15.6.6.
            raise HTTPError(505, f"{WRONG_VERSION}: {version.decode()}")
        if self._strict:
            raise HTTPError(400, WRONG_VERSION)
        return "1.1"

    def _replace_method(self, method: bytes, head: bytes) -> bytes:
        """Return the head for httptools, if its method is not a usual one."""
        if not TOKEN.fullmatch(method):
            # httptools skips CR and LF before it.
            raise HTTPError(400, "the method is not a token")
        if method in (b"CONNECT", b"PRI"):
            # RFC 9110 section 9.1.
            raise HTTPError(501, f"the method {method.decode()} is not implemented")
        if len(method) > METHOD_SIZE:
            raise HTTPError(501, f"the method is longer than {METHOD_SIZE} bytes")
        # The framing does not depend on the method.
        return head if self._strict else head.replace(method, b"POST", 1)

    def _refuse(self, error: Exception, method: bytes) -> NoReturn:
        self._parser = None
        if isinstance(error, httptools.HttpParserInvalidMethodError):
            raise HTTPError(501, f"the method {method.decode('ascii')} is not known") from error
        raise HTTPError(400, str(error)) from error

    def _check_repeated(self, headers: list[tuple[bytes, bytes]]) -> None:
        names = [name for name, _ in headers]
        for name in ONCE:
            if (self._strict or name != b"host") and names.count(name) > 1:
                raise HTTPError(400, f"there are several {name.decode()} headers")

    def _interpret(self, fields: dict[bytes, bytes]) -> None:
        """Interpret Host, the framing, and what concerns the connection."""
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
                self._refuse_coding(self._list(fields, b"transfer-encoding"))
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

    @staticmethod
    def _refuse_coding(codings: list[bytes]) -> NoReturn:
        """Reject transfer codings: 501 if it is known where they end, though not what they mean; otherwise 400."""
        others = codings[:-1]
        if codings[-1] == b"chunked" and b"chunked" not in others and all(map(TOKEN.fullmatch, others)):
            # RFC 9112 section 6.1.
            raise HTTPError(501, f"the transfer coding {others[0].decode()} is not known: accepted is chunked")
        # Section 6.3, item 4.
        raise HTTPError(400, "the only Transfer-Encoding accepted is chunked")

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
        """Interpret a target in another form than /path?query (RFC 9112 section 3.2)."""
        if HASH in target:
            if self._strict:
                raise HTTPError(400, "there is a fragment in the request target")
            target = target.partition(b"#")[0]
        if target[:1] == b"/":
            self.path, _, self.query = target.partition(b"?")
        elif target == b"*" and self.method == "OPTIONS":
            self.path, self.query = target, b""
        elif (match := ABSOLUTE.fullmatch(target)) and HOST.fullmatch(match[1]):
            # Section 3.2.2: the authority in the target counts, and a Host header that differs is ignored.
            self.path, self.query = match[2] or b"/", (match[3] or b"?")[1:]
            self.headers = [(name, match[1] if name == b"host" else value) for name, value in self.headers]
        elif USER_INFORMATION.match(target):
            # RFC 9110 section 4.2.4.
            raise HTTPError(400, "there is user information in the request target")
        else:
            raise HTTPError(400, "the request target is neither a path nor a URL of http or https")

    def request(self) -> Request:
        """Return the last head."""
        return Request(self.method, self.target, self.headers)


def decode_path(path: bytes) -> str:
    """Return the path as ASGI has it: percent-decoded, then UTF-8-decoded, with U+FFFD for what is not UTF-8."""
    return unquote_to_bytes(path).decode("utf-8", "replace")


@functools.lru_cache(maxsize=64)
def encode_path(path: str) -> bytes:
    """Return the path as it stands in a request: UTF-8, percent-encoded except for what RFC 3986 section 3.3 allows."""
    return quote(path, safe="/!$&'()*+,;=:@", errors="surrogatepass").encode("ascii")


def split_list(headers: list[tuple[bytes, bytes]], name: bytes) -> list[str]:
    """Return the items of a header that is a comma-separated list, over all its lines."""
    values = [value for key, value in headers if key == name]
    items = b",".join(values).split(b",")
    return [text for item in items if (text := item.strip(b" \t").decode("latin-1"))]
