"""What the applications of the frameworks do: their pages are their own, what they stream and note is a test's."""

from __future__ import annotations


class World:
    """What the application of a test knows of it, and what it notes."""

    def __init__(self, file):
        #: A file to be served, in a directory that is served too.
        self.file = file
        #: What the application went through.
        self.events = []

    async def parts(self):
        """What it streams."""
        yield b"one\n"
        yield b"two\n"
        yield b""
        yield b"three\n"

    async def background(self):
        """What it does when the response is sent."""
        self.events.append("background")
