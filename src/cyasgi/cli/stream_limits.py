"""The options of servers of streams alone."""

from __future__ import annotations

from .kinds import TCP, Limit

STREAMS = (
    Limit(
        ("--framing",),
        "framing",
        "FRAMING",
        "How messages are told apart: lines, lines:crlf, length:N or length:N:little (N bytes of length before each), "
        "netstring, cobs, resp (Redis), raw, or module:Class for a framing of your own.",
        TCP,
    ),
    Limit(
        ("--max-message-size",),
        "max_message_size",
        "BYTES",
        "Maximum size of a message without its frame; a larger one ends the connection.",
        TCP,
    ),
    Limit(
        ("--max-waiting-bytes",),
        "max_waiting_bytes",
        "BYTES",
        "Maximum size of all that waits for applications, or for the rest of a message, on all connections together.",
        TCP,
    ),
    Limit(
        ("--silence-timeout",),
        "silence_timeout",
        "SECONDS",
        "How long a client may send nothing after its first byte, or none.",
        TCP,
    ),
    Limit(
        ("--message-timeout",),
        "message_timeout",
        "SECONDS",
        "How long a message may take from its first byte to its last one, or none.",
        TCP,
    ),
)
