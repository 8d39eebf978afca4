"""The application that `test_apps_frameworks` describes, written with Django, and Channels for WebSockets."""

from __future__ import annotations

import asyncio
import hashlib
import json
from types import SimpleNamespace

import django
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.sessions import CookieMiddleware
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import (
    FileResponse,
    HttpResponse,
    HttpResponseRedirect,
    JsonResponse,
    QueryDict,
    StreamingHttpResponse,
)
from django.urls import path, re_path, reverse
from django.views.static import serve

if not settings.configured:
    settings.configure(
        ALLOWED_HOSTS=["*"],
        DATA_UPLOAD_MAX_MEMORY_SIZE=None,
        LOGGING_CONFIG=None,
        MIDDLEWARE=["django.middleware.http.ConditionalGetMiddleware", "django.middleware.common.CommonMiddleware"],
        ROOT_URLCONF=__name__,
        SECRET_KEY="none",
    )
    django.setup()

#: Django has one set of settings and routes for a process: what the views note and send is changed with each test.
the = SimpleNamespace(probe=None)
#: What runs in the background.
tasks = set()


async def page(request):
    return HttpResponse(f"Grüße, {request.GET.get('name', 'Welt')}", content_type="text/plain; charset=utf-8")


def in_thread(request):
    return HttpResponse("from a thread", content_type="text/plain")


async def rest_of_path(request, rest):
    return HttpResponse(rest, content_type="text/plain; charset=utf-8")


async def link(request):
    return HttpResponse(reverse("page"), content_type="text/plain")


async def stream(request):
    async def parts(probe):
        try:
            async for part in probe.parts():
                yield part
        finally:
            probe.events.append("stream closed")

    return StreamingHttpResponse(parts(the.probe), content_type="text/plain")


def raw(request):
    digest, size = hashlib.sha256(), 0
    while part := request.read(65_536):
        digest.update(part)
        size += len(part)
    return JsonResponse({"size": size, "sha256": digest.hexdigest()})


def form(request):
    file = request.FILES["file"]
    data = file.read()
    return JsonResponse(
        {
            "name": file.name,
            "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "note": request.POST["note"],
        }
    )


def file(request):
    return FileResponse(the.probe.file.open("rb"))


def static(request, name):
    return serve(request, name, document_root=the.probe.file.parent)


async def cookies(request):
    response = JsonResponse(dict(request.COOKIES))
    response.set_cookie("first", "1")
    response.set_cookie("second", "2", httponly=True)
    return response


async def redirect(request):
    return HttpResponseRedirect(reverse("page"))


async def nothing(request):
    return HttpResponse(status=204)


async def headers(request):
    return HttpResponse(headers={"x-echo": request.headers["x-echo"]})


async def error(request):
    raise ZeroDivisionError("an error of the application")


async def background(request):
    # Django has no such thing of its own; a task is what its users take.
    task = asyncio.create_task(the.probe.background())
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return HttpResponse("later", content_type="text/plain")


urlpatterns = [
    path("page", page, name="page"),
    path("thread", in_thread),
    re_path("^path/(.*)$", rest_of_path),
    path("link", link),
    path("stream", stream),
    path("raw", raw),
    path("form", form),
    path("file", file),
    path("static/<name>", static),
    path("cookies", cookies),
    path("redirect", redirect),
    path("nothing", nothing),
    path("headers", headers),
    path("error", error),
    path("background", background),
]


class EchoSocket(AsyncWebsocketConsumer):
    async def receive(self, text_data=None, bytes_data=None):
        await self.send(text_data=text_data, bytes_data=bytes_data)

    async def disconnect(self, code):
        the.probe.events.append(f"closed {code}")


class Room(AsyncWebsocketConsumer):
    async def connect(self):
        chosen = "chat" if "chat" in self.scope["subprotocols"] else None
        await self.accept(chosen, headers=[(b"x-room", b"open")])
        user = QueryDict(self.scope["query_string"])["user"]
        host = dict(self.scope["headers"])[b"host"].decode()
        await self.send(
            json.dumps(
                {
                    "room": self.scope["url_route"]["kwargs"]["room"],
                    "user": user,
                    "cookie": self.scope["cookies"]["session"],
                    "url": f"{self.scope['scheme']}://{host}/ws/rooms/lobby",
                }
            )
        )
        await self.close(4001, "Schluß")


class Refuse(AsyncWebsocketConsumer):
    async def connect(self):
        await self.close()


class ErrorSocket(AsyncWebsocketConsumer):
    async def receive(self, text_data=None, bytes_data=None):
        raise ZeroDivisionError("an error of the application")


class Push(AsyncWebsocketConsumer):
    async def connect(self):
        await self.accept()
        async for part in the.probe.parts():
            await self.send(bytes_data=part)
        await self.close()


sockets = [
    path("ws/echo", EchoSocket.as_asgi()),
    path("ws/rooms/<room>", Room.as_asgi()),
    path("ws/refuse", Refuse.as_asgi()),
    path("ws/error", ErrorSocket.as_asgi()),
    path("ws/push", Push.as_asgi()),
]


def build(probe):
    """The ASGI application. It notes in `probe.events` what it goes through."""
    the.probe = probe
    return ProtocolTypeRouter({"http": get_asgi_application(), "websocket": CookieMiddleware(URLRouter(sockets))})
