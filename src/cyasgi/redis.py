"""A part of Redis as an ASGI application over the stream gateway: strings that expire, and publish/subscribe.

Run ``cyasgi serve --tcp 127.0.0.1:6380 --framing resp cyasgi.redis:example``, then ``redis-cli -p 6380``. It shows that
a protocol of many clients takes a framing and an application; it keeps nothing on disk, and each process has data of
its own.
"""

from __future__ import annotations

import fnmatch
import math
import re
import time
from collections.abc import Callable, Hashable, Iterable
from typing import Any

from ._types import Receive, Scope, Send
from .core.context import current_instance

#: Bytes of keys and values together, at most.
MAX_BYTES = 268_435_456
#: What a key costs beside its bytes and those of its value, roughly.
OVERHEAD = 200

#: Bytes of a value, and of what one command is answered with, at most.
MAX_VALUE, MAX_REPLY = 1_048_576, 2_097_152
#: Channels that one client may be subscribed to, bytes of their names together, and bytes of a pattern, at most.
MAX_CHANNELS, MAX_NAMES, MAX_PATTERN = 1024, 65_536, 256
#: Seconds between two searches for what has expired, when there is no room.
SEARCH = 1.0

#: Commands that a client may send that is subscribed to channels.
WHILE_SUBSCRIBED = {b"PING", b"SUBSCRIBE", b"UNSUBSCRIBE", b"QUIT"}
INTEGER = "ERR value is not an integer or out of range"
SYNTAX = "ERR syntax error"
LARGEST = 2**63 - 1


class CommandFailed(Exception):
    """What a command is answered with, as an error."""


class Client:
    """One connection."""

    def __init__(self, scope_id: Hashable, server: Any) -> None:
        self.scope_id = scope_id
        self.server = server
        self.channels: dict[bytes, None] = {}
        #: Bytes of their names.
        self.names = 0
        self.name = b""
        self.over = False


