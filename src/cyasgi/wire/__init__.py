"""Sans-I/O: bytes and addresses to ASGI scopes and messages, and back. Imports no asyncio, and nothing
else of ours but the name of the back end."""
