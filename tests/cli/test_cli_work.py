"""``cyasgi work``: messages of channels come to the application; what is wrong is told in one line."""

from __future__ import annotations

import asyncio
import re
import signal
import sys

import pytest

from cyasgi import cli
from cyasgi.cli import work, work_options
from cyasgi.sources.channels import ChannelLayerServer
from cyasgi.sources.channels.redis.hosts import parse_host
from support.channel_layers import redis_layer, send_from_outside, send_numbers
from support.redis_servers import RedisServer, free_port
from support.udp import Command

APPLICATION = """
import asyncio, sys
from channels.layers import InMemoryChannelLayer

layer = InMemoryChannelLayer()

async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        print((await receive())["type"], file=sys.stderr, flush=True)
        await send({"type": "lifespan.startup.complete"})
        print((await receive())["type"], file=sys.stderr, flush=True)
        await send({"type": "lifespan.shutdown.complete"})
        return
    while True:
        message = await receive()
        print("got", scope["channel"], message["number"], file=sys.stderr, flush=True)

async def sends_to_itself(scope, receive, send):
    await receive()
    await layer.send("a", {"type": "work", "number": 7})
    await send({"type": "lifespan.startup.complete"})

async def own(scope, receive, send):
    await (sends_to_itself if scope["type"] == "lifespan" else application)(scope, receive, send)
"""


def worker(folder, *arguments, application="app:application", **changes):
    """The command in a process of its own, in this directory, which has the module `app`."""
    (folder / "app.py").write_text(APPLICATION, encoding="utf-8")
    return Command("work", *arguments, application, cwd=folder, **changes)


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_works_until_a_signal(tmp_path, redis, number):
    """It says what it does, gets what is sent, and ends well with its counters."""
    arguments = ("--layer", redis.url, "--prefix", "one", "--channel", "a", "--channel", "b")
    with worker(tmp_path, *arguments, "--lifespan", "on") as command:
        command.until(r"cyasgi \S+ works with app:application \(back end \w+, loop \w+\)$")
        command.until(r"^lifespan.startup$")
        command.until(r"INFO cyasgi.sources.channels: receiving from a, b$")
        send_from_outside(redis, "a", [1], prefix="one")
        command.until(r"got a 1")
        send_from_outside(redis, "b", [2], prefix="one")
        command.until(r"got b 2")
        assert command.stop(number) == 0
        assert re.search(r"stopped after \d+\.\d s: created=2 .*messages=2", "\n".join(command.lines))
        assert "lifespan.shutdown" in command.lines


@pytest.mark.slow
def test_layer_of_a_module(tmp_path):
    """Any channel layer will do; here, one in memory."""
    with worker(
        tmp_path, "--layer", "app:layer", "--channel", "a", "--lifespan", "on", application="app:own"
    ) as command:
        command.until(r"got a 7")
        assert command.stop(signal.SIGTERM) == 0


@pytest.mark.slow
def test_environment_and_file(tmp_path, redis):
    """Options come from the environment and from a file as well."""
    (tmp_path / "work.toml").write_text(f'channel = ["a"]\nlayer = "{redis.url}"\nprefix = "two"\nreconnect = false\n')
    changes = {"CYASGI_WORK_CONFIG": "work.toml", "CYASGI_WORK_MESSAGE_TIMEOUT": "5", "CYASGI_WORK_CHANEL": "b"}
    with worker(tmp_path, **changes) as command:
        command.until(
            r"CYASGI_WORK_CHANEL is not the environment variable of any option; did you mean CYASGI_WORK_CHANNEL"
        )
        command.until(r"receiving from a$")
        send_from_outside(redis, "a", [1], prefix="two")
        command.until(r"got a 1")
        assert command.stop(signal.SIGTERM) == 0


def failed(tmp_path, *arguments, **changes):
    """The exit code and the last line of the standard error."""
    with worker(tmp_path, *arguments, **changes) as command:
        code = command.wait()
        return code, command.lines[-1]


@pytest.mark.slow
def test_no_redis(tmp_path):
    port = free_port()
    code, told = failed(tmp_path, "--layer", f"redis://user:secret@127.0.0.1:{port}/0", "--channel", "a")
    assert code == 1
    assert told.startswith(f"cyasgi: cannot use Redis at redis://127.0.0.1:{port}/0: Error 111 connecting to ")
    assert "secret" not in told


@pytest.mark.slow
def test_passwords(tmp_path):
    """With the password it works; a wrong one, and none, end it with one line."""
    folder = tmp_path / "redis"
    folder.mkdir()
    with RedisServer(folder, "--requirepass", "s3cret:/@") as locked:
        url = f"redis://:{{}}@127.0.0.1:{locked.port}/0"
        for wrong, reason in (
            (url.format("guess"), "invalid username-password pair"),
            (locked.url, "Authentication required"),
        ):
            code, told = failed(tmp_path, "--layer", wrong, "--channel", "a")
            assert code == 1
            assert told.startswith(f"cyasgi: cannot use Redis at redis://127.0.0.1:{locked.port}/0: ")
            assert reason.lower() in told.lower() and "guess" not in told
        with worker(tmp_path, "--layer", url.format("s3cret%3A%2F%40"), "--channel", "a") as command:
            command.until(r"receiving from a$")
            assert command.stop(signal.SIGTERM) == 0, "\n".join(command.lines)


