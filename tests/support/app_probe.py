"""What a test gives to the application of a framework, and what the application notes for the test."""

from __future__ import annotations


class Probe:
    """A file and parts for the application to send, and the list of what it went through."""

    def __init__(self, file):
        #: A file to be served, in a directory that is served too.
        self.file = file
        #: What the application went through, in its own words.
        self.events = []

    async def parts(self):
        """What the application streams; a test may replace it."""
        yield b"one\n"
        yield b"two\n"
        yield b""
        yield b"three\n"

    async def background(self):
        """What the application does once the response is sent."""
        self.events.append("background")
