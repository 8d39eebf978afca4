"""Real proxies in front of a server of the tests: nginx, HAProxy and dnsdist, each in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import socket
import subprocess

from support.loops import PATIENCE
from support.real_clients import tool
from support.serving import in_time

NGINX = """
daemon off; master_process off; worker_processes 1; error_log stderr notice; pid {folder}/nginx.pid;
events {{ worker_connections 256; }}
http {{
    access_log off; client_body_temp_path {folder}/1; proxy_temp_path {folder}/2;
    fastcgi_temp_path {folder}/3; uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
{text}
}}
"""
SITE = """
    map $http_upgrade $connection_upgrade {{ default upgrade; "" ""; }}
    upstream app {{ server {upstream}; keepalive 1; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://app;
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            {lines}
        }}
    }}
"""

HAPROXY_DEFAULTS = """
global
    log stderr format raw daemon notice
defaults
    timeout connect 5s
    timeout client 30s
    timeout server 30s
"""
HAPROXY = """
frontend front
    mode {mode}
    bind 127.0.0.1:{port}
    {lines}
    default_backend back
backend back
    mode {mode}
    server app {upstream} {options}
"""

DNSDIST = """
setLocal("127.0.0.1:{port}")
setACL({{"127.0.0.0/8"}})
newServer({{address="{upstream}", useProxyProtocol=true, healthCheckMode="up"}})
"""


#: Ports that no system gives to whoever asks for any port: so nothing takes one between its choice and its use.
UNASSIGNED_PORTS = range(10_000, 32_000)


def free_port():
    """A port of 127.0.0.1, for TCP and UDP, that was free a moment ago: these programs are told theirs."""
    chance = random.SystemRandom()
    while True:
        port = chance.choice(UNASSIGNED_PORTS)
        with (
            socket.socket() as stream,
            socket.socket(type=socket.SOCK_DGRAM) as datagram,
            contextlib.suppress(OSError),
        ):
            stream.bind(("127.0.0.1", port))
            datagram.bind(("127.0.0.1", port))
            return port


def start(folder, arguments):
    with open(folder / "output", "wb") as output:
        return subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output)


@contextlib.asynccontextmanager
async def running(folder, port, *arguments):
    """A program that listens on this port, until it has ended; its address."""
    process = start(folder, arguments)

    def listens():
        assert process.poll() is None, (folder / "output").read_text(errors="replace")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        await in_time(listens)
        yield "127.0.0.1", port
        assert process.poll() is None, (folder / "output").read_text(errors="replace")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(process.wait, PATIENCE / 2)
        finally:
            process.kill()


def upstream_of(address):
    return f"unix:{address[0]}" if address[1] is None else "{}:{}".format(*address)


def nginx(folder, address, *lines):
    """nginx before the server at this address, with these lines in the location that passes requests on."""
    port = free_port()
    text = SITE.format(port=port, upstream=upstream_of(address), lines="\n".join(lines))
    return nginx_with(folder, port, text)


def nginx_with(folder, port, text):
    """nginx with this text in its block `http`, which has it listen on this port."""
    path = folder / "nginx.conf"
    path.write_text(NGINX.format(folder=folder, text=text))
    return running(folder, port, tool("nginx", "/usr/sbin/nginx"), "-p", str(folder), "-c", str(path), "-e", "stderr")


def haproxy(folder, address, options="", *lines, mode="http"):
    """HAProxy before the server at this address, with these options of its line `server`."""
    port = free_port()
    upstream = upstream_of(address).replace("unix:", "unix@")
    text = HAPROXY.format(mode=mode, port=port, upstream=upstream, options=options, lines="\n    ".join(lines))
    return haproxy_with(folder, port, text)


def haproxy_with(folder, port, text):
    """HAProxy with this configuration, which has it listen on this port."""
    path = folder / "haproxy.cfg"
    path.write_text(HAPROXY_DEFAULTS + text)
    return running(folder, port, tool("haproxy", "/usr/sbin/haproxy"), "-db", "-f", str(path))


def dnsdist(folder, address):
    """dnsdist before the DNS server at this address, with the PROXY protocol in each datagram."""
    port = free_port()
    path = folder / "dnsdist.conf"
    path.write_text(DNSDIST.format(port=port, upstream=upstream_of(address)))
    return running(folder, port, tool("dnsdist"), "--supervised", "--disable-syslog", "-C", str(path))
