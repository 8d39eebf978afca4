"""What the command logs, and that it leaves the application's logging alone; in processes of its own."""

from __future__ import annotations

import re
import signal
import socket
import time

import pytest

from support.cli import get, listening
from support.udp import Command

pytestmark = pytest.mark.slow

LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d{3} \+0000 ([A-Z]+) (cyasgi[\w.]*): (.+)")

#: What applications do with logging when they are imported, and a request that logs.
SETUPS = {
    "nothing": "",
    "basic": 'logging.basicConfig(level="DEBUG", format="APP %(name)s %(message)s")',
    "own_handler": """
handler = logging.StreamHandler()
handler.setFormatter(logging.Formatter("APP %(name)s %(message)s"))
logging.getLogger("shop").addHandler(handler)
logging.getLogger("shop").setLevel("DEBUG")
""",
    "disables_others": """
logging.config.dictConfig({
    "version": 1,
    "formatters": {"plain": {"format": "APP %(name)s %(message)s"}},
    "handlers": {"plain": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "root": {"handlers": ["plain"], "level": "DEBUG"},
})
""",
    "takes_ours": """
logging.config.dictConfig({
    "version": 1,
    "formatters": {"plain": {"format": "APP %(name)s %(message)s"}},
    "handlers": {"plain": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "loggers": {"cyasgi": {"handlers": ["plain"], "level": "INFO"}},
})
""",
}
CODE = """
import logging, logging.config, os, time
%s

async def application(scope, receive, send):
    if scope["type"] == "http":
        os.environ["TZ"] = "Asia/Tokyo"
        time.tzset()
        logging.getLogger("shop").debug("a sale")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"sold"})
"""


@pytest.mark.parametrize("setup", SETUPS)
def test_the_root_logger_is_the_applications(tmp_path, setup):
    """Each line is written once: the server's in its format, unless the application has taken its loggers over, and the
    application's as the application has it."""
    (tmp_path / "shop.py").write_text(CODE % SETUPS[setup], encoding="utf-8")
    with Command("serve", "--http", "127.0.0.1:0", "shop:application", cwd=tmp_path) as command:
        assert get(listening(command)) == (200, "sold")
        assert command.stop(signal.SIGTERM) == 0
    told = [line for line in command.lines if "listening on" in line]
    assert len(told) == 1
    assert (LINE.fullmatch(told[0]) is None) is (setup == "takes_ours")
    sales = [line for line in command.lines if "a sale" in line]
    assert sales == ([] if setup in ("nothing", "takes_ours") else ["APP shop a sale"])


def test_both_logs_have_one_clock(tmp_path):
    """Lines and access log are in UTC, before and after the application sets a time zone, as Django does."""
    (tmp_path / "shop.py").write_text(CODE % "", encoding="utf-8")
    began = int(time.time())
    arguments = ["--http", "127.0.0.1:0", "--access-log"]
    with Command("serve", *arguments, "shop:application", cwd=tmp_path, TZ="America/New_York") as command:
        port = listening(command)
        assert get(port) == (200, "sold")
        assert get(port) == (200, "sold")
        assert command.stop(signal.SIGTERM) == 0
        accessed = command.process.stdout.read().splitlines()
    ended = int(time.time())
    utc = {time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(second)) for second in range(began, ended + 1)}
    matches = [LINE.fullmatch(line) for line in command.lines]
    assert all(matches), command.lines
    assert {match[1] for match in matches} <= utc
    assert "stopped after" in matches[-1][4]
    access = {time.strftime("[%d/%b/%Y:%H:%M:%S +0000]", time.gmtime(second)) for second in range(began, ended + 1)}
    assert len(accessed) == 2
    assert {re.search(r"\[.+?\]", line)[0] for line in accessed} <= access


@pytest.mark.parametrize("level", ["WARNING", "Warning", "warning"])
def test_levels_in_any_case(tmp_path, level):
    """As other servers' users write them."""
    # Not a free port: another program may take it, and a connection to it from itself succeeds with nobody listening.
    arguments = ["--unix", "app.sock", "--log-level", level]
    with Command("serve", *arguments, "cyasgi.examples:hello", cwd=tmp_path) as command:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with socket.socket(socket.AF_UNIX) as client:
                if client.connect_ex(str(tmp_path / "app.sock")) == 0:
                    break
            time.sleep(0.01)
        assert command.stop(signal.SIGTERM) == 0
        assert command.lines == []
