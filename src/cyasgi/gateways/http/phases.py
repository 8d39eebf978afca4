"""How far a response has come, and the sizes and counts that requests and responses are handled by."""

from __future__ import annotations

#: A body of this many bytes or more is not copied behind its head.
JOIN_LIMIT = 65_536

#: Bytes of a body that wait for the application before reading is paused.
HIGH_WATER = 65_536

#: Statuses whose responses have no body (RFC 9112 section 6.3).
BODILESS = (204, 304)

#: Bytes that an application streams without a break, each message counted as MESSAGE_WEIGHT more, before the event loop
#: runs others: a client that keeps up with an application that never waits must not keep the loop to itself.
YIELD_AFTER = 1_048_576
MESSAGE_WEIGHT = 4096

#: The phases of a response.
EXPECTED, STARTED, STREAMING, TRAILERS, COMPLETE = range(5)

#: What becomes of an application's trailers: there are none; they are dropped, as the client cannot take them; they are
#: sent.
NO_TRAILERS, DROPPING, SENDING = range(3)

#: Bytes of a request's body that nobody wants, read so that the connection can be used again.
DISCARDED = 65_536
