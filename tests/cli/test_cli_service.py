"""What a service needs: word to its manager, a file with its process id, another user, an environment from a file."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys

import pytest

from cyasgi import cli
from cyasgi.cli import service
from cyasgi.cli.errors import CommandError
from cyasgi.workers.notify import Notifier
from support.cli import get, listening, refused
from support.loops import PATIENCE
from support.systemd import Manager
from support.udp import Command

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither such managers nor users")

UDP = ("--udp", "127.0.0.1:0", "cyasgi.examples:echo")


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    if request.param == "abstract" and sys.platform != "linux":
        pytest.skip("only Linux has abstract addresses")
    address = str(tmp_path / "notify") if request.param == "path" else f"@cyasgi-{os.getpid()}"
    one = Manager(address)
    yield one, address
    one.close()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_told(manager, workers, tmp_path):
    """READY when it serves, signs of life, RELOADING and READY around a reload, STOPPING when it ends."""
    one, address = manager
    with Command("serve", *workers, *UDP, cwd=tmp_path, NOTIFY_SOCKET=address, WATCHDOG_USEC="200000") as command:
        assert set(one.until("READY=1")[:-1]) <= {"WATCHDOG=1"}
        one.until("WATCHDOG=1")
        one.until("WATCHDOG=1")
        if workers:
            command.process.send_signal(signal.SIGHUP)
            one.until("RELOADING=1")
            one.until("READY=1")
        command.process.send_signal(signal.SIGTERM)
        one.until("STOPPING=1")
        assert command.wait() == 0
        assert not [line for line in command.lines if "service manager" in line]


def test_who_has_not_asked(caplog):
    """Without a manager nobody is told; a watchdog may be for another process; a manager that has gone is a warning."""
    assert Notifier({"WATCHDOG_USEC": "1000"}).interval is None
    Notifier({}).stopping()
    asked = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "3000000"}
    assert Notifier(asked).interval == 1.5
    assert Notifier({**asked, "WATCHDOG_PID": str(os.getpid())}).interval == 1.5
    assert Notifier({**asked, "WATCHDOG_PID": "1"}).interval is None
    assert Notifier({**asked, "WATCHDOG_USEC": "soon"}).interval is None
    assert not caplog.records
    Notifier(asked).stopping()
    assert caplog.messages == ["the service manager was not told STOPPING=1: No such file or directory"]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_process_id(workers, tmp_path):
    """The file has the id of the process that signals go to, and is removed."""
    path = tmp_path / "pid"
    path.write_text("999999999\n", encoding="ascii")
    with Command("serve", *workers, "--pid-file", str(path), *UDP, cwd=tmp_path) as command:
        command.until("by 2 workers" if workers else "listening on")
        assert path.read_text(encoding="ascii") == f"{command.process.pid}\n"
        other = service.pid_file(str(path))
        with pytest.raises(CommandError, match=f"the process {command.process.pid} of this file is running"), other:
            pass
        os.kill(int(path.read_text(encoding="ascii")), signal.SIGTERM)
        assert command.wait() == 0
    assert list(tmp_path.iterdir()) == []


def test_a_process_id_that_cannot_be_written(capsys, tmp_path):
    assert cli.main(["serve", "--pid-file", str(tmp_path / "no" / "pid"), *UDP]) == 1
    assert capsys.readouterr().err == f"cyasgi: --pid-file {tmp_path}/no/pid: No such file or directory\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--user", "nobody-of-that-name"], "--user nobody-of-that-name: accepted is the name or number of a user"),
        (["--user", "99999999999999999999"], "accepted is the name or number of a user of this machine"),
        (["--group", "nobody-of-that-name"], "--group nobody-of-that-name: accepted is the name or number of a group"),
        (["--user", "0", "--reload"], "--reload serves by one process"),
    ],
)
def test_nobody(arguments, says, capsys):
    assert says in refused(capsys, [*arguments, *UDP])


@pytest.fixture
def nobody(tmp_path):
    """The user nobody, who may use the interpreter and the directory of the test."""
    pwd = pytest.importorskip("pwd")
    if os.geteuid() != 0:
        pytest.skip("takes root")
    try:
        subprocess.run([sys.executable, "-c", "import cyasgi"], user="nobody", capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("the interpreter is closed to other users")
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    return pwd.getpwnam("nobody")


@pytest.mark.slow
def test_metrics_for_another_user(tmp_path, nobody):
    """They are served by the user, from a socket that is the user's, which goes with the command."""
    pytest.importorskip("prometheus_client")
    path = tmp_path / "metrics"
    with Command("serve", *UDP, "--user", "nobody", "--metrics", "unix:metrics", cwd=tmp_path) as command:
        command.until("serves .* by 1 worker")
        assert path.stat().st_uid == nobody.pw_uid
        for target in (b"/", b"/metrics", b"/readyz"):
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(PATIENCE)
                client.connect(str(path))
                client.sendall(b"GET %b HTTP/1.0\r\n\r\n" % target)
                assert client.recv(100).startswith(b"HTTP/1.1 200 ")
        assert command.stop(signal.SIGTERM) == 0
    assert not path.exists()


