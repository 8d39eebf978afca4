"""Frames by their first bytes, phases, and limits: what the twins of the usual course have in common with the rest."""

from __future__ import annotations

#: Frames that one call of `next_message` parses while they complete no message, at most.
FRAMES_A_CALL = 256

#: First bytes of frames: FIN, the reserved bits, the opcode.
WHOLE_TEXT, WHOLE_BINARY, CLOSE, WHOLE_PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A
#: Whole messages, compressed ones too. Their payload is text where the last bit is set.
WHOLE = frozenset({WHOLE_TEXT, WHOLE_BINARY, 0xC1, 0xC2})
COMPRESSED = 0x40

#: States of `Frames`.
FRAMES_OPEN, FRAMES_CLOSING, FRAMES_CLOSED = range(3)

#: The phases of a WebSocket: the application has not answered; it answers with an HTTP response; messages go both ways;
#: a close frame was sent; it has ended.
CONNECTING, RESPONDING, OPEN, CLOSING, CLOSED = range(5)
PHASES = ("not accepted yet", "refused with a response", "open", "closing", "closed")

#: Those in which frames are read.
READING = (OPEN, CLOSING)
