"""Where a Redis is, as text: URLs of the command, and layers made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from ..errors import LayerError

ACCEPTED = (
    "redis://[USER:PASSWORD@]HOST[:PORT][/DB], rediss:// for TLS, unix://PATH, or "
    "sentinel://HOST[:PORT],HOST[:PORT].../MASTER[/DB]"
)
SCHEMES = ("redis", "rediss", "unix", "sentinel")
SENTINEL_PORT = 26379


def parse_host(url: str) -> dict[str, Any]:
    """Return the entry of `hosts` in the configuration of a `RedisChannelLayer` that a URL stands for.

    Raises:
        ValueError: it is no such URL.
    """
    try:
        parts = urlsplit(url)
        # It is looked at when it is asked for.
        valid = parts.scheme in SCHEMES and (parts.scheme == "sentinel" or parts.port != 0)
        if valid and parts.scheme == "sentinel":
            return _sentinel(parts)
    except ValueError:
        valid = False
    if not valid or not (parts.hostname or (parts.scheme == "unix" and parts.path)):
        raise ValueError(f"{without_password(url)!r}: accepted are {ACCEPTED}")
    if parts.scheme != "unix" and not (parts.path in ("", "/") or parts.path[1:].isdecimal()):
        raise ValueError(f"{without_password(url)!r}: {parts.path!r} is not the number of a database")
    return {"address": url}


def _sentinel(parts: SplitResult) -> dict[str, Any]:
    credentials, _, netloc = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    sentinels = []
    for one in netloc.split(","):
        where = urlsplit(f"//{one}")
        if not where.hostname:
            raise ValueError(one)
        sentinels.append((where.hostname, where.port or SENTINEL_PORT))
    master, _, db = parts.path.removeprefix("/").partition("/")
    if not master or not (db == "" or db.isdecimal()):
        raise ValueError(parts.path)
    host: dict[str, Any] = {"sentinels": sentinels, "master_name": unquote(master), "db": int(db or 0)}
    if user:
        host["username"] = unquote(user)
    if password:
        host["password"] = unquote(password)
    return host


def without_password(url: str) -> str:
    """Return the URL without a password."""
    before, found, after = url.rpartition("@")
    if not found:
        return url
    begin = before.find("://")
    user, colon, _ = before[begin + 3 :].partition(":")
    return f"{before[: begin + 3]}{user}{colon and ':...'}@{after}"


def make_layer(hosts: Sequence[dict[str, Any]], prefix: str) -> Any:
    """Return a `RedisChannelLayer` of channels_redis.

    Raises:
        LayerError: channels_redis is not installed.
    """
    try:
        from channels_redis.core import RedisChannelLayer
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        raise LayerError(f"channels on Redis need {library}: pip install 'cyasgi[redis]'") from None
    return RedisChannelLayer(hosts=list(hosts), prefix=prefix)
