"""Lines of the access log in other formats: Apache's directives, and JSON."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable
from json.encoder import encode_basestring_ascii
from typing import Any, NamedTuple
from urllib.parse import quote

from .._settings import Bound

#: The format that is not made of directives: an object a line.
JSON = "json"

#: What is not percent-encoded in a target.
PLAIN = "".join(chr(code) for code in range(33, 127) if code != 34)
QUOTE = ord('"')

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

DIRECTIVE = re.compile(r"%(?:\{(?P<argument>[^}]*)\})?(?P<name>>?[A-Za-z%]|$)")
#: What would end a field or a line, or hide one on a terminal.
UNSAFE = re.compile(r'["\\\x00-\x1f\x7f-\xff]')

Fields = Iterable[tuple[bytes, bytes]]


class Entry(NamedTuple):
    """What there is to tell of one request."""

    #: The time, in seconds since the epoch.
    second: int
    #: The client's address; "-" if it has none.
    client: str
    #: Empty for a malformed request: then target, version and headers are not logged.
    method: str
    target: bytes
    version: str
    status: int
    #: Bytes of the body of the response.
    size: int
    #: Seconds.
    took: float
    #: The request's, with names in lower case.
    headers: Fields
    #: The response's, as they were written, each with CRLF before it.
    lines: bytes


Directive = Callable[[Entry], object]


def escaped(text: str) -> str:
    r"""Write quotes, backslashes and what is not printable ASCII as Apache does, as in ``\"`` and ``\xe4``."""
    return UNSAFE.sub(lambda found: f"\\{found[0]}" if found[0] in '"\\' else f"\\x{ord(found[0]):02x}", text)


def target_text(target: bytes) -> str:
    """Return a target as text, in which quotes and what is not ASCII are percent-encoded."""
    return target.decode("ascii") if target.isascii() and QUOTE not in target else quote(target, PLAIN)


def bracketed(moment: time.struct_time) -> str:
    """Return a moment in UTC as the Common Log Format has it, whatever the locale."""
    return time.strftime(f"[%d/{MONTHS[moment.tm_mon - 1]}/%Y:%H:%M:%S +0000]", moment)


def _host(entry: Entry) -> str:
    return entry.client.rpartition(":")[0].strip("[]") or entry.client


def _port(entry: Entry) -> str:
    return entry.client.rpartition(":")[2] if ":" in entry.client else "-"


def _request(entry: Entry) -> str:
    return f"{entry.method} {target_text(entry.target)} HTTP/{entry.version}" if entry.method else "-"


def _path(entry: Entry) -> str:
    return target_text(entry.target).partition("?")[0] if entry.method else "-"


def _query(entry: Entry) -> str:
    _, mark, query = target_text(entry.target).partition("?")
    return mark + query if entry.method else ""


def _request_header(name: str) -> Directive:
    wanted = name.lower().encode("latin-1")

    def directive(entry: Entry) -> str:
        found = [value for key, value in entry.headers if key == wanted] if entry.method else []
        return escaped(b", ".join(found).decode("latin-1")) if found else "-"

    return directive


def _response_header(name: str) -> Directive:
    start = name.lower().encode("latin-1") + b": "

    def directive(entry: Entry) -> str:
        found = [line.removeprefix(start) for line in entry.lines.split(b"\r\n") if line.startswith(start)]
        return escaped(b", ".join(found).decode("latin-1")) if found else "-"

    return directive


def _moment(form: str) -> Directive:
    if form == "sec":
        return lambda entry: entry.second
    if form in ("msec", "usec") or form.startswith(("begin:", "end:")) or re.search("%[sn]", form):
        # Apache's, which strftime does not have, or takes for something else.
        raise ValueError(f"'%{{{form}}}t' is none of the directives of the access log")
    last = (-1, "")

    def directive(entry: Entry) -> str:
        nonlocal last
        if entry.second != last[0]:
            last = entry.second, time.strftime(form, time.gmtime(entry.second))
        return last[1]

    return directive


