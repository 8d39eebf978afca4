"""The body of a request: extracted from what follows the head, up to its end (RFC 9112 sections 6 and 7)."""

from __future__ import annotations

import re

from .errors import HTTPError

#: Bytes of a chunk-size line, extensions included, at most.
MAX_CHUNK_LINE = 256
#: Bytes of all chunk extensions of one request, at most: only attacks use many.
MAX_EXTENSIONS = 16_384
#: Bytes of the trailer section, at most.
MAX_TRAILERS = 8192
#: Trailers, at most.
MAX_TRAILER_COUNT = 100

#: Extensions contain no control character but the tab.
CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})((?:[ \t]*;[\t -~\x80-\xff]*)?)")
TRAILER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[\t -~\x80-\xff]*")
#: Fields that must not be trailers (RFC 9110 section 6.5.1). Here they would be ignored, as all trailers are, but they
#: are sent to do harm to others.
FORBIDDEN_TRAILERS = {b"content-length", b"transfer-encoding", b"host", b"connection", b"trailer"}


class LengthBody:
    """A body of the length that Content-Length says."""

    __slots__ = ("done", "remaining", "rest")

    def __init__(self, length: int) -> None:
        self.remaining = length
        self.done = length == 0
        #: What came after the end of the body.
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """Return the part of the body in these bytes."""
        length = len(data)
        if length < self.remaining:
            self.remaining -= length
            return data
        if length > self.remaining:
            self.rest = data[self.remaining :]
            data = data[: self.remaining]
        self.remaining = 0
        self.done = True
        return data


class ChunkedBody:
    """A chunked body. Chunk extensions are ignored; trailers are checked and ignored."""

    __slots__ = ("_buffer", "_chunk", "_extensions", "_stage", "_trailer_count", "_trailers", "done", "rest")

    def __init__(self) -> None:
        self._buffer = b""
        #: Bytes of the chunk still to come.
        self._chunk = 0
        self._stage = self._size
        self._extensions = 0
        self._trailers = 0
        self._trailer_count = 0
        self.done = False
        #: What came after the end of the body.
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """Return the parts of the body in these bytes, joined.

        Raises:
            HTTPError: the bytes are not well-formed chunks.
        """
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        parts: list[bytes] = []
        position = 0
        while position < len(data) and not self.done:
            after = self._stage(data, position, parts)
            if after < 0:
                self._buffer = data[position:]
                break
            position = after
        if self.done:
            self.rest = data[position:]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    # The stages: each returns the position after what it has read, or -1 if that is not complete.

    def _line(self, data: bytes, position: int, limit: int, what: str) -> int:
        """Return the position of the CRLF that ends the line, or -1."""
        end = data.find(b"\n", position, position + limit + 2)
        if end > position and data[end - 1] == 13:
            return end - 1
        if end >= 0:
            raise HTTPError(400, f"a line of {what} ends in LF without CR")
        if data.find(b"\r", position, -1) >= 0:
            raise HTTPError(400, f"a line of {what} holds CR without LF")
        if len(data) - position >= limit + 2:
            raise HTTPError(400, f"a line of {what} is longer than {limit} bytes")
        return -1

    def _size(self, data: bytes, position: int, parts: list[bytes]) -> int:
        end = self._line(data, position, MAX_CHUNK_LINE, "chunk sizes")
        if end < 0:
            return -1
        match = CHUNK_LINE.fullmatch(data, position, end)
        if match is None:
            raise HTTPError(400, "the size of a chunk is not a hexadecimal number")
        self._extensions += len(match[2])
        if self._extensions > MAX_EXTENSIONS:
            raise HTTPError(400, f"the extensions of the chunks are longer than {MAX_EXTENSIONS} bytes")
        self._chunk = int(match[1], 16)
        self._stage = self._data if self._chunk else self._trailer
        return end + 2

    def _data(self, data: bytes, position: int, parts: list[bytes]) -> int:
        end = min(position + self._chunk, len(data))
        parts.append(data[position:end])
        self._chunk -= end - position
        if not self._chunk:
            self._stage = self._data_end
        return end

    def _data_end(self, data: bytes, position: int, parts: list[bytes]) -> int:
        end = data[position : position + 2]
        if not b"\r\n".startswith(end):
            raise HTTPError(400, "a chunk is longer than its size")
        if len(end) < 2:
            return -1
        self._stage = self._size
        return position + 2

    def _trailer(self, data: bytes, position: int, parts: list[bytes]) -> int:
        end = self._line(data, position, MAX_TRAILERS, "trailers")
        if end < 0:
            return -1
        if end == position:
            self.done = True
            return end + 2
        match = TRAILER.fullmatch(data, position, end)
        if match is None or match[1].lower() in FORBIDDEN_TRAILERS:
            raise HTTPError(400, "a trailer is malformed, or a header that may not be a trailer")
        self._trailers += end - position
        self._trailer_count += 1
        if self._trailers > MAX_TRAILERS or self._trailer_count > MAX_TRAILER_COUNT:
            raise HTTPError(431, f"the trailers are longer than {MAX_TRAILERS} bytes, or over {MAX_TRAILER_COUNT}")
        return end + 2
