"""``manage.py runworker`` with "cyasgi" in INSTALLED_APPS: Channels' command, by cyasgi's worker."""

from __future__ import annotations

import re
import signal
import textwrap

import pytest

from support.redis_servers import RedisServer
from support.serving import python
from support.udp import PROGRAM, Command

pytestmark = pytest.mark.slow

SETTINGS = """
SECRET_KEY = "x"
USE_TZ = True
INSTALLED_APPS = {apps}
ASGI_APPLICATION = "project.application"
CHANNEL_LAYERS = {layers}
DATABASES = {{}}
LOGGING = {{
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {{"console": {{"class": "logging.StreamHandler"}}}},
    "root": {{"handlers": ["console"], "level": "INFO"}},
}}
NOWHERE = {{"hosts": ["redis://127.0.0.1:1"]}}
{more}
"""
PROJECT = """
import sys
from channels.consumer import AsyncConsumer, SyncConsumer
from channels.routing import ChannelNameRouter, ProtocolTypeRouter
from django.core.asgi import get_asgi_application

get_asgi_application()

class Thumbnails(AsyncConsumer):
    async def make(self, message):
        print("made", message["number"], file=sys.stderr, flush=True)
        if message["number"] == 0:
            await self.channel_layer.send("thumbnails", {"type": "make", "number": 1})
            await self.channel_layer.send("mails", {"type": "mail", "number": 2})

class Mails(SyncConsumer):
    def mail(self, message):
        print("mailed", message["number"], file=sys.stderr, flush=True)

router = ChannelNameRouter({"thumbnails": Thumbnails.as_asgi(), "mails": Mails.as_asgi()})
application = ProtocolTypeRouter({"channel": router})
"""
MANAGE = """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""
MEMORY = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}


def write_project(folder, *, layers=MEMORY, apps=("cyasgi", "channels"), more=""):
    (folder / "settings.py").write_text(SETTINGS.format(layers=layers, apps=list(apps), more=more))
    (folder / "project.py").write_text(PROJECT)
    (folder / "manage.py").write_text(textwrap.dedent(MANAGE))


class Manage(Command):
    """`manage.py runworker` in a process of its own."""

    def __init__(self, folder, *arguments, backend=None):
        # asgiref says so of any `send` that is no `async def`, as it does with its own server.
        ignored = "ignore:async_to_sync was passed a non-async-marked callable"
        program = (*PROGRAM[:-2], "-W", ignored, "manage.py")
        super().__init__("runworker", *arguments, cwd=folder, backend=backend, program=program)


def test_on_redis(cy, tmp_path):
    """Messages come to Channels' consumers; it says what Channels' command says, and ends well on a signal."""
    folder = tmp_path / "redis"
    folder.mkdir()
    with RedisServer(folder) as redis:
        layers = {
            "default": {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {"hosts": [redis.url]}},
            "other": MEMORY["default"],
        }
        write_project(tmp_path, layers=layers, more="CYASGI = {'message_timeout': 30, 'channel_concurrency': 2}")
        with Manage(tmp_path, "thumbnails", "mails", backend=cy.backend) as command:
            command.until(r"^Running worker for channels \['thumbnails', 'mails'\]$")
            command.until(r"^receiving from thumbnails, mails$")
            sender = """
            import os
            os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
            import django
            django.setup()
            from asgiref.sync import async_to_sync
            from channels.layers import get_channel_layer
            async_to_sync(get_channel_layer().send)("thumbnails", {"type": "make", "number": 0})
            """
            process = python(sender, cwd=tmp_path, DJANGO_SETTINGS_MODULE="settings", PYTHONWARNINGS=None)
            assert process.returncode == 0, process.stderr
            command.until(r"^made 0$")
            command.until(r"^(made 1|mailed 2)$")
            command.until(r"^(made 1|mailed 2)$")
            assert command.stop(signal.SIGTERM) == 0


@pytest.mark.parametrize("apps", [("cyasgi", "channels"), ("channels", "cyasgi"), ("cyasgi",)])
def test_help(tmp_path, apps):
    """It has the arguments of Channels' command, whose place it takes wherever the application stands."""
    write_project(tmp_path, apps=apps)
    process = run(tmp_path, "--help")
    assert re.search(r"\[--layer LAYER\].*channels \[channels \.\.\.\]", process.stdout, re.DOTALL)
    assert "by cyasgi" in process.stdout


COMMAND = """
from channels.management.commands.runworker import Command as RunWorker, Worker

class OwnWorker(Worker):
    def run(self):
        print(type(self).__mro__[1].__module__, self.channels)

class Command(RunWorker):
    worker_class = OwnWorker
    help = "Runs our own."
"""


@pytest.mark.parametrize("apps", [("own", "cyasgi", "channels"), ("own", "channels", "cyasgi")])
def test_command_of_the_project(tmp_path, apps):
    """One that comes first stays what it is; if it is derived from that of Channels, with its own worker."""
    write_project(tmp_path, apps=apps)
    folder = tmp_path / "own" / "management" / "commands"
    folder.mkdir(parents=True)
    (folder / "runworker.py").write_text(COMMAND)
    assert "Runs our own." in run(tmp_path, "--help").stdout
    process = run(tmp_path, "a")
    assert process.stdout == "channels.worker ['a']\n", process.stderr


def test_project_without_cyasgi(tmp_path):
    """With "channels" alone, the command is that of Channels."""
    write_project(tmp_path, apps=["channels"])
    process = run(tmp_path, "--help")
    assert process.returncode == 0 and "by cyasgi" not in process.stdout


def run(folder, *arguments):
    """The completed process of `manage.py runworker`."""
    script = f"""
    import os, sys
    sys.path.insert(0, {str(folder)!r})
    os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
    from django.core.management import execute_from_command_line
    execute_from_command_line(["manage.py", "runworker", *{list(arguments)!r}])
    """
    return python(script, cwd=folder)


@pytest.mark.parametrize(
    ("more", "arguments", "told"),
    [
        ("", ["--layer", "none", "a"], "CommandError: You do not have any CHANNEL_LAYERS configured."),
        ("", ["a", "a"], "CommandError: channels=['a', 'a']: accepted is each name once"),
        ("CYASGI = 1", ["a"], "CommandError: CYASGI=1 in the settings: accepted is a dict of "),
        ("CYASGI = {'messagetimeout': 1}", ["a"], "unknown name 'messagetimeout'; did you mean 'message_timeout'?"),
        (
            "CYASGI = {'concurrency': 0}",
            ["a"],
            "CommandError: CYASGI in the settings: concurrency=0: accepted is an int",
        ),
        (
            "CHANNEL_LAYERS['default'] = {'BACKEND': 'channels_redis.core.RedisChannelLayer', 'CONFIG': NOWHERE}",
            ["a"],
            "CommandError: cannot use Redis at redis://127.0.0.1:1: Error 111 connecting to",
        ),
    ],
)
def test_what_is_wrong(tmp_path, more, arguments, told):
    """It is told in one line."""
    write_project(tmp_path, more=more)
    process = run(tmp_path, *arguments)
    assert process.returncode == 1
    last = process.stderr.splitlines()[-1]
    assert told in last
    assert "Traceback" not in process.stderr
