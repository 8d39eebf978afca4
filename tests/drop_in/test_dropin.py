"""install() and uninstall(), Django's INSTALLED_APPS, and what `stats()` tells."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
import warnings

import pytest

from support.loops import passes
from support.serving import checking, environment, eventually, fast, in_time, one_shot, output, python, quiet, reader

STATS = [
    "live",
    "idle",
    "created",
    "reused",
    "evicted",
    "expired",
    "finished",
    "failed",
    "cancelled",
    "orphaned",
    "closing",
    "undelivered",
    "interrupted",
]


@pytest.fixture
def fresh(cy, tmp_path):
    """fresh(code) runs it in a fresh interpreter with this back end, every warning an error; gives its lines."""

    def fresh(code, *arguments, **changes):
        return output(python(code, *arguments, cwd=tmp_path, backend=cy.backend, **changes))

    return fresh


# ------------------------------------------------------------------------------------------ install()


@pytest.mark.slow
def test_both_names_are_one_class(cy):
    """`from cyasgi.server import StatelessServer` and `cyasgi.StatelessServer` are the same class."""
    from cyasgi.server import StatelessServer  # the package that the fixture has put in place

    assert StatelessServer is cy.StatelessServer


@pytest.mark.slow
def test_importing_installs_nothing(fresh):
    """Importing the package leaves asgiref as it is."""
    lines = fresh("""
        import asgiref.server
        before = asgiref.server.StatelessServer
        import cyasgi.server
        assert asgiref.server.StatelessServer is before
        assert cyasgi.StatelessServer is not before
        print("done")
    """)
    assert lines == ["done"]


@pytest.mark.slow
def test_install_and_uninstall(fresh):
    """install() makes asgiref's name cyasgi's class, uninstall() gives the old one back; each may be called twice."""
    lines = fresh("""
        import asgiref.server
        import cyasgi
        reference = asgiref.server.StatelessServer
        cyasgi.uninstall()
        assert asgiref.server.StatelessServer is reference
        for _ in range(2):
            for _ in range(2):
                cyasgi.install()
                assert asgiref.server.StatelessServer is cyasgi.StatelessServer
                from asgiref.server import StatelessServer
                assert StatelessServer is cyasgi.StatelessServer
            for _ in range(2):
                cyasgi.uninstall()
                assert asgiref.server.StatelessServer is reference
        print("done")
    """)
    assert lines == ["done"]


@pytest.mark.slow
def test_install_before_asgiref_server_was_imported(fresh):
    """It makes no difference whether `asgiref.server` has been imported before."""
    lines = fresh("""
        import cyasgi
        cyasgi.install()
        import asgiref.server
        class Server(asgiref.server.StatelessServer):
            async def handle(self):
                print("handled")
        assert issubclass(Server, cyasgi.StatelessServer)
        Server(None).run()
    """)
    assert lines == ["handled"]


@pytest.mark.slow
def test_install_names_early_subclasses(fresh):
    """Classes that subclass the reference's already, and theirs, are named in one RuntimeWarning."""
    lines = fresh("""
        import warnings
        from asgiref.server import StatelessServer
        class Early(StatelessServer):
            class Inner(StatelessServer):
                pass
        class Second(Early):
            pass
        class Unrelated:
            pass
        import cyasgi
        class Ours(cyasgi.StatelessServer):
            pass
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            cyasgi.install()
        (warning,) = caught
        assert warning.category is RuntimeWarning
        assert warning.filename == __file__
        text = str(warning.message)
        for name in ("__main__.Early", "__main__.Early.Inner", "__main__.Second"):
            assert name in text, text
        for name in ("Unrelated", "Ours", "cyasgi.server"):
            assert name not in text, text
        import asgiref.server
        assert asgiref.server.StatelessServer is cyasgi.StatelessServer
        assert not issubclass(Early, cyasgi.StatelessServer)
        print("done")
    """)
    assert lines == ["done"]


@pytest.mark.slow
def test_no_warning_without_early_subclasses(fresh):
    """With nobody too early install() says nothing, and later subclasses are cyasgi's."""
    lines = fresh("""
        import cyasgi
        cyasgi.install()
        from asgiref.server import StatelessServer
        class Late(StatelessServer):
            pass
        cyasgi.install()
        assert issubclass(Late, cyasgi.StatelessServer)
        print("done")
    """)
    assert lines == ["done"]


@pytest.mark.slow
def test_install_names_channels_worker(fresh):
    """Channels' worker, imported too early, is named; imported after install() it runs on cyasgi."""
    pytest.importorskip("channels.worker")
    lines = fresh(
        """
        import sys, warnings
        import cyasgi
        if sys.argv[1] == "early":
            import channels.worker
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                cyasgi.install()
            assert "channels.worker.Worker" in str(caught[0].message)
        else:
            cyasgi.install()
            import channels.worker
        print(issubclass(channels.worker.Worker, cyasgi.StatelessServer))
    """,
        "early",
    )
    assert lines == ["False"]
    lines = fresh("""
        import cyasgi
        cyasgi.install()
        import channels.worker
        print(issubclass(channels.worker.Worker, cyasgi.StatelessServer))
    """)
    assert lines == ["True"]


