"""What both twins of the usual course know: ends of streams, and how much goes on before others get their turn."""

from __future__ import annotations

#: What the application was told of the end of the connection that it reads: nothing; that nothing more comes; that what
#: it sends does not reach the client any more.
OPEN, ENDED, GONE = range(3)
#: Messages that an application receives, or sends, without waiting, before others get their turn.
YIELD_EVERY = 64