class RedisApplication:
    """An ASGI application that answers commands of Redis.

    Args:
        max_bytes: of keys and values together; beyond, commands that write are answered OOM.
        clock: returns the time in seconds.
    """

    def __init__(self, max_bytes: int = MAX_BYTES, clock: Callable[[], float] = time.monotonic) -> None:
        self._values: dict[bytes, bytes] = {}
        #: When a key expires, for those that do.
        self._expiry: dict[bytes, float] = {}
        self._subscribers: dict[bytes, dict[Hashable, None]] = {}
        self._size = 0
        self._max_bytes = max_bytes
        self._clock = clock
        self._connections = 0
        self._next_search = -math.inf
        #: Each command: its method, and how many arguments it takes at least and at most.
        self._commands: dict[bytes, tuple[Callable[..., Any], int, float]] = {
            b"PING": (self._ping, 0, 1),
            b"ECHO": (lambda client, text: text, 1, 1),
            b"QUIT": (self._quit, 0, 0),
            b"SELECT": (self._select, 1, 1),
            b"HELLO": (self._hello, 0, math.inf),
            b"COMMAND": (lambda client, *args: [], 0, math.inf),
            b"CLIENT": (self._client, 1, math.inf),
            b"INFO": (self._info, 0, math.inf),
            b"DBSIZE": (self._dbsize, 0, 0),
            b"FLUSHALL": (self._flush, 0, 1),
            b"FLUSHDB": (self._flush, 0, 1),
            b"GET": (lambda client, key: self._get(key), 1, 1),
            b"SET": (self._set, 2, math.inf),
            b"SETNX": (lambda client, key, value: int(self._set(client, key, value, b"NX") is not None), 2, 2),
            b"GETDEL": (self._getdel, 1, 1),
            b"MGET": (lambda client, *keys: _bounded(self._get(key) for key in keys), 1, math.inf),
            b"MSET": (self._mset, 2, math.inf),
            b"DEL": (lambda client, *keys: sum(self._delete(key) for key in keys), 1, math.inf),
            b"EXISTS": (lambda client, *keys: sum(self._get(key) is not None for key in keys), 1, math.inf),
            b"TYPE": (lambda client, key: "none" if self._get(key) is None else "string", 1, 1),
            b"STRLEN": (lambda client, key: len(self._get(key) or b""), 1, 1),
            b"APPEND": (self._append, 2, 2),
            b"INCR": (lambda client, key: self._add(key, 1), 1, 1),
            b"DECR": (lambda client, key: self._add(key, -1), 1, 1),
            b"INCRBY": (lambda client, key, by: self._add(key, _integer(by)), 2, 2),
            b"DECRBY": (lambda client, key, by: self._add(key, -_integer(by)), 2, 2),
            b"KEYS": (self._keys, 1, 1),
            b"EXPIRE": (lambda client, key, seconds: self._expire(key, _integer(seconds)), 2, 2),
            b"PEXPIRE": (lambda client, key, ms: self._expire(key, _integer(ms) / 1000), 2, 2),
            b"PERSIST": (self._persist, 1, 1),
            b"TTL": (lambda client, key: self._left(key, 1), 1, 1),
            b"PTTL": (lambda client, key: self._left(key, 1000), 1, 1),
            b"PUBLISH": (self._publish, 2, 2),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "stream":
            raise ValueError(f"this application serves streams only, not {scope['type']!r}")
        instance = current_instance()
        client = Client(instance.scope_id, instance.server)
        self._connections += 1
        try:
            while not client.over:
                message = await receive()
                if message["type"] == "stream.receive":
                    for reply in self.answer(client, message["data"]):
                        await send({"type": "stream.send", "data": reply})
                elif message["type"] == "redis.message":
                    await send({"type": "stream.send", "data": [b"message", message["channel"], message["text"]]})
                elif message["type"] == "stream.disconnect":
                    if message["reason"] == "malformed":
                        await send({"type": "stream.send", "data": ValueError(f"ERR {message['detail']}")})
                    # A client that has closed its half may still listen.
                    client.over = message["reason"] != "eof" or not message["writable"] or not client.channels
        finally:
            self._connections -= 1
            self._unsubscribe(client, tuple(client.channels))

    def answer(self, client: Client, command: list[bytes]) -> list[Any]:
        """Return the replies to a command, usually one."""
        if not command:
            return []
        name, *args = command
        name = name.upper()
        if client.channels and name not in WHILE_SUBSCRIBED:
            return [ValueError(f"ERR Can't execute {_shown(name)!r}: only (P)SUBSCRIBE / PING / QUIT are allowed")]
        if name == b"SUBSCRIBE" and args:
            return self._subscribe(client, args)
        if name == b"UNSUBSCRIBE":
            return self._unsubscribe(client, args or tuple(client.channels) or (None,))
        found = self._commands.get(name)
        if found is None:
            return [ValueError(f"ERR unknown command {_shown(command[0])!r}")]
        method, least, most = found
        if not least <= len(args) <= most:
            return [ValueError(f"ERR wrong number of arguments for {_shown(name.lower())!r} command")]
        try:
            return [method(client, *args)]
        except CommandFailed as error:
            return [error]

    # Connections.

    def _ping(self, client: Client, text: bytes | None = None) -> Any:
        if client.channels:
            return [b"pong", text or b""]
        return "PONG" if text is None else text

    def _quit(self, client: Client) -> str:
        client.over = True
        return "OK"

    def _select(self, client: Client, number: bytes) -> str:
        if _integer(number):
            raise CommandFailed("ERR DB index is out of range")
        return "OK"

    def _hello(self, client: Client, version: bytes = b"2", *options: bytes) -> Any:
        if version != b"2":
            raise CommandFailed("NOPROTO unsupported protocol version")
        return [b"server", b"cyasgi", b"proto", 2, b"mode", b"standalone", b"role", b"master"]

    def _client(self, client: Client, action: bytes, *args: bytes) -> Any:
        action = action.upper()
        if action == b"SETNAME" and len(args) == 1:
            client.name = args[0]
        elif action == b"GETNAME":
            return client.name
        elif action == b"ID":
            return id(client)
        elif action != b"SETINFO":
            raise CommandFailed(f"ERR unknown subcommand {_shown(action)!r}")
        return "OK"

    def _info(self, client: Client, *sections: bytes) -> bytes:
        lines = (
            "# Server",
            "redis_mode:standalone",
            "# Clients",
            f"connected_clients:{self._connections}",
            "# Memory",
            f"used_memory:{self._size}",
            f"maxmemory:{self._max_bytes}",
            "# Keyspace",
            f"db0:keys={len(self._values)},expires={len(self._expiry)}",
        )
        return "".join(f"{line}\r\n" for line in lines).encode()

    # Keys.

    def _drop_expired(self, key: bytes) -> None:
        due = self._expiry.get(key)
        if due is not None and due <= self._clock():
            self._remove(key)

    def _remove(self, key: bytes) -> bool:
        value = self._values.pop(key, None)
        self._expiry.pop(key, None)
        if value is not None:
            self._size -= len(key) + len(value) + OVERHEAD
        return value is not None

    def _get(self, key: bytes) -> bytes | None:
        self._drop_expired(key)
        return self._values.get(key)

    def _store(self, key: bytes, value: bytes) -> None:
        """Set a value; when it expires stays as it is."""
        _check_size(value)
        self._make_room(self._growth(key, value))
        self._put(key, value)

    def _put(self, key: bytes, value: bytes) -> None:
        """Set a value for which there is room."""
        self._size += self._growth(key, value)
        self._values[key] = value

    def _growth(self, key: bytes, value: bytes) -> int:
        before = self._values.get(key)
        return len(key) + OVERHEAD + len(value) if before is None else len(value) - len(before)

    def _make_room(self, size: int) -> None:
        """Raise CommandFailed unless there is room for so many bytes more."""
        now = self._clock()
        if size > 0 and self._size + size > self._max_bytes and now >= self._next_search:
            self._next_search = now + SEARCH
            for key in [key for key, due in self._expiry.items() if due <= now]:
                self._remove(key)
        if size > 0 and self._size + size > self._max_bytes:
            raise CommandFailed("OOM command not allowed when used memory > 'maxmemory'.")

    def _set(self, client: Client, key: bytes, value: bytes, *options: bytes) -> Any:
        before = self._get(key)
        only: bytes | None = None
        due: float | None = None
        keeps = gets = False
        words = iter(options)
        for word in words:
            option = word.upper()
            if option in (b"NX", b"XX") and only is None:
                only = option
            elif option in (b"EX", b"PX") and due is None and (amount := next(words, None)) is not None:
                seconds = _integer(amount) / (1 if option == b"EX" else 1000)
                if seconds <= 0:
                    raise CommandFailed("ERR invalid expire time in 'set' command")
                due = self._clock() + seconds
            elif option == b"KEEPTTL":
                keeps = True
            elif option == b"GET":
                gets = True
            else:
                raise CommandFailed(SYNTAX)
        if keeps and due is not None:
            raise CommandFailed(SYNTAX)
        if (only == b"NX" and before is not None) or (only == b"XX" and before is None):
            return before if gets else None
        self._store(key, value)
        if due is not None:
            self._expiry[key] = due
        elif not keeps:
            self._expiry.pop(key, None)
        return before if gets else "OK"

    def _mset(self, client: Client, *pairs: bytes) -> str:
        if len(pairs) % 2:
            raise CommandFailed("ERR wrong number of arguments for 'mset' command")
        new = dict(zip(pairs[::2], pairs[1::2], strict=True))
        # All of them or none.
        for key, value in new.items():
            _check_size(value)
            self._drop_expired(key)
        self._make_room(sum(self._growth(key, value) for key, value in new.items()))
        for key, value in new.items():
            self._put(key, value)
            self._expiry.pop(key, None)
        return "OK"

    def _delete(self, key: bytes) -> bool:
        self._drop_expired(key)
        return self._remove(key)

    def _getdel(self, client: Client, key: bytes) -> bytes | None:
        value = self._get(key)
        self._remove(key)
        return value

    def _append(self, client: Client, key: bytes, value: bytes) -> int:
        whole = (self._get(key) or b"") + value
        self._store(key, whole)
        return len(whole)

    def _add(self, key: bytes, by: int) -> int:
        number = _integer(self._get(key) or b"0") + by
        if not -LARGEST - 1 <= number <= LARGEST:
            raise CommandFailed("ERR increment or decrement would overflow")
        self._store(key, b"%d" % number)
        return number

    def _keys(self, client: Client, pattern: bytes) -> list[bytes | None]:
        if len(pattern) > MAX_PATTERN:
            raise CommandFailed("ERR the pattern is too long")
        now = self._clock()
        # Not by `fnmatch.fnmatchcase`, which keeps 32,768 compiled patterns for good.
        matches = re.compile(fnmatch.translate(pattern.decode("latin-1")).encode("latin-1")).match
        return _bounded(key for key in self._values if matches(key) and self._expiry.get(key, math.inf) > now)

    def _dbsize(self, client: Client) -> int:
        return len(self._values)

    def _flush(self, client: Client, how: bytes = b"") -> str:
        self._values.clear()
        self._expiry.clear()
        self._size = 0
        return "OK"

    def _expire(self, key: bytes, seconds: float) -> int:
        if self._get(key) is None:
            return 0
        if seconds <= 0:
            self._remove(key)
        else:
            self._expiry[key] = self._clock() + seconds
        return 1

    def _persist(self, client: Client, key: bytes) -> int:
        return int(self._get(key) is not None and self._expiry.pop(key, None) is not None)

    def _left(self, key: bytes, unit: int) -> int:
        if self._get(key) is None:
            return -2
        due = self._expiry.get(key)
        return -1 if due is None else math.ceil((due - self._clock()) * unit)

    # Publish/subscribe.

    def _subscribe(self, client: Client, channels: list[bytes]) -> list[Any]:
        replies: list[Any] = []
        for channel in channels:
            if channel not in client.channels:
                if len(client.channels) >= MAX_CHANNELS or client.names + len(channel) > MAX_NAMES:
                    limits = f"{MAX_CHANNELS} channels, with names of {MAX_NAMES} bytes together"
                    replies.append(ValueError(f"ERR a client may subscribe to {limits}"))
                    break
                client.names += len(channel)
            client.channels[channel] = None
            self._subscribers.setdefault(channel, {})[client.scope_id] = None
            replies.append([b"subscribe", channel, len(client.channels)])
        return replies

    def _unsubscribe(self, client: Client, channels: Any) -> list[Any]:
        replies = []
        for channel in channels:
            if channel in client.channels:
                del client.channels[channel]
                client.names -= len(channel)
                subscribers = self._subscribers[channel]
                del subscribers[client.scope_id]
                if not subscribers:
                    del self._subscribers[channel]
            replies.append([b"unsubscribe", channel, len(client.channels)])
        return replies

    def _publish(self, client: Client, channel: bytes, text: bytes) -> int:
        subscribers = tuple(self._subscribers.get(channel, ()))
        message = {"type": "redis.message", "channel": channel, "text": text}
        return len(subscribers) - len(client.server.broadcast(subscribers, message))


def _check_size(value: bytes) -> None:
    if len(value) > MAX_VALUE:
        raise CommandFailed("ERR string exceeds maximum allowed size")


def _integer(text: bytes) -> int:
    # int() alone would accept "+1", "1_0" and white space.
    if not text.removeprefix(b"-").isdigit() or len(text) > 20:
        raise CommandFailed(INTEGER)
    number = int(text)
    if not -LARGEST - 1 <= number <= LARGEST:
        raise CommandFailed(INTEGER)
    return number


def _bounded(values: Iterable[bytes | None]) -> list[bytes | None]:
    """Return the values, if they are not too many bytes for one reply."""
    found, size = [], 0
    for value in values:
        size += OVERHEAD + len(value or b"")
        if size > MAX_REPLY:
            raise CommandFailed("ERR the reply is too long")
        found.append(value)
    return found


def _shown(name: bytes) -> str:
    return name[:64].decode("utf-8", "replace")


#: Serves commands with an empty database.
example = RedisApplication()
