"""ASGI for byte streams: the scope and the five messages, specified in the manner of ASGI; and framings, sans-I/O.

Stream connection scope
-----------------------

A scope stands for one connection: of TCP, of TLS, or to a Unix socket. What is a message in its bytes is the affair of
a framing (`cyasgi.wire.stream.framing.Framing`), so that the application sees whole messages and never a part of one.
A server may count several connections, one after the other, as one scope: those of a client that comes back.

* ``type`` (*Unicode string*) - ``"stream"``.
* ``asgi["version"]`` (*Unicode string*) - version of the ASGI specification, ``"3.0"``, or
  ``"2.0"`` for an application that is called as in ASGI 2.
* ``asgi["spec_version"]`` (*Unicode string*) - version of this text, ``"1.0"``.
* ``server`` (*two-item iterable*) - host (a numeric address) and port that the client has connected to; the path and
  None for a Unix socket.
* ``client`` (*two-item iterable or None*) - host and port of the client, or of the one that a proxy has named. A
  link-local IPv6 host carries its zone: ``fe80::1%2``. None for the client of a Unix socket.
* ``framing`` (*Unicode string*) - the name of the framing, as in ``"lines"``.
* ``extensions`` (*dict*) - with ``"tls"`` if the connection has TLS, as ASGI's TLS extension says.
* ``state`` (*dict*) - what the application's lifespan has left there; missing without one.

Receive - ``stream.connect`` event
----------------------------------

The first message, before anything that the client sends; and again each time that a client comes back.

* ``type`` (*Unicode string*) - ``"stream.connect"``.
* ``client``, ``server`` (*two-item iterable or None*) - of this connection: the scope's, unless the client came back.

Receive - ``stream.receive`` event
----------------------------------

* ``type`` (*Unicode string*) - ``"stream.receive"``.
* ``data`` (*byte string*) - one message without its frame: without its line end, or its length. It may be empty, but
  for the framing ``raw``. A framing of one's own may make any object of it.

Send - ``stream.send`` event
----------------------------

* ``type`` (*Unicode string*) - ``"stream.send"``.
* ``data`` (*byte string*) - one message; the framing puts its line end or length on it. A framing of one's own may
  accept any object.

When a send returns, the message is on its way, or waits in a bounded buffer for a client that takes it.

Send - ``stream.close`` event
-----------------------------

Close the connection when all that was sent has been taken. An application that returns does the same.

* ``type`` (*Unicode string*) - ``"stream.close"``.

Receive - ``stream.disconnect`` event
-------------------------------------

The client will send nothing more, or will not be read any further. All that it has sent before was received.

* ``type`` (*Unicode string*) - ``"stream.disconnect"``.
* ``reason`` (*Unicode string*) - why: ``"eof"`` (the client has closed its sending half, or the connection in order),
  ``"lost"`` (the connection broke), ``"timeout"`` (a deadline of the server), ``"malformed"`` (what came is no message,
  or one that is too long), ``"overloaded"`` (the server has no room for what came), ``"replaced"`` (the same client has
  another connection), ``"stopping"`` (the server stops) or ``"closed"`` (by ``stream.close``).
* ``detail`` (*Unicode string*) - the reason in words; may be empty.
* ``writable`` (*bool*) - whether what the application sends still reaches the client: a last answer after the client
  has closed its half, or a farewell when the server stops. The connection is closed when the application returns or
  asks for another message, except after ``"eof"``: then the application may go on sending for as long as it likes, and
  receives this message once more, with False, if the connection is lost.
* ``rest`` (*byte string*) - the beginning of a message that was cut short, if there is one.

What is sent after ``writable`` was False raises an error of the type OSError, which servers do not log.
"""

from .framing import Framing, FramingError
from .framings import NAMES, framing_named
from .messages import SPEC_VERSION, StreamClosed, check_message, scope_fields

__all__ = [
    "NAMES",
    "SPEC_VERSION",
    "Framing",
    "FramingError",
    "StreamClosed",
    "check_message",
    "framing_named",
    "scope_fields",
]