@pytest.mark.slow
def test_another_user(tmp_path, nobody):
    """The application has the rights of the user from its import on, and the Unix socket is the user's.

    Each worker has sockets of its own, which were bound before.
    """
    (tmp_path / "app.py").write_text(
        """
import os
IDS = os.getuid(), os.getgid(), os.getgroups(), os.environ["USER"]

async def application(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": repr((IDS, os.getresuid())).encode()})
""",
        encoding="utf-8",
    )
    listeners = ("--unix", "socket", "--http", "127.0.0.1:0", "--udp", "127.0.0.1:0")
    arguments = ("--user", "nobody", "--workers", "2", *listeners, "--lifespan", "off", "app:application")
    with Command("serve", *arguments, cwd=tmp_path, PYTHONDONTWRITEBYTECODE="1") as command:
        command.until("serves app:application by 2 workers: .*unix:socket")
        assert (tmp_path / "socket").stat().st_uid == nobody.pw_uid
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "socket"))
            client.settimeout(PATIENCE)
            client.send(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            answer = b""
            while data := client.recv(10_000):
                answer += data
        ids = answer.partition(b"\r\n\r\n")[2].decode()
        groups = os.getgrouplist("nobody", nobody.pw_gid)
        ours = (nobody.pw_uid, nobody.pw_gid, groups, "nobody")
        assert ids == repr((ours, (nobody.pw_uid,) * 3))
        assert command.stop(signal.SIGTERM) == 0


@pytest.mark.slow
def test_more_workers_of_another_user(tmp_path, nobody):
    """Nobody but root may bind once more what root has bound: that is said, and the pool goes on."""
    arguments = ("--user", "nobody", "--http", "127.0.0.1:0", "cyasgi.examples:hello")
    with Command("serve", *arguments, cwd=tmp_path, PYTHONDONTWRITEBYTECODE="1") as command:
        port = listening(command)
        command.until("by 1 worker: ")
        for _ in range(2):
            command.process.send_signal(signal.SIGTTIN)
            command.until(
                rf"cannot listen on tcp 127.0.0.1:{port} once more: .*: only who has bound the first sockets may bind "
                r"more, .* become 'nobody' since \(--user\); restart it with a larger --workers: the workers at work "
                "stay$"
            )
        assert get(port)[0] == 200
        command.process.send_signal(signal.SIGHUP)
        command.until("all workers have been replaced$")
        assert get(port)[0] == 200
        assert command.stop(signal.SIGTERM) == 0


@pytest.mark.slow
def test_environment_that_only_root_may_read(tmp_path, nobody):
    """Workers of another user have what root has read."""
    (tmp_path / "env").write_text("SECRET=1\n", encoding="utf-8")
    (tmp_path / "env").chmod(0o600)
    (tmp_path / "app.py").write_text(
        "import os, sys\nprint('SECRET', os.environ['SECRET'], file=sys.stderr)\nasync def application(*_): pass\n",
        encoding="utf-8",
    )
    arguments = ("--user", "nobody", "--env-file", "env", "--udp", "127.0.0.1:0", "app:application")
    with Command("serve", *arguments, cwd=tmp_path, PYTHONDONTWRITEBYTECODE="1") as command:
        command.until("^SECRET 1$")
        command.until("by 1 worker: ")
        command.process.send_signal(signal.SIGHUP)
        command.until("^SECRET 1$")
        command.until("all workers have been replaced$")
        assert command.stop(signal.SIGTERM) == 0


def test_environment_that_cannot_be_read(capsys, tmp_path, monkeypatch):
    (tmp_path / "env").write_bytes(b"A=\xff\n")
    assert cli.main(["serve", "--env-file", str(tmp_path / "env"), *UDP]) == 1
    assert capsys.readouterr().err.startswith(f"cyasgi: --env-file {tmp_path}/env: 'utf-8' codec can't decode")


def test_who_may_not_become_another(monkeypatch):
    """One clear error."""
    identity = service.Identity("somebody", 12345, 12345, "/")
    monkeypatch.setattr(
        os, "initgroups", lambda *_: (_ for _ in ()).throw(PermissionError(1, "Operation not permitted"))
    )
    with pytest.raises(CommandError, match="cannot become the user 'somebody': Operation not permitted; only root can"):
        service.become(identity, [])
    with contextlib.suppress(OSError):
        service.become(service.Identity("us", os.geteuid(), os.getegid(), "/"), [])


@pytest.mark.slow
def test_environment_from_a_file(tmp_path, monkeypatch):
    """Variables of the file are set unless they are there already, and options among them count."""
    (tmp_path / "env").write_text(
        "# comment\nCYASGI_SERVE_UDP='127.0.0.1:0'\nA=\"${B} file\"\nC=file\n", encoding="utf-8"
    )
    (tmp_path / "app.py").write_text(
        "import os, sys\nprint(os.environ['A'], os.environ['C'], file=sys.stderr)\nasync def application(*_): pass\n",
        encoding="utf-8",
    )
    with Command("serve", "--env-file", "env", "app:application", cwd=tmp_path, B="our", C="environment") as command:
        command.until("^our file environment$")
        command.listening()
        assert command.stop(signal.SIGTERM) == 0


@pytest.mark.slow
@pytest.mark.parametrize("how", [("--workers", "2"), ("--reload",)])
def test_environment_that_has_changed(tmp_path, how):
    """Processes that replace others have what the file says by then: new values, and no more what it says no more.

    Options stay as they were: the addresses have been bound by them.
    """
    code = """
import os, sys
print("told:", *(os.environ.get(name) for name in ("A", "B", "C", "D", "CYASGI_ENV_FILE")), file=sys.stderr, flush=True)
async def application(*_): pass
"""
    (tmp_path / "app.py").write_text(code, encoding="utf-8")
    (tmp_path / "env").write_text("CYASGI_SERVE_UDP=127.0.0.1:0\nA=1\nB=${A}1\nC=file\n", encoding="utf-8")
    with Command("serve", *how, "--env-file", "env", "app:application", cwd=tmp_path, C="environment") as command:
        command.until("^told: 1 11 environment None None$")
        command.until("by 2 workers" if "--workers" in how else "listening on udp")
        (tmp_path / "env").write_text(
            "CYASGI_SERVE_UDP=bad\nCYASGI_SERVE_LIFESPAN=bad\nA=2\nC=new\nD=4\n", encoding="utf-8"
        )
        command.process.send_signal(signal.SIGHUP)
        command.until("^told: 2 None environment 4 None$")
        command.until("all workers have been replaced$" if "--workers" in how else "listening on udp")
        assert command.stop(signal.SIGTERM) == 0


def test_environment_without_its_library(monkeypatch, capsys, tmp_path):
    (tmp_path / "env").touch()
    monkeypatch.setitem(sys.modules, "dotenv", None)
    assert cli.main(["serve", "--env-file", str(tmp_path / "env"), *UDP]) == 1
    assert capsys.readouterr().err == "cyasgi: --env-file needs python-dotenv: pip install 'cyasgi[env]'\n"