def test_uninstall_leaves_later_classes_alone(cy, run):
    """A class made while cyasgi was installed stays cyasgi's after uninstall(), and works."""
    import asgiref.server

    with warnings.catch_warnings():
        # Other tests have subclassed the reference's in this process.
        warnings.simplefilter("ignore", RuntimeWarning)
        cy.install()
    try:
        Server = fast(asgiref.server.StatelessServer)
    finally:
        cy.uninstall()
    assert issubclass(Server, cy.StatelessServer)

    async def main():
        server = Server(one_shot)
        async with checking(server):
            server.get_or_create_application_instance("a", {}).put_nowait(1)
            await in_time(lambda: "a" not in server.application_instances)

    run(main())


# ------------------------------------------------------------------------------------------ Django


SETTINGS = """
SECRET_KEY = "not secret"
INSTALLED_APPS = {apps!r}
USE_TZ = True
DATABASES = {{}}
CHANNEL_LAYERS = {{"default": {{"BACKEND": "channels.layers.InMemoryChannelLayer"}}}}
ASGI_APPLICATION = "routing.application"
"""

ROUTING = """
import asyncio
from channels.layers import get_channel_layer
from channels.routing import ChannelNameRouter, ProtocolTypeRouter

async def consumer(scope, receive, send):
    print("consumer", (await receive())["type"], flush=True)
    while True:
        print("consumer", (await receive())["type"], flush=True)

application = ProtocolTypeRouter({"channel": ChannelNameRouter({"work": consumer})})
"""


@pytest.fixture
def project(tmp_path):
    """project(apps) writes a Django project with these INSTALLED_APPS into the directory of the test."""
    pytest.importorskip("django")

    def project(apps):
        (tmp_path / "settings.py").write_text(SETTINGS.format(apps=apps), encoding="utf-8")
        (tmp_path / "routing.py").write_text(ROUTING, encoding="utf-8")
        (tmp_path / "manage.py").write_text(
            textwrap.dedent("""
                import os, sys
                os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
                from django.core.management import execute_from_command_line
                execute_from_command_line(sys.argv)
            """),
            encoding="utf-8",
        )
        return tmp_path

    return project


@pytest.mark.slow
@pytest.mark.parametrize("apps", [["cyasgi"], ["channels", "cyasgi"], ["cyasgi", "channels"]], ids=str)
def test_installed_app_installs(fresh, project, apps):
    """With "cyasgi" in INSTALLED_APPS django.setup() installs it, whichever place it has there."""
    if "channels" in apps:
        pytest.importorskip("channels")
    project(apps)
    lines = fresh(
        """
        import django
        django.setup()
        import asgiref.server, sys
        print(asgiref.server.StatelessServer.__module__)
        if "channels" in sys.argv:
            from channels.management.commands import runworker
            import cyasgi
            print(issubclass(runworker.Worker, cyasgi.StatelessServer))
    """,
        *apps,
        DJANGO_SETTINGS_MODULE="settings",
    )
    assert lines[0].startswith("cyasgi")
    assert lines[1:] == (["True"] if "channels" in apps else [])


@pytest.mark.slow
def test_installed_app_by_its_config(fresh, project):
    """The dotted name of the app's configuration does as well."""
    project(["cyasgi.apps.CyasgiConfig"])
    lines = fresh(
        """
        import django
        django.setup()
        import asgiref.server, cyasgi
        print(asgiref.server.StatelessServer is cyasgi.StatelessServer)
    """,
        DJANGO_SETTINGS_MODULE="settings",
    )
    assert lines == ["True"]


