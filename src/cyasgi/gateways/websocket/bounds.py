"""What the twins of the usual course have in common with the rest: how much goes on before others get their turn."""

from __future__ import annotations

#: Bytes, or characters of text, of messages that wait for the application before no more are read.
QUEUED_BYTES = 65_536
#: Messages after which `send` lets the loop run others: to a client that takes them as fast, it need never wait.
YIELD_EVERY = 64
#: Messages, and bytes or characters of text in them, that one application receives in one turn of the loop, at most.
MESSAGES_A_TURN, BYTES_A_TURN = 32, 65_536
