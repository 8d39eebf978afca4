"""The bundled part of Redis, spoken to by the real redis-cli and by raw commands."""

from __future__ import annotations

import asyncio
import importlib
import shutil

import pytest

from support.serving import in_time
from support.streams import Client, server_of, serving

needs_redis_cli = pytest.mark.skipif(shutil.which("redis-cli") is None, reason="redis-cli is not installed")


def application_of(cy, *args):
    return importlib.import_module(f"{cy.__name__}.redis").RedisApplication(*args)


async def redis_cli(address, *words, lines=()):
    """What redis-cli prints, asked by these words, or by lines of its standard input."""
    process = await asyncio.create_subprocess_exec(
        *("redis-cli", "-h", address[0], "-p", str(address[1]), *words),
        # One that does not read it may have ended before anything is written: uvloop's transport raises then.
        stdin=asyncio.subprocess.PIPE if lines else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate("\n".join(lines).encode() if lines else None)
    return out.decode().splitlines()


@pytest.mark.slow
@needs_redis_cli
def test_redis_cli(cy, run, quiet):
    async def main():
        server = server_of(cy, application_of(cy), framing="resp")
        async with serving(server) as address:
            assert await redis_cli(address, "SET", "greeting", "hello world") == ["OK"]
            assert await redis_cli(address, "GET", "greeting") == ["hello world"]
            lines = ("INCR n", "INCRBY n 41", "GET n", "MSET a 1 b 2", "MGET a b c", "DEL a b c", "EXISTS a n", "BAD x")
            assert await redis_cli(address, lines=lines) == [
                "1", "42", "42", "OK", "1", "2", "", "2", "1", "ERR unknown command 'BAD'", "",
            ]  # fmt: skip
            assert await redis_cli(address, "--no-raw", "SET", "k", "v", "EX", "100", "NX") == ["OK"]
            assert await redis_cli(address, "--no-raw", "TTL", "k") == ["(integer) 100"]
            assert await redis_cli(address, "--no-raw", "KEYS", "g*") == ['1) "greeting"']
            assert "connected_clients:1" in await redis_cli(address, "INFO")
            assert await redis_cli(address, "-x", "SET", "big", lines=["x" * 50_000]) == ["OK"]
            assert await redis_cli(address, "STRLEN", "big") == ["50000"]

    run(main())


@pytest.mark.slow
@needs_redis_cli
def test_publish_and_subscribe(cy, run, quiet):
    """Two real subscribers and a real publisher."""

    async def main():
        application = application_of(cy)
        server = server_of(cy, application, framing="resp")
        async with serving(server) as address:
            subscribers = [
                await asyncio.create_subprocess_exec(
                    *("redis-cli", "-h", address[0], "-p", str(address[1]), "SUBSCRIBE", "news", "weather"),
                    stdout=asyncio.subprocess.PIPE,
                )
                for _ in range(2)
            ]
            await in_time(lambda: len(application._subscribers.get(b"weather", ())) == 2)
            assert await redis_cli(address, "PUBLISH", "news", "first") == ["2"]
            assert await redis_cli(address, "PUBLISH", "nobody", "x") == ["0"]
            assert await redis_cli(address, "PUBLISH", "weather", "rain") == ["2"]
            for subscriber in subscribers:
                got = [(await subscriber.stdout.readline()).decode().rstrip("\n") for _ in range(12)]
                assert got[:6] == ["subscribe", "news", "1", "subscribe", "weather", "2"]
                assert got[6:] == ["message", "news", "first", "message", "weather", "rain"]
                subscriber.terminate()
                await subscriber.wait()
            # They have closed their half as well: that they have gone shows when something is sent.
            while application._subscribers:
                await redis_cli(address, "PUBLISH", "news", "anybody?")

    run(main())


@pytest.fixture
def ask(cy, run):
    """ask(commands, ...) gives the bytes that come back for inline commands, up to the end."""

    def ask(*commands, application=None, **settings):
        async def main():
            server = server_of(cy, application or application_of(cy), framing="resp", **settings)
            async with serving(server) as address, Client(address) as client:
                for command in commands:
                    client.send(command if isinstance(command, bytes) else f"{command}\r\n".encode())
                client.half_close()
                return await client.rest()

        return run(main())

    return ask


def test_commands(ask):
    assert ask("PING", "PING x", "ECHO y", "SELECT 0", "SELECT 1", "CLIENT SETNAME me", "CLIENT GETNAME") == (
        b"+PONG\r\n$1\r\nx\r\n$1\r\ny\r\n+OK\r\n-ERR DB index is out of range\r\n+OK\r\n$2\r\nme\r\n"
    )
    assert ask("SET a 1 XX", "SET a 1 NX", "SET a 2 NX GET", "GETDEL a", "GET a", "APPEND a xy", "STRLEN a") == (
        b"$-1\r\n+OK\r\n$1\r\n1\r\n$1\r\n1\r\n$-1\r\n:2\r\n:2\r\n"
    )
    assert ask("SETNX a 1", "SETNX a 2", "TYPE a", "TYPE b", "DBSIZE", "FLUSHALL", "DBSIZE") == (
        b":1\r\n:0\r\n+string\r\n+none\r\n:1\r\n+OK\r\n:0\r\n"
    )
    assert ask("SET a x", "INCR a", "SET a 9223372036854775807", "INCR a", "INCRBY a 1_0", "DECR a") == (
        b"+OK\r\n-ERR value is not an integer or out of range\r\n+OK\r\n-ERR increment or decrement would overflow\r\n"
        b"-ERR value is not an integer or out of range\r\n:9223372036854775806\r\n"
    )
    assert ask("GET", "SET a", "SET a b c", "SET a b EX", "SET a b EX 0", "MSET a b c", "*0\r\n") == (
        b"-ERR wrong number of arguments for 'get' command\r\n-ERR wrong number of arguments for 'set' command\r\n"
        b"-ERR syntax error\r\n-ERR syntax error\r\n-ERR invalid expire time in 'set' command\r\n"
        b"-ERR wrong number of arguments for 'mset' command\r\n"
    )
    assert ask("QUIT", "PING") == b"+OK\r\n"
    assert ask("HELLO 3", "COMMAND DOCS", "UNSUBSCRIBE").startswith(
        b"-NOPROTO unsupported protocol version\r\n*0\r\n*3"
    )


def test_expiry(cy, ask):
    now = [0.0]
    application = application_of(cy, 10_000, lambda: now[0])
    assert ask("SET a 1 PX 1500", "SET b 1", "EXPIRE b 10", "TTL a", "PTTL b", "TTL c", application=application) == (
        b"+OK\r\n+OK\r\n:1\r\n:2\r\n:10000\r\n:-2\r\n"
    )
    now[0] = 5.0
    assert ask("GET a", "PERSIST b", "TTL b", "EXPIRE b -1", "EXISTS b", application=application) == (
        b"$-1\r\n:1\r\n:-1\r\n:1\r\n:0\r\n"
    )


def test_bounds(cy, ask):
    """What would be too much is refused; what has expired makes room."""
    now = [0.0]
    application = application_of(cy, 1000, lambda: now[0])
    assert ask(f"SET a {'x' * 300} EX 1", f"SET b {'x' * 700}", application=application).endswith(
        b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"
    )
    now[0] = 2.0
    assert ask(f"SET b {'x' * 700}", "DBSIZE", "MSET c 1 d 2", "EXISTS c d", application=application) == (
        b"+OK\r\n:1\r\n-OOM command not allowed when used memory > 'maxmemory'.\r\n:0\r\n"
    )
    assert b"-ERR the pattern is too long" in ask("KEYS " + "*" * 300)
    many = [f"SUBSCRIBE {' '.join(str(number) for number in range(1025))}"]
    assert b"-ERR a client may subscribe to 1024 channels" in ask(*many, "UNSUBSCRIBE", "QUIT")
    assert b"-ERR the reply is too long" in ask(
        f"SET a {'x' * 60_000}", "MGET " + "a " * 300, f"SET b {'y' * 60_000}", "STRLEN b"
    )


def test_names_of_channels(ask):
    """They are bounded together, and count no longer than their subscription."""
    long = "x" * 40_000
    assert (
        ask(f"SUBSCRIBE a{long}", f"SUBSCRIBE b{long}", "UNSUBSCRIBE", f"SUBSCRIBE b{long}", "QUIT").count(b"-ERR") == 1
    )
    twice = ask(f"SUBSCRIBE {long}", f"SUBSCRIBE {long}", "QUIT")
    assert twice.count(b":1\r\n") == 2


def test_several_values_at_once(cy, ask):
    """All of them are set or none is, however near the bound: one may make room for another."""
    application = application_of(cy, 1000)
    assert ask(f"MSET a {'x' * 300} b {'x' * 200}", f"MSET b {'x' * 300} a {'x' * 200}", application=application) == (
        b"+OK\r\n+OK\r\n"
    )
    assert ask("STRLEN a", "STRLEN b", application=application) == b":200\r\n:300\r\n"
    application = application_of(cy)
    assert ask(f"MSET a 1 b {'x' * 1_100_000}", "DBSIZE", application=application, max_message_size=2_000_000) == (
        b"-ERR string exceeds maximum allowed size\r\n:0\r\n"
    )


def test_protocol_errors(ask):
    """They are answered, and end the connection; what came before is answered first."""
    assert ask("PING", b"*1\r\n:1\r\n", "PING") == b"+PONG\r\n-ERR expected '$' and a number, got b':1'\r\n"
    assert b"-ERR a command is longer than 65536 bytes" in ask(b"x" * 70_000)


def test_a_subscriber_that_closes_its_half(cy, run, quiet):
    """It still gets what is published; only few commands are allowed while it is subscribed."""

    async def main():
        application = application_of(cy)
        server = server_of(cy, application, framing="resp")
        async with serving(server) as address, Client(address) as listener, Client(address) as publisher:
            listener.send(b"SUBSCRIBE c\r\nGET a\r\nPING\r\n")
            listener.half_close()
            await in_time(lambda: application._subscribers)
            assert await publisher.ask(b"PUBLISH c hi\r\n") == b":1\r\n"
            expected = (
                b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n"
                b"-ERR Can't execute 'GET': only (P)SUBSCRIBE / PING / QUIT are allowed\r\n"
                b"*2\r\n$4\r\npong\r\n$0\r\n\r\n*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nhi\r\n"
            )
            assert await listener.exactly(len(expected)) == expected
            listener.abort()
            while application._subscribers:
                await publisher.ask(b"PUBLISH c hi\r\n")

    run(main())
