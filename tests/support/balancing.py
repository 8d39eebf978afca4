"""What the tests of the balancer share: a clock, scopes, small applications, and a client of a scope."""

from __future__ import annotations

import asyncio
import importlib

from cyasgi.balancing import LoadBalancer

HTTP = {"type": "http", "method": "GET", "path": "/", "headers": [], "client": ("192.0.2.1", 5)}
POST = {**HTTP, "method": "POST"}
WEBSOCKET = {"type": "websocket", "path": "/", "headers": [], "client": ("192.0.2.1", 5)}
DATAGRAM = {"type": "datagram", "client": ("192.0.2.1", 5)}
CUSTOM = {"type": "custom"}
EMPTY = {"type": "http.request", "body": b"", "more_body": False}


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Client:
    """The server's side of one scope: what is to be received, and what was sent.

    When all messages have been received, `receive` waits, or raises `then`. `breaks_at` is the number of the message,
    from 1, whose sending finds the client gone.
    """

    def __init__(self, *messages, then=None, breaks_at=None):
        self.messages = list(messages)
        self.then = then
        self.breaks_at = breaks_at
        self.sent = []
        self.waiting = 0

    async def receive(self):
        if self.messages:
            return self.messages.pop(0)
        if self.then is not None:
            raise self.then
        self.waiting += 1
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.waiting -= 1

    async def send(self, message):
        if self.breaks_at == len(self.sent) + 1:
            raise OSError("the client has gone")
        self.sent.append(message)

    @property
    def status(self):
        """The status of the answer and its body."""
        start, *rest = self.sent
        assert start["type"] == "http.response.start"
        return start["status"], b"".join(message["body"] for message in rest)


async def ask(balancer, scope=HTTP, *messages, **options):
    """Runs the scope to its end; gives the client."""
    client = Client(*messages, **options)
    await balancer(scope, client.receive, client.send)
    return client


def answering(name, status=200):
    """An application that answers a request with its name."""

    async def application(scope, receive, send):
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": name.encode()})

    return application


def failing(error=None, after=()):
    """An application that sends these messages and then raises."""

    async def application(scope, receive, send):
        for message in after:
            await send(message)
        raise error or ZeroDivisionError("it failed")

    return application


class Held:
    """An application that waits until it is released, then answers; keeps how many run and were cancelled."""

    def __init__(self, name="held"):
        self.name = name
        self.go = asyncio.Event()
        self.running = self.cancelled = 0

    async def __call__(self, scope, receive, send):
        self.running += 1
        try:
            await self.go.wait()
            await answering(self.name)(scope, receive, send)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1


def tallies(balancer):
    """Of each application: running, succeeded, failed, abandoned; and that they add up."""
    found = {}
    for name, stats in balancer.stats()["applications"].items():
        counts = (stats["running"], stats["succeeded"], stats["failed"], stats["abandoned"])
        assert sum(counts) == stats["started"]
        found[name] = counts
    return found


def states(balancer):
    """The states of the circuit breakers."""
    return [stats["state"] for stats in balancer.stats()["applications"].values()]


def balancer_of(cy, *arguments, **options):
    """A LoadBalancer of this twin's package."""
    return importlib.import_module(f"{cy.__name__}.balancing").LoadBalancer(*arguments, **options)


def one(application, clock=None, **options):
    """A balancer over this application alone, out after one failure for ten seconds."""
    options = {"failure_threshold": 1, "failure_window": 1, "open_time": 10, **options}
    return LoadBalancer([application], clock=clock or Clock(), **options)
