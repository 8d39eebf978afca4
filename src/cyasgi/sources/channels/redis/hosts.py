"""Where a Redis is, as text: URLs of the command, and layers made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

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
    scheme, _, rest = url.partition("://")
    if scheme.lower() == "sentinel":
        return _sentinel(url, rest)
    try:
        parts = urlsplit(url)
        # It is looked at when it is asked for.
        valid = parts.scheme in SCHEMES and parts.port != 0
    except ValueError:
        valid = False
    if not valid or not (parts.hostname or (parts.scheme == "unix" and parts.path)):
        raise ValueError(f"{without_password(url)!r}: accepted are {ACCEPTED}")
    if parts.scheme != "unix" and not (parts.path in ("", "/") or parts.path[1:].isdecimal()):
        raise ValueError(f"{without_password(url)!r}: {parts.path!r} is not the number of a database")
    return {"address": url}


def _sentinel(url: str, rest: str) -> dict[str, Any]:
    """Return the entry for a URL of Sentinels, which has more than one host: no URL to `urlsplit`.

    Raises:
        ValueError: what follows `sentinel://` names no Sentinel and no master.
    """
    where, _, path = rest.partition("/")
    credentials, _, hosts = where.rpartition("@")
    user, _, password = credentials.partition(":")
    master, _, db = path.partition("/")
    try:
        each = [urlsplit(f"//{host}") for host in hosts.split(",")]
        sentinels = [(one.hostname, one.port or SENTINEL_PORT) for one in each]
        valid = all(name for name, _ in sentinels) and not any(one.query or one.fragment for one in each)
    except ValueError:
        valid = False
    if not valid or not master or not (db == "" or db.isdecimal()) or not {"?", "#"}.isdisjoint(path):
        raise ValueError(f"{without_password(url)!r}: accepted are {ACCEPTED}")
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