@pytest.mark.slow
def test_without_the_app_nothing_is_installed(fresh, project):
    """A project that does not name it keeps asgiref's class."""
    project([])
    lines = fresh(
        """
        import django
        django.setup()
        import asgiref.server
        print(asgiref.server.StatelessServer.__module__)
    """,
        DJANGO_SETTINGS_MODULE="settings",
    )
    assert lines == ["asgiref.server"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_manage_runworker(cy, project, number):
    """`manage.py runworker` runs on cyasgi: it works off its channel and ends in order at a signal."""
    pytest.importorskip("channels")
    path = project(["channels", "cyasgi", "feeder"])
    # The in-memory layer is one process's own: an application of the project feeds it from within.
    (path / "feeder").mkdir()
    (path / "feeder" / "__init__.py").write_text(
        textwrap.dedent("""
            import faulthandler
            faulthandler.dump_traceback_later(40, exit=True)
            import channels.layers
            from channels.layers import InMemoryChannelLayer

            class Fed(InMemoryChannelLayer):
                fed = False

                async def receive(self, channel):
                    if not self.fed:
                        self.fed = True
                        for number in range(3):
                            await self.send(channel, {"type": f"work.{number}"})
                    return await super().receive(channel)

            channels.layers.InMemoryChannelLayer = Fed
        """),
        encoding="utf-8",
    )
    process = subprocess.Popen(
        [sys.executable, "manage.py", "runworker", "work"],
        cwd=path,
        env=environment(CYASGI_BACKEND=cy.backend),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        lines = [process.stdout.readline().strip() for _ in range(3)]
        assert lines == ["consumer work.0", "consumer work.1", "consumer work.2"]
        process.send_signal(number)
        assert process.stdout.read() == ""
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


# ------------------------------------------------------------------------------------------ stats()


def test_stats_of_a_new_server(cy):
    """stats() is a plain dict with these keys, all of them 0 at first."""
    stats = cy.StatelessServer(reader).stats()
    assert type(stats) is dict
    assert list(stats) == STATS
    assert all(type(value) is int and value == 0 for value in stats.values())


def test_stats_is_a_snapshot(cy, run):
    """What stats() gave does not change any more, and changing it changes nothing."""

    async def main():
        server = quiet(cy.StatelessServer)(reader)
        before = server.stats()
        server.get_or_create_application_instance("a", {})
        assert before["live"] == 0
        server.stats()["live"] = 77
        assert server.stats()["live"] == 1

    run(main())


def test_stats_counts(cy, run):
    """Each event is counted once, in its own place."""

    async def application(scope, receive, send):
        while True:
            message = await receive()
            if message == "return":
                return
            if message == "fail":
                raise LookupError
            if message == "cancel":
                raise asyncio.CancelledError

    async def main():
        server = quiet(cy.StatelessServer)(application, 3)
        expected = dict.fromkeys(STATS, 0)

        async def expect(**changes):
            for name, change in changes.items():
                expected[name] += change
            await eventually(lambda: server.stats() == expected)

        a = server.get_or_create_application_instance("a", {})
        await expect(live=1, created=1, idle=1)
        server.get_or_create_application_instance("a", {})
        server.get_or_create_application_instance("a", {})
        await expect(reused=2)
        # A finished one that makes way for a fresh one of its id is no eviction.
        a.put_nowait("return")
        a.put_nowait("left")
        await expect(finished=1, idle=-1)
        server.get_or_create_application_instance("a", {})
        await expect(created=1, idle=1, undelivered=1)
        server.get_or_create_application_instance("b", {}).put_nowait("fail")
        await expect(live=1, created=1, failed=1)
        server.get_or_create_application_instance("c", {}).put_nowait("cancel")
        await expect(live=1, created=1, cancelled=1)
        # Making room takes the two finished ones first, interrupted at work, then an idle one, alone evicted.
        for name in "de":
            server.get_or_create_application_instance(name, {})
            await passes(5)
        await expect(created=2, idle=2, interrupted=2)
        server.get_or_create_application_instance("f", {})
        await expect(created=1, evicted=1, cancelled=1)
        await server.delete_application_instance("f")
        await expect(live=-1, idle=-1, cancelled=1)

    run(main())


def test_stats_of_a_caller(cy, run):
    """Runs by callers are counted like the server's own, in finished, failed and cancelled."""

    async def application(scope, receive, send):
        if scope == "fail":
            raise LookupError
        if scope == "wait":
            await asyncio.get_running_loop().create_future()

    async def main():
        server = quiet(cy.StatelessServer)(application)
        instance = await server.get_or_create_application_instance("a", {})
        await instance["application"]("return", None, None)
        assert server.stats()["finished"] == 1
        instance = await server.get_or_create_application_instance("b", {})
        with pytest.raises(LookupError):
            await instance["application"]("fail", None, None)
        assert server.stats()["failed"] == 1
        instance = await server.get_or_create_application_instance("c", {})
        call = asyncio.create_task(instance["application"]("wait", None, None))
        await passes(5)
        server.delete_application_instance("c")
        with pytest.raises(cy.InstanceDeleted):
            await call
        await eventually(lambda: server.stats()["cancelled"] == 1)

    run(main())


def test_stats_when_overridden_class_attributes_hide_it(cy, run):
    """A subclass with a `stats` of its own, as any attribute, does not disturb the server."""

    async def main():
        Server = type("Server", (fast(cy.StatelessServer),), {"stats": "mine"})
        server = Server(one_shot)
        async with checking(server):
            server.get_or_create_application_instance("a", {}).put_nowait(1)
            await in_time(lambda: "a" not in server.application_instances)
        assert server.stats == "mine"

    run(main())
