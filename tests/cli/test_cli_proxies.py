"""The command behind real proxies: clients, their limits, and the access log."""

from __future__ import annotations

import re
import signal
import sys

import httpx
import pytest

from support.cli import listening
from support.real_clients import NO_TLS
from support.reverse_proxies import haproxy, nginx
from support.udp import Command

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="only there every address of 127.0.0.0/8 is the machine's"),
]

CLIENTS = ("127.0.0.2", "127.0.0.3")
LIMITS = ("--max-messages-per-second", "0.001", "--message-burst", "2", "--access-log")
FORWARDED_FOR = ("proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",)


async def ask(front, client):
    """The statuses of three requests of a client at this address, which says that it is somebody else."""
    transport = httpx.AsyncHTTPTransport(local_address=client, verify=NO_TLS)
    async with httpx.AsyncClient(transport=transport, base_url="http://{}:{}".format(*front), timeout=30) as one:
        answers = [await one.get("/", headers={"X-Forwarded-For": "203.0.113.9"}) for _ in range(3)]
    return [answer.status_code for answer in answers]


@pytest.mark.parametrize("proxy", ["nginx", "haproxy"])
@pytest.mark.parametrize("unix", [False, True])
@pytest.mark.few_combinations(1)
def test_behind_a_proxy(cy, run, tmp_path, proxy, unix):
    """Each client has its limit and its lines, over TCP and over a Unix socket, whatever it says of itself."""
    where = ("--unix", str(tmp_path / "s")) if unix else ("--http", "127.0.0.1:0")
    option = "--proxy-headers" if proxy == "nginx" else "--proxy-protocol"
    with Command("serve", *where, option, *LIMITS, "cyasgi.examples:hello", cwd=tmp_path) as command:
        if unix:
            command.until("listening on unix:")
            address = str(tmp_path / "s"), None
        else:
            address = "127.0.0.1", listening(command)

        async def main():
            start, arguments = (nginx, FORWARDED_FOR) if proxy == "nginx" else (haproxy, ["send-proxy"])
            async with start(tmp_path, address, *arguments) as front:
                return [await ask(front, client) for client in CLIENTS]

        assert run(main()) == [[200, 200, 429]] * 2
        assert command.stop(signal.SIGTERM) == 0
        written = command.process.stdout.read()
    for client in CLIENTS:
        assert len(re.findall(rf"^{re.escape(client)}:\d+ - - .* \"GET / HTTP/1\.1\" ", written, re.MULTILINE)) == 3
    assert "203.0.113.9" not in written and "127.0.0.1" not in written