@pytest.mark.slow
def test_user_who_may_do_little(tmp_path):
    """Who may not ask to be told of changes gets messages all the same; who may not run scripts is told so."""
    folder = tmp_path / "redis"
    folder.mkdir()
    poller = ["poller", "on", ">x", "~*", "&*", "+@all", "-client"]
    no_scripts = ["none", "on", ">x", "~*", "&*", "+@all", "-@scripting"]
    with RedisServer(folder, "--user", *poller, "--user", *no_scripts) as one:
        code, told = failed(tmp_path, "--layer", f"redis://none:x@127.0.0.1:{one.port}/0", "--channel", "a")
        assert code == 1 and "no permissions to run the 'eval' command" in told
        with worker(tmp_path, "--layer", f"redis://poller:x@127.0.0.1:{one.port}/0", "--channel", "a") as command:
            command.until(r"WARNING .*Redis does not tell of changes .*: it is asked 100 times a second$")
            send_from_outside(one, "a", [1])
            command.until(r"got a 1")
            assert command.stop(signal.SIGTERM) == 0, "\n".join(command.lines)


@pytest.mark.slow
def test_tls(tmp_path):
    """rediss:// is TLS, with the authority that signs the server's certificate."""
    folder = tmp_path / "redis"
    folder.mkdir()
    with RedisServer.with_tls(folder) as one:
        with worker(tmp_path, "--layer", one.tls_url, "--channel", "a") as command:
            command.until(r"receiving from a$")
            send_from_outside(one, "a", [1])
            command.until(r"got a 1")
            assert command.stop(signal.SIGTERM) == 0, "\n".join(command.lines)
        code, told = failed(tmp_path, "--layer", f"rediss://127.0.0.1:{one.tls_port}/0", "--channel", "a")
        assert code == 1 and "certificate verify failed" in told.lower()


@pytest.mark.slow
def test_unix_socket(tmp_path):
    folder = tmp_path / "redis"
    folder.mkdir()
    path = folder / "redis.sock"
    with (
        RedisServer(folder, "--unixsocket", str(path)) as one,
        worker(tmp_path, "--layer", f"unix://{path}?db=3", "--channel", "a") as command,
    ):
        command.until(r"receiving from a$")
        one.options = ()

        async def main():
            layer = redis_layer([one])
            layer.hosts[0]["address"] = f"unix://{path}?db=3"
            layer.prefix = "asgi"
            await send_numbers(layer, "a", [1])
            await layer.close_pools()

        asyncio.run(main())
        command.until(r"got a 1")
        assert command.stop(signal.SIGTERM) == 0


@pytest.mark.slow
def test_sentinel(tmp_path):
    """The master is found by a Sentinel; after a failover, the new one."""
    folders = [tmp_path / name for name in ("master", "replica", "sentinel")]
    for folder in folders:
        folder.mkdir()
    with (
        RedisServer(folders[0]) as master,
        RedisServer(folders[1], "--replicaof", "127.0.0.1", str(master.port)) as replica,
    ):
        conf = folders[2] / "sentinel.conf"
        conf.write_text(
            f"sentinel monitor main 127.0.0.1 {master.port} 1\n"
            "sentinel down-after-milliseconds main 2000\nsentinel failover-timeout main 2000\n"
        )
        with RedisServer.sentinel(folders[2], conf) as sentinel:
            url = f"sentinel://127.0.0.1:{sentinel.port}/main/0"
            with worker(tmp_path, "--layer", url, "--channel", "a") as command:
                command.until(r"receiving from a$")
                send_from_outside(master, "a", [1])
                command.until(r"got a 1")
                sentinel.until_replica_known()
                master.kill()
                command.until(r"WARNING .*Redis at sentinel 'main' has failed")
                command.until(r"Redis at sentinel 'main' is back")
                send_from_outside(replica, "a", [2])
                command.until(r"got a 2")
                assert command.stop(signal.SIGTERM) == 0, "\n".join(command.lines)


# What the command refuses


def refused(capsys, *arguments):
    """The one line that the command ends with, called wrongly."""
    assert cli.main(["work", *arguments]) == 2
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.startswith("cyasgi: ") and written.err.count("\n") == 1
    return written.err.removeprefix("cyasgi: ").rstrip()