#: By name and argument.
DIRECTIVES: dict[tuple[str, str | None], Directive] = {
    ("%", None): lambda entry: "%",
    ("h", None): _host,
    ("a", None): _host,
    ("p", "remote"): _port,
    ("l", None): lambda entry: "-",
    ("u", None): lambda entry: "-",
    ("t", None): lambda entry: bracketed(time.gmtime(entry.second)),
    ("r", None): _request,
    ("m", None): lambda entry: entry.method or "-",
    ("U", None): _path,
    ("q", None): _query,
    ("H", None): lambda entry: f"HTTP/{entry.version}" if entry.method else "-",
    ("s", None): lambda entry: entry.status,
    (">s", None): lambda entry: entry.status,
    ("B", None): lambda entry: entry.size,
    ("b", None): lambda entry: entry.size or "-",
    ("D", None): lambda entry: round(entry.took * 1e6),
    ("T", None): lambda entry: int(entry.took),
    ("T", "s"): lambda entry: int(entry.took),
    ("T", "ms"): lambda entry: round(entry.took * 1e3),
    ("T", "us"): lambda entry: round(entry.took * 1e6),
    ("P", None): lambda entry: os.getpid(),
    ("v", None): _request_header("host"),
    ("V", None): _request_header("host"),
}
#: By name: those whose argument is free.
OPEN: dict[str, Callable[[str], Directive]] = {"i": _request_header, "o": _response_header, "t": _moment}


def compiled(text: str) -> Callable[[Entry], str]:
    """Return the function that makes a line, without its end, in a format of Apache's directives (mod_log_config).

    Raises:
        ValueError: it has a directive that is not known here.
    """
    parts: list[str] = []
    directives: list[Directive] = []
    end = 0
    for found in DIRECTIVE.finditer(text):
        name, argument = found["name"], found["argument"]
        directive = DIRECTIVES.get((name, argument))
        if directive is None and argument and argument.isascii() and name in OPEN:
            directive = OPEN[name](argument)
        if directive is None:
            raise ValueError(f"{found[0]!r} is none of the directives of the access log")
        parts.append(text[end : found.start()].replace("%", "%%"))
        directives.append(directive)
        end = found.end()
    if "%" in text[end:]:
        raise ValueError(f"{text[end:]!r} is none of the directives of the access log")
    template = "%s".join([*parts, text[end:]])

    def line(entry: Entry) -> str:
        return template % tuple([directive(entry) for directive in directives])

    return line


def json_line(
    moment: str,
    id_name: bytes | None,
    client: str,
    method: str,
    target: bytes,
    version: str,
    status: int,
    size: int,
    took: float,
    headers: Fields,
    lines: bytes,
) -> str:
    """Return an object in JSON, on one line.

    Args:
        moment: the time as it stands in there.
        id_name: the header that has the id of the request; None for no ids. For all else, see `Entry`.
    """
    if method:
        request = f'"{method}","target":{encode_basestring_ascii(target_text(target))},"protocol":"HTTP/{version}"'
    else:
        request = 'null,"target":null,"protocol":null'
    end = "}"
    if id_name is not None and method:
        found = next((value for key, value in headers if key == id_name), b"")
        end = f',"request_id":{encode_basestring_ascii(found.decode("latin-1"))}}}'
    return (
        f'{{"time":"{moment}","client":{encode_basestring_ascii(client)},"method":{request},"status":{status},'
        f'"bytes":{size},"duration_us":{took * 1e6:.0f}{end}'
    )


class AccessLogFormat(Bound):
    """The format of the access log."""

    def __init__(self) -> None:
        accepted = "'json' or one line of Apache's directives, as in '%h %t \"%r\" %>s %B %D'"
        super().__init__(accepted, accepted, "the Common Log Format, followed by the duration")

    def wrong(self, value: Any) -> type[Exception] | None:
        if not isinstance(value, str):
            return TypeError
        if value == JSON:
            return None
        try:
            compiled(value)
        except ValueError as error:
            return type(error)
        return ValueError if "%" not in value or not value.isprintable() else None

    def read(self, text: str) -> str:
        return text
