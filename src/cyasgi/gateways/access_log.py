"""The access log: a line for each response, and for each WebSocket at its end. Lines are written many at a time."""

from __future__ import annotations

import logging
import time
from typing import Any

from .._common.guarding import INTERRUPTS
from .access_formats import JSON, Entry, Fields, bracketed, compiled, json_line, target_text

logger = logging.getLogger(__name__)

#: Lines that are collected before they are written, at most.
LINES_AT_ONCE = 1024

#: The status that is logged where the client did not wait for a response.
CLIENT_GONE = 499


class AccessLog:
    """Writes lines in the Common Log Format, with the seconds that the request took at their end.

    ``192.0.2.1:54321 - - [23/Nov/2026:20:56:33 +0000] "GET /path?query HTTP/1.1" 200 13 0.001``

    No client can forge a line or a field: a target with white space or ASCII control characters is rejected, and quotes
    and what is not ASCII, such as the control characters of Latin-1, are percent-encoded.

    Args:
        stream: where lines are written: anything with ``write(str)``.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        #: Lines that wait to be written, `LINES_AT_ONCE` at most.
        self.lines: list[str] = []
        #: The time as it stands in lines.
        self.moment = ""
        self._second = -1

    def add(
        self,
        client: str,
        method: str,
        target: bytes,
        version: str,
        status: int,
        size: int,
        took: float,
        headers: Fields = (),
        lines: bytes = b"",
    ) -> None:
        """Add the line of one request, as `Entry` describes it."""
        request = f"{method} {target_text(target)} HTTP/{version}" if method else "-"
        self._put(f'{client} - - {self.moment} "{request}" {status} {size} {took:.3f}\n')

    def _put(self, line: str) -> None:
        self.lines.append(line)
        if len(self.lines) >= LINES_AT_ONCE:
            self.flush()

    def tick(self, second: int) -> None:
        """Write what has been collected; `second` is the time, in seconds since the epoch."""
        if self.lines:
            self.flush()
        if second != self._second:
            self._second = second
            now = time.gmtime(second)
            self.moment = self._at(now)

    @staticmethod
    def _at(now: time.struct_time) -> str:
        """Return a moment as it stands in lines, in UTC."""
        return bracketed(now)

    def flush(self) -> None:
        """Write what has been collected; what cannot be written is lost, which is logged."""
        lines, self.lines = self.lines, []
        try:
            self._stream.write("".join(lines))
            flush = getattr(self._stream, "flush", None)
            if flush is not None:
                flush()
        except INTERRUPTS:
            raise
        except BaseException as error:
            lost = "1 line of the access log was" if len(lines) == 1 else f"{len(lines)} lines of the access log were"
            logger.error("%s lost: %r", lost, error)


class _FurtherAccessLog(AccessLog):
    """Writes lines in another format, which can tell headers."""

    def _line(self, entry: tuple[Any, ...]) -> str:
        raise NotImplementedError

    def add(self, *entry: Any) -> None:
        """Add the line of one request, as `Entry` describes it; log an error if that cannot be made."""
        try:
            line = self._line(entry)
        except INTERRUPTS:
            raise
        except BaseException as error:
            # The headers are also the application's, which may have made anything of them.
            logger.error("1 line of the access log was lost: %r", error)
        else:
            self._put(line + "\n")


class JSONAccessLog(_FurtherAccessLog):
    """Writes an object a line, in JSON.

    Args:
        id_header: the header that has the id of a request; None for no ids.
    """

    def __init__(self, stream: Any, id_header: str | None = None) -> None:
        super().__init__(stream)
        self._id_name = None if id_header is None else id_header.lower().encode()

    @staticmethod
    def _at(now: time.struct_time) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", now)

    def _line(self, entry: tuple[Any, ...]) -> str:
        return json_line(self.moment, self._id_name, *entry)


class FormattedAccessLog(_FurtherAccessLog):
    """Writes lines in a format of Apache's directives."""

    def __init__(self, stream: Any, form: str) -> None:
        super().__init__(stream)
        self._compiled = compiled(form)

    def _line(self, entry: tuple[Any, ...]) -> str:
        return self._compiled(Entry(self._second, *entry))


def make_access_log(stream: Any, form: str | None, id_header: str | None = None) -> AccessLog:
    """Return an access log that writes to this stream.

    Args:
        form: what `AccessLogFormat` accepts.
        id_header: the header that has the id of a request; None for no ids.
    """
    if form is None:
        return AccessLog(stream)
    return JSONAccessLog(stream, id_header) if form == JSON else FormattedAccessLog(stream, form)