CHANNEL = ("--channel", "a")
LAYER = ("--layer", "redis://127.0.0.1:1/0")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((*LAYER, "app:x"), "Missing option '--channel'."),
        ((*CHANNEL, "app:x"), "Missing option '--layer'."),
        ((*LAYER, *CHANNEL), "Missing argument 'MODULE:ATTRIBUTE'."),
        ((*LAYER, *CHANNEL, "app:x", "app:y"), "Got unexpected extra argument (app:y)"),
        (("--layer", "http://x", *CHANNEL, "app:x"), "Invalid value for '--layer': 'http://x': accepted are redis://"),
        (
            ("--layer", "redis://:pw@x:y/", *CHANNEL, "app:x"),
            "Invalid value for '--layer': 'redis://:...@x:y/': accepted",
        ),
        (("--layer", "redis://x/a", *CHANNEL, "app:x"), "Invalid value for '--layer': 'redis://x/a': '/a' is not the"),
        (("--layer", "x", *CHANNEL, "app:x"), "Invalid value for '--layer': 'x': accepted are redis://"),
        (
            ("--layer", "app:x", *LAYER, *CHANNEL, "cyasgi.examples:echo"),
            "--layer app:x: a layer of a module is given once, and alone",
        ),
        ((*LAYER, *CHANNEL, *CHANNEL, "cyasgi.examples:echo"), "channels=['a', 'a']: accepted is each name once"),
        ((*LAYER, "--channel", "a b", "cyasgi.examples:echo"), "channels=['a b']: 'a b' is not accepted: Channel name"),
        (
            (*LAYER, "--channel", "a!", "cyasgi.examples:echo"),
            "channels=['a!']: 'a!' belongs to one process; accepted are",
        ),
        (("--layer", "cyasgi:x", *CHANNEL, "cyasgi.examples:echo"), "'cyasgi:x': 'cyasgi' has no attribute 'x'"),
        (
            ("--layer", "cyasgi:backend", *CHANNEL, "cyasgi.examples:echo"),
            "--layer cyasgi:backend: it is no channel layer",
        ),
        ((*LAYER, *CHANNEL, "nowhere:x"), "there is no module 'nowhere'"),
        ((*LAYER, *CHANNEL, "--chanel", "b", "app:x"), "no such option: --chanel; did you mean --channel?"),
        ((*LAYER, *CHANNEL, "--reconnect", "--prefix", "a", "--prefix", "b", "app:x"), "--prefix is given 2 times"),
    ],
)
def test_what_is_refused(capsys, monkeypatch, arguments, told):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(work, "configure_logging", lambda *_: None)
    assert refused(capsys, *arguments).startswith(told)


# Bounds of its settings

NUMBERS = {
    "channel_concurrency": (int, 1, None, False),
    "concurrency": (int, 1, None, True),
    "message_timeout": (float, None, None, True),
    "prefetch": (int, 0, 10_000, False),
    "max_message_size": (int, 1, None, False),
    "worker_timeout": (float, 0.5, 86_400, False),
    "max_applications": (int, 1, None, True),
    "idle_timeout": (float, None, None, True),
    "shutdown_timeout": (float, 0, None, False),
}


def is_accepted(name, value):
    kind, least, most, none = NUMBERS[name]
    if value is None:
        return none
    if isinstance(value, (bool, str)) or (kind is int and not isinstance(value, int)):
        return False
    return (value > 0 if least is None else value >= least) and (most is None or value <= most)


@pytest.mark.parametrize("name", NUMBERS)
def test_bounds(name):
    """An attribute and an option accept the same."""
    bounds = [bound for bound in NUMBERS[name][1:3] if bound is not None]
    beside = [bound + step for bound in bounds for step in (-1, -0.0001, 0, 0.0001, 1)]
    for value in [*beside, 0, -1, 0.5, 1, 2, None, "x", "", True]:
        server = ChannelLayerServer(None, ["a"], AcceptsAnyName())
        try:
            setattr(server, name, value)
            accepted = True
            told = ""
        except (TypeError, ValueError) as error:
            told = str(error)
            accepted = False
        assert accepted or told.startswith(f"{name}={value!r}: accepted is ")
        assert accepted == is_accepted(name, value), value
        text = "none" if value is None else str(value)
        try:
            parsed = work_options.check_of(name).parse(text)
        except ValueError:
            assert not accepted, value
        else:
            assert accepted and parsed == value


class AcceptsAnyName:
    """A channel layer for a server that does not run."""

    def require_valid_channel_name(self, name, receive=False):
        return True


def test_every_setting_has_an_option():
    """Whoever adds an attribute adds its option."""
    ours = {name for name, value in vars(ChannelLayerServer).items() if type(value).__name__ == "Setting"}
    options = {name for name, _, _ in work_options.LIMITS}
    assert ours <= options
    assert options - {"reconnect"} == set(NUMBERS)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("redis://localhost", {"address": "redis://localhost"}),
        ("rediss://u:p@h:1/2", {"address": "rediss://u:p@h:1/2"}),
        ("unix:///run/redis.sock", {"address": "unix:///run/redis.sock"}),
        ("sentinel://a/main", {"sentinels": [("a", 26379)], "master_name": "main", "db": 0}),
        (
            "sentinel://u:p%40@a:1,[::1]:2/main/3",
            {"sentinels": [("a", 1), ("::1", 2)], "master_name": "main", "db": 3, "username": "u", "password": "p@"},
        ),
    ],
)
def test_hosts(url, host):
    assert parse_host(url) == host


@pytest.mark.parametrize(
    "url", ["redis://", "unix://", "sentinel://a", "sentinel:///main", "sentinel://a:x/main", "redis://h:99999/0", ""]
)
def test_no_hosts(url):
    with pytest.raises(ValueError, match="accepted are redis://"):
        parse_host(url)
