"""Sans-I/O: bytes and addresses to ASGI scopes and messages, and back. No module imports asyncio, or anything else of
the package but `core.backend`."""
